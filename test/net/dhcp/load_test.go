package dhcp_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"

	"rempart/firstboot/contract"
	"rempart/firstboot/dhcp"
	"rempart/firstboot/dhcp/lease"
	"rempart/test/netns"
)

func netnsAddr(t testing.TB, c *client, prefix string) {
	t.Helper()
	c.Addr(t, c.Device(t, c.dev), netip.MustParsePrefix(prefix))
}

// relay is a relay agent with any number of clients behind it.
type relay struct {
	conn *net.UDPConn
	mu   sync.Mutex
	// acked are the clients by the address that was acknowledged to them.
	acked  map[netip.Addr]string
	twice  []string // addresses acknowledged to two
	offers int
	naks   int
}

const relayed = "10.64.0.1" // of the agent, on the far side

// relay makes the agent 10.0.0.2, which answers offers by itself.
func (l *lab) relay() *relay {
	l.t.Helper()
	c := l.client("relay", "lan")
	netnsAddr(l.t, c, "10.0.0.2/24")
	netnsAddr(l.t, c, relayed+"/32")
	l.fw.Route(l.t, l.fw.Device(l.t, "lan"), netip.MustParsePrefix("10.64.0.0/16"), netip.MustParseAddr("10.0.0.2"), 0)
	r := &relay{acked: map[netip.Addr]string{}}
	c.In(l.t, func() (err error) {
		r.conn, err = net.ListenUDP("udp4", &net.UDPAddr{Port: 67})
		return err
	})
	l.t.Cleanup(func() { _ = r.conn.Close() })
	_ = r.conn.SetReadBuffer(4 << 20)
	go r.listen()
	return r
}

// message is one of the nth client.
func (r *relay) message(kind dhcpv4.MessageType, n int) *dhcpv4.DHCPv4 {
	m := &dhcpv4.DHCPv4{OpCode: dhcpv4.OpcodeBootRequest, HWType: iana.HWTypeEthernet,
		ClientHWAddr: net.HardwareAddr{0x52, 0x54, byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)},
		HopCount:     1, GatewayIPAddr: net.ParseIP(relayed).To4(), Options: dhcpv4.Options{53: {byte(kind)}}}
	binary.BigEndian.PutUint32(m.TransactionID[:], uint32(n))
	return m
}

func (r *relay) send(m *dhcpv4.DHCPv4) {
	to := &net.UDPAddr{IP: net.ParseIP(gateway), Port: 67}
	_, _ = r.conn.WriteToUDP(m.ToBytes(), to) // what is lost is asked for again, or was a flood
}

// discover begins for a client; the offer is taken as soon as it comes.
func (r *relay) discover(n int) { r.send(r.message(dhcpv4.MessageTypeDiscover, n)) }

func (r *relay) listen() {
	buf := make([]byte, 2048)
	for {
		n, _, err := r.conn.ReadFromUDP(buf)
		if err != nil {
			return
		}
		m, err := dhcpv4.FromBytes(bytes.Clone(buf[:n]))
		if err != nil {
			continue
		}
		a, _ := netip.AddrFromSlice(m.YourIPAddr.To4())
		client := string(m.ClientHWAddr)
		r.mu.Lock()
		switch m.MessageType() {
		case dhcpv4.MessageTypeOffer:
			r.offers++
			answer := r.message(dhcpv4.MessageTypeRequest, int(binary.BigEndian.Uint32(m.TransactionID[:])))
			answer.Options[50], answer.Options[54] = a.AsSlice(), m.Options[54]
			r.send(answer)
		case dhcpv4.MessageTypeAck:
			if other := r.acked[a]; other != "" && other != client {
				r.twice = append(r.twice, fmt.Sprintf("%v to %x and %x", a, other, client))
			}
			r.acked[a] = client
		case dhcpv4.MessageTypeNak:
			r.naks++
		}
		r.mu.Unlock()
	}
}

func (r *relay) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.acked)
}

func (l *lab) leaseFile() string { return filepath.Join(l.root, contract.DHCPDir, "leases4") }

// TestKilled kills the server again and again while clients get leases: every lease that was acknowledged, which is
// what the wire shows, is on the disk, and no address was acknowledged to two.
func TestKilled(t *testing.T) {
	l := newLab(t)
	r := l.relay()
	random := rand.New(rand.NewPCG(1, 2))
	next := 0
	for round := range 12 {
		s := l.start(profile(3600))
		before := r.count()
		stop := make(chan struct{})
		var sender sync.WaitGroup
		sender.Go(func() {
			for {
				select {
				case <-stop:
					return
				case <-time.After(200 * time.Microsecond):
					r.discover(next)
					next++
				}
			}
		})
		enough := before + 20 + random.IntN(200)
		l.eventually("acknowledgements", func() bool { return r.count() >= enough })
		s.kill()
		close(stop)
		sender.Wait()
		src, err := os.ReadFile(l.leaseFile())
		if err != nil {
			t.Fatal(err)
		}
		leases, damaged := lease.Read(src)
		onDisk := map[netip.Addr]string{}
		for _, one := range leases {
			onDisk[one.Addr] = one.Hardware
		}
		r.mu.Lock()
		for a, client := range r.acked {
			if onDisk[a] != client {
				t.Errorf("round %d: %v was acknowledged to %x; the disk has %x", round, a, client, onDisk[a])
			}
		}
		if len(r.twice) > 0 || damaged > 0 {
			t.Errorf("round %d: acknowledged twice: %v; %d damaged lines", round, r.twice, damaged)
		}
		r.mu.Unlock()
	}
	t.Logf("%d leases acknowledged in 12 lives of the server to %d clients", r.count(), next)
}

// TestStarvation: while a flood takes every address it can, clients that have a lease are served, the pool says that it
// is full, and the server stays within its memory.
func TestStarvation(t *testing.T) {
	l := newLab(t)
	r := l.relay()
	p := profile(8)
	p.DHCP[0].Subnets[1].Pools = ranges("10.64.1.0", "10.64.1.255")
	p.DHCP[0].Subnets[1].Lease = 3600
	s := l.start(p)
	known := l.client("known", "lan")
	known.begin("udhcpc")
	l.eventually("an address", func() bool { return known.address() != "" })
	had, acks := known.address(), l.seen.acked(known.mac)
	stop := make(chan struct{})
	var flood sync.WaitGroup
	flood.Go(func() {
		for n := 0; ; n++ {
			select {
			case <-stop:
				return
			default:
				r.discover(n)
				if n%50 == 0 {
					time.Sleep(5 * time.Millisecond) // 10,000 a second
				}
			}
		}
	})
	const pool = 256
	l.eventually("the pool to be full", func() bool { return r.count() == pool })
	l.eventually("the known client to renew twice", func() bool { return l.seen.acked(known.mac) >= acks+2 })
	close(stop)
	flood.Wait()
	if got := known.address(); got != had {
		t.Errorf("the known client has %s; want %s, which it had", got, had)
	}
	if !strings.Contains(s.log.String(), "the pool is full") {
		t.Error("nothing is said of the pool being full")
	}
	if lines := strings.Count(s.log.String(), "\n"); lines > 100 {
		t.Errorf("the flood made %d lines of log", lines)
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		var kib int64
		if n, _ := fmt.Sscanf(line, "VmHWM: %d kB", &kib); n == 1 {
			t.Logf("%d KiB at most", kib)
			if kib<<10 > dhcp.Spec().MemoryLimit {
				t.Errorf("the server took %d KiB; its bound is %d", kib, dhcp.Spec().MemoryLimit>>10)
			}
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.twice) > 0 {
		t.Errorf("acknowledged twice: %v", r.twice)
	}
}

// TestPerfdhcp: Kea's load generator gets all its leases; dhcping gets an answer.
func TestPerfdhcp(t *testing.T) {
	l := newLab(t)
	l.start(profile(3600))
	c := l.client("relay", "lan")
	netnsAddr(t, c, "10.0.0.2/24")
	netnsAddr(t, c, relayed+"/32")
	l.fw.Route(t, l.fw.Device(t, "lan"), netip.MustParsePrefix("10.64.0.0/16"), netip.MustParseAddr("10.0.0.2"), 0)
	// It takes the address it sends from for giaddr.
	out, err := c.Command(netns.Tool(t, "perfdhcp", "kea-admin"), "-4", "-r", "200", "-n", "600", "-R", "600", "-W",
		"2000000", "-l", relayed, gateway).CombinedOutput()
	if err != nil {
		t.Errorf("perfdhcp: %v\n%s", err, out)
	}
	if got := strings.Count(string(out), "drops: 0\n"); got < 2 {
		t.Errorf("perfdhcp does not report two exchanges without drops:\n%s", out)
	}
	out, err = c.Command(netns.Tool(t, "dhcping", "dhcping"), "-s", gateway, "-c", "10.0.0.2", "-h", "52:54:00:00:00:77",
		"-i").
		CombinedOutput()
	if err != nil || !strings.Contains(string(out), "Got answer from: "+gateway) {
		t.Errorf("dhcping: %v\n%s", err, out)
	}
}
