package admin

import (
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"

	"rempart/firstboot/contract/ctl"
)

// Bounds of a ping.
const (
	pingCount = 3
	mostPings = 100
	pingEvery = time.Second
	pingWait  = 2 * time.Second // for the answer to the last
)

// runPing asks a host for echoes, and fails when none comes.
func runPing(ctx context.Context, _ *desk, r ctl.Request) error {
	flags := flag.NewFlagSet(r.Args[0], flag.ContinueOnError)
	count := flags.Int("count", pingCount, "how often")
	to, err := parseAddress(r, flags)
	if err != nil {
		return err
	}
	if *count < 1 || *count > mostPings {
		return usageError{fmt.Errorf("--count %d: want 1 to %d", *count, mostPings)}
	}
	p, err := newPinger(to)
	if err != nil {
		return err
	}
	defer p.conn.Close()
	defer context.AfterFunc(ctx, func() { _ = p.conn.SetReadDeadline(time.Now()) })()
	came := 0
	for i := range *count {
		if err := p.ask(i); err != nil {
			return err
		}
		wait := pingEvery
		if i == *count-1 {
			wait = pingWait
		}
		next := time.Now().Add(wait)
		for ctx.Err() == nil {
			seq, took, err := p.hear(next)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				break
			}
			if err != nil {
				return err
			}
			came++
			fmt.Fprintf(r.Stdout, "%v: seq %d, %.1f ms\n", to, seq, float64(took.Microseconds())/1000)
			if came == *count {
				break
			}
		}
		if ctx.Err() != nil || came == *count {
			break
		}
	}
	fmt.Fprintf(r.Stdout, "%d of %d came back\n", came, *count)
	if came == 0 {
		return fmt.Errorf("no answer from %v", to)
	}
	return nil
}

// pinger sends echo requests (RFC 792, RFC 4443) to one host.
type pinger struct {
	conn           *icmp.PacketConn
	to             netip.Addr
	id             int
	request, reply icmp.Type
	protocol       int // number of ICMP or ICMPv6
	sent           map[int]time.Time
}

func newPinger(to netip.Addr) (*pinger, error) {
	// Not the process id, which all pings of this process share: each would hear the answers of the others.
	p := &pinger{to: to.Unmap(), id: int(rand.Uint32() & 0xffff), sent: map[int]time.Time{}}
	network, local := "ip4:icmp", "0.0.0.0"
	p.request, p.reply, p.protocol = ipv4.ICMPTypeEcho, ipv4.ICMPTypeEchoReply, 1
	if p.to.Is6() {
		network, local = "ip6:ipv6-icmp", "::"
		p.request, p.reply, p.protocol = ipv6.ICMPTypeEchoRequest, ipv6.ICMPTypeEchoReply, 58
	}
	var err error
	if p.conn, err = icmp.ListenPacket(network, local); err != nil {
		return nil, fmt.Errorf("ping: %w", err)
	}
	return p, nil
}

func (p *pinger) ask(seq int) error {
	body := &icmp.Echo{ID: p.id, Seq: seq, Data: binary.BigEndian.AppendUint64(nil, uint64(seq))}
	b, err := (&icmp.Message{Type: p.request, Body: body}).Marshal(nil)
	if err != nil {
		return err
	}
	p.sent[seq] = time.Now()
	_, err = p.conn.WriteTo(b, &net.IPAddr{IP: p.to.AsSlice(), Zone: p.to.Zone()})
	return err
}

// hear waits for an answer to what was asked; each counts once.
func (p *pinger) hear(until time.Time) (seq int, took time.Duration, err error) {
	if err := p.conn.SetReadDeadline(until); err != nil {
		return 0, 0, err
	}
	b := make([]byte, 1500)
	for {
		n, from, err := p.conn.ReadFrom(b)
		if err != nil {
			return 0, 0, err
		}
		ip, ok := from.(*net.IPAddr)
		if !ok {
			continue
		}
		if a, ok := netip.AddrFromSlice(ip.IP); !ok || a.Unmap() != p.to.WithZone("") {
			continue
		}
		m, err := icmp.ParseMessage(p.protocol, b[:n])
		if err != nil || m.Type != p.reply {
			continue
		}
		echo, ok := m.Body.(*icmp.Echo)
		if !ok || echo.ID != p.id {
			continue
		}
		if at, ok := p.sent[echo.Seq]; ok {
			delete(p.sent, echo.Seq)
			return echo.Seq, time.Since(at), nil
		}
	}
}
