package net

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	stdnet "net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"

	"rempart/firstboot/filter"
	"rempart/profiles"
)

// How long an answer may take: long enough for a lost first packet to be sent again where one is expected, and long
// past any forwarding where none is. That nothing arrived is seen at the receiver, not concluded from the silence.
const (
	patience = 30 * time.Second
	silence  = 300 * time.Millisecond
)

// fill writes the addresses into a probe that only the lab knows.
func (l *lab) fill(p filter.Probe) filter.Probe {
	if !p.Dst.IsValid() {
		p.Dst = l.own[p.Link+version(p.Src)].Addr()
	}
	if !p.SeenDst.IsValid() {
		p.SeenDst = p.Dst
	}
	if !p.SeenSrc.IsValid() {
		p.SeenSrc = l.own[p.OutLink+version(p.Src)].Addr()
	}
	return p
}

// receiver is where a probe is to arrive.
func (l *lab) receiver(t *testing.T, p filter.Probe) *node {
	if p.To == profiles.Self {
		return l.fw
	}
	return l.host(t, p.OutLink, p.SeenDst)
}

// listen opens what the probes knock at, everywhere, so that silence is the filter's doing.
func (l *lab) listen(t *testing.T, probes []filter.Probe) {
	t.Helper()
	type door struct {
		at       *node
		protocol profiles.Protocol
		addr     netip.AddrPort
	}
	open := map[door]bool{}
	for _, p := range probes {
		p = l.fill(p)
		for _, d := range []door{{l.receiver(t, p), p.Protocol, netip.AddrPortFrom(p.SeenDst, p.SeenPort)},
			{l.fw, p.Protocol, netip.AddrPortFrom(p.Dst, p.Port)}} {
			if open[d] || p.Protocol == profiles.Ping || d.at == l.fw && !l.isOwn(d.addr.Addr()) {
				continue
			}
			open[d] = true
			if d.protocol == profiles.TCP {
				d.at.listenTCP(t, d.addr)
			} else {
				d.at.listenUDP(t, d.addr)
			}
		}
	}
}

func (l *lab) isOwn(a netip.Addr) bool {
	for _, own := range l.own {
		if own.Addr() == a {
			return true
		}
	}
	return slices.ContainsFunc(l.profile.Links, func(x profiles.Link) bool {
		return slices.ContainsFunc(x.Addresses, func(own netip.Prefix) bool { return own.Addr() == a })
	})
}

// listenTCP answers each connection with the address it came from.
func (n *node) listenTCP(t *testing.T, addr netip.AddrPort) {
	t.Helper()
	var ln *stdnet.TCPListener
	n.In(t, func() (err error) {
		ln, err = stdnet.ListenTCP("tcp", stdnet.TCPAddrFromAddrPort(addr))
		return err
	})
	t.Cleanup(func() { _ = ln.Close() })
	go func() {
		for {
			conn, err := ln.AcceptTCP()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_ = conn.SetDeadline(time.Now().Add(patience))
				fmt.Fprintln(conn, conn.RemoteAddr())
			}()
		}
	}()
}

// listenUDP sends each datagram back.
func (n *node) listenUDP(t *testing.T, addr netip.AddrPort) {
	t.Helper()
	var conn *stdnet.UDPConn
	n.In(t, func() (err error) {
		conn, err = stdnet.ListenUDP("udp", stdnet.UDPAddrFromAddrPort(addr))
		return err
	})
	t.Cleanup(func() { _ = conn.Close() })
	go func() {
		buffer := make([]byte, 2048)
		for {
			size, from, err := conn.ReadFromUDPAddrPort(buffer)
			if errors.Is(err, stdnet.ErrClosed) {
				return
			}
			if err == nil {
				_, _ = conn.WriteToUDPAddrPort(buffer[:size], from)
			}
		}
	}()
}

// ids are the source ports and echo identifiers of the tests' flows: never the same twice, so that connection
// tracking has no memory of them.
type ids struct {
	mu   sync.Mutex
	next uint16
}

func (i *ids) take() uint16 {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.next < 20000 || i.next > 60000 {
		i.next = 20000
	}
	i.next++
	return i.next
}

var flowIDs ids

// try sends one probe and returns whether it was answered.
func (l *lab) try(t *testing.T, p filter.Probe, id uint16, wait time.Duration) (answered bool, err error) {
	from := l.host(t, p.Link, p.Src)
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	defer cancel()
	switch p.Protocol {
	case profiles.TCP:
		return from.tryTCP(ctx, netip.AddrPortFrom(p.Src, id), netip.AddrPortFrom(p.Dst, p.Port))
	case profiles.UDP:
		return from.tryUDP(ctx, netip.AddrPortFrom(p.Src, id), netip.AddrPortFrom(p.Dst, p.Port))
	}
	return from.tryPing(ctx, p.Src, p.Dst, id)
}

func (n *node) tryTCP(ctx context.Context, src, dst netip.AddrPort) (answered bool, err error) {
	var conn stdnet.Conn
	err = n.Enter(func() (err error) {
		d := stdnet.Dialer{LocalAddr: stdnet.TCPAddrFromAddrPort(src)}
		conn, err = d.DialContext(ctx, "tcp", dst.String())
		return err
	})
	if err != nil {
		return false, nil // refused or lost: neither is an answer of the service
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	_ = conn.SetDeadline(deadline)
	line := make([]byte, 128)
	size, err := conn.Read(line)
	return err == nil && size > 0, nil
}

func (n *node) tryUDP(ctx context.Context, src, dst netip.AddrPort) (answered bool, err error) {
	var conn *stdnet.UDPConn
	if err := n.Enter(func() (err error) {
		conn, err = stdnet.DialUDP("udp", stdnet.UDPAddrFromAddrPort(src), stdnet.UDPAddrFromAddrPort(dst))
		return err
	}); err != nil {
		return false, err
	}
	defer conn.Close()
	buffer := make([]byte, 64)
	for ctx.Err() == nil {
		_, _ = conn.Write([]byte("knock")) // an ICMP error about an earlier datagram may come back here
		_ = conn.SetReadDeadline(time.Now().Add(silence / 3))
		if size, err := conn.Read(buffer); err == nil && string(buffer[:size]) == "knock" {
			return true, nil
		} else if !errors.Is(err, os.ErrDeadlineExceeded) {
			time.Sleep(silence / 3)
		}
	}
	return false, nil
}

func (n *node) tryPing(ctx context.Context, src, dst netip.Addr, id uint16) (answered bool, err error) {
	network, request, reply, proto := "ip4:icmp", icmp.Type(ipv4.ICMPTypeEcho), icmp.Type(ipv4.ICMPTypeEchoReply), 1
	if dst.Is6() {
		network, request, reply, proto = "ip6:ipv6-icmp", ipv6.ICMPTypeEchoRequest, ipv6.ICMPTypeEchoReply, 58
	}
	var conn *icmp.PacketConn
	if err := n.Enter(func() (err error) {
		conn, err = icmp.ListenPacket(network, src.String())
		return err
	}); err != nil {
		return false, err
	}
	defer conn.Close()
	out, err := (&icmp.Message{Type: request, Body: &icmp.Echo{ID: int(id), Seq: 1, Data: []byte("knock")}}).Marshal(nil)
	if err != nil {
		return false, err
	}
	buffer := make([]byte, 2048)
	for ctx.Err() == nil {
		if _, err := conn.WriteTo(out, &stdnet.IPAddr{IP: dst.AsSlice()}); err != nil {
			return false, nil // no route: the same as silence
		}
		until := time.Now().Add(silence / 2)
		for time.Now().Before(until) {
			_ = conn.SetReadDeadline(until)
			size, _, err := conn.ReadFrom(buffer)
			if err != nil {
				break
			}
			m, err := icmp.ParseMessage(proto, buffer[:size])
			if err == nil && m.Type == reply && size >= 8 && binary.BigEndian.Uint16(buffer[4:]) == id {
				return true, nil
			}
		}
	}
	return false, nil
}

// outcome is what became of a probe.
type outcome struct {
	probe    filter.Probe
	answered bool
	arrived  []arrival // at any host but the sender
}

// wrong says what is not as the probe demands, or nothing.
func (o outcome) wrong() string {
	p := o.probe
	switch {
	case p.Pass && !o.answered:
		return "got no answer"
	case p.Pass && p.To != profiles.Self && !slices.ContainsFunc(o.arrived, func(a arrival) bool {
		return p.SeenAs(a.src) && a.dst == p.SeenDst && a.port == p.SeenPort
	}):
		return fmt.Sprintf("arrived as %v; want %v -> %v port %d", o.arrived, p.SeenSrc, p.SeenDst, p.SeenPort)
	case !p.Pass && o.answered:
		return "was answered"
	case !p.Pass && len(o.arrived) > 0:
		return fmt.Sprintf("leaked: %v", o.arrived)
	}
	return ""
}

func (o outcome) String() string {
	p := o.probe
	want := "drop"
	if p.Pass {
		want = "pass"
	}
	return fmt.Sprintf("%s -> %s, %v -> %v %s %d, want %s (%s)",
		p.From, p.To, p.Src, p.Dst, p.Protocol, p.Port, want, p.Proves)
}

// nodes are the hosts and routers, each once.
func (l *lab) nodes() []*node {
	var out []*node
	for _, n := range l.hosts {
		if !slices.Contains(out, n) {
			out = append(out, n)
		}
	}
	return out
}

// run sends probes, many at a time, and returns what became of each.
func (l *lab) run(t *testing.T, probes []filter.Probe) []outcome {
	t.Helper()
	return l.runWithin(t, probes, patience)
}

// runWithin is run with another patience for the answers that must come.
func (l *lab) runWithin(t *testing.T, probes []filter.Probe, patience time.Duration) []outcome {
	t.Helper()
	const atOnce = 48
	out := make([]outcome, len(probes))
	errs := make([]error, len(probes))
	flows := make([]uint16, len(probes))
	var wg sync.WaitGroup
	slots := make(chan struct{}, atOnce)
	for i := range probes {
		out[i].probe, flows[i] = l.fill(probes[i]), flowIDs.take()
		l.host(t, probes[i].Link, probes[i].Src) // hosts are made here, not by many at once
	}
	for i := range probes {
		wg.Add(1)
		go func() {
			defer wg.Done()
			slots <- struct{}{}
			defer func() { <-slots }()
			wait := silence
			if probes[i].Pass {
				wait = patience
			}
			out[i].answered, errs[i] = l.try(t, out[i].probe, flows[i], wait)
		}()
	}
	wg.Wait()
	time.Sleep(silence / 3)
	hosts := l.nodes()
	for i := range out {
		if errs[i] != nil {
			t.Fatalf("%s: %v", out[i], errs[i])
		}
		for _, n := range hosts {
			for _, a := range n.seen.of(flows[i]) {
				// A gateway sees, and sends on, what its own hosts exchange with others; it is not their receiver.
				if a.protocol == out[i].probe.Protocol {
					out[i].arrived = append(out[i].arrived, a)
				}
			}
		}
	}
	return out
}

// check runs probes and reports each that is not as it should be.
func (l *lab) check(t *testing.T, probes []filter.Probe) {
	t.Helper()
	bad := 0
	for _, o := range l.run(t, probes) {
		if why := o.wrong(); why != "" {
			bad++
			t.Errorf("%s: %s", o, why)
		}
	}
	if bad > 0 {
		t.Logf("%d of %d probes are wrong", bad, len(probes))
		if rules, err := l.fw.Command("nft", "list", "counters").Output(); err == nil {
			t.Logf("%s", strings.TrimSpace(string(rules)))
		}
	}
}
