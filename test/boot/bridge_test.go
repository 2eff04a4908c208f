package boot

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"rempart/builder/virtualnet"
	"rempart/firstboot/contract"
	"rempart/test/rig"
)

// seenFrames keeps what comes out of the guest on a wire, by a name that a test gives to frames.
type seenFrames struct {
	mu   sync.Mutex
	seen map[string]int
}

func (s *seenFrames) observe(name func(frame []byte) string) virtualnet.Observer {
	return func(_ time.Time, frame []byte, fromGuest bool) {
		if what := name(frame); fromGuest && what != "" {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.seen[what]++
		}
	}
}

func (s *seenFrames) count(what string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seen[what]
}

// TestBridgeFilter puts hosts behind the members of a bridge: what a line allows passes both ways, with its answers,
// over IPv4 and IPv6, broadcasts too; what none allows does not, not even the question for a hardware address; frames
// with a tag and of strange protocols do not; and a connection lives on while the policy is loaded again.
func TestBridgeFilter(t *testing.T) {
	t.Parallel()
	m := rig.Build(t, "testdata/bridged.yaml")
	log := slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	var segments []*virtualnet.Segment
	var hosts []*virtualnet.Host
	var seen []*seenFrames
	for i := range 3 {
		s := virtualnet.NewSegment(string(rune('a'+i)), log)
		t.Cleanup(s.Close)
		f := &seenFrames{seen: map[string]int{}}
		s.Observe(f.observe(frameKind))
		h, err := s.NewHost(s.Name, net.HardwareAddr{2, 0, 0x5e, 0, 0x55, byte(i + 1)}, []netip.Prefix{
			netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 3, 0, byte(i + 1)}), 24),
			netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 3, 15: byte(i + 1)}), 64)})
		if err != nil {
			t.Fatal(err)
		}
		segments, hosts, seen = append(segments, s), append(hosts, h), append(seen, f)
	}
	g := m.Boot(t, rig.Options{Backends: wires(3)})
	for i, s := range segments {
		s.PlugGuest(g.Guest.Wires[i])
	}
	g.AwaitReady()
	client, server := hosts[0], hosts[1]
	addr := func(i int, v6 bool) netip.Addr {
		if v6 {
			return netip.AddrFrom16([16]byte{0xfd, 3, 15: byte(i + 1)})
		}
		return netip.AddrFrom4([4]byte{10, 3, 0, byte(i + 1)})
	}
	ctx, cancel := context.WithTimeout(t.Context(), rig.Patience)
	defer cancel()
	var open []net.Conn
	talk := func(c net.Conn) {
		t.Helper()
		const word = "over the bridge"
		back := make([]byte, len(word))
		if err := c.SetDeadline(time.Now().Add(rig.Patience)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(c, word); err != nil {
			t.Errorf("a connection: %v", err)
		} else if _, err := io.ReadFull(c, back); err != nil || string(back) != word {
			t.Errorf("a connection gives %q, %v; want %q", back, err, word)
		}
	}
	for _, v6 := range []bool{false, true} {
		at := netip.AddrPortFrom(addr(1, v6), 80)
		stop, err := server.EchoTCP(at)
		if err != nil {
			t.Fatal(err)
		}
		defer stop()
		if err := client.Ping(ctx, addr(0, v6), addr(1, v6), []byte("allowed"), time.Second/2); err != nil {
			t.Error(err)
		}
		c, err := client.DialTCP(ctx, addr(0, v6), at)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		talk(c)
		open = append(open, c)
	}

	// What must not pass is told from what is lost by a broadcast that must, sent behind it on the same wire.
	mac := func(i int) net.HardwareAddr { return net.HardwareAddr{2, 0, 0x5e, 0, 0x55, byte(i + 1)} }
	everybody := net.HardwareAddr{255, 255, 255, 255, 255, 255}
	injector := segments[0].NewInjector()
	send := func(frame []byte) {
		t.Helper()
		if err := injector.Send(frame); err != nil {
			t.Fatal(err)
		}
	}
	datagram := func(to net.HardwareAddr, from, at int, v6 bool, port uint16) virtualnet.Datagram {
		return virtualnet.Datagram{SrcMAC: mac(from), DstMAC: to, Src: netip.AddrPortFrom(addr(from, v6), 999),
			Dst: netip.AddrPortFrom(addr(at, v6), port)}
	}
	arp := append(bytes.Join([][]byte{everybody, mac(0), {8, 6, 0, 1, 8, 0, 6, 4, 0, 1}, mac(0), {10, 3, 0, 1}}, nil),
		make([]byte, 10)...)
	other := bytes.Clone(arp)
	binary.BigEndian.PutUint16(other[12:], 0x88b5) // IEEE 802: for experiments
	for _, v6 := range []bool{false, true} {
		plain := datagram(mac(1), 0, 1, v6, 67).UDP([]byte("denied:tagged"))
		for _, etherType := range []uint16{0x8100, 0x88a8} {
			send(bytes.Join([][]byte{plain[:12], binary.BigEndian.AppendUint16(nil, etherType), {0, 10}, plain[12:]}, nil))
		}
		send(datagram(mac(1), 0, 1, v6, 68).UDP([]byte("denied:port")))
		send(datagram(everybody, 0, 2, v6, 67).UDP([]byte("denied:cams"))) // to the servers it is allowed
	}
	send(other)
	send(arp)
	send(datagram(everybody, 0, 1, false, 67).UDP([]byte("allowed")))
	eventually(t, "a broadcast that a line allows", func() bool { return seen[1].count("allowed") > 0 })
	for where, f := range seen[1:] {
		for _, what := range []string{"denied:tagged", "denied:port", "tagged", "other"} {
			if n := f.count(what); n > 0 {
				t.Errorf("%d frames %q came out by e%d; want none", n, what, where+2)
			}
		}
	}
	if seen[2].count("denied:cams") > 0 || seen[2].count("allowed") > 0 {
		t.Error("what only servers may be sent came out to the cameras")
	}
	if seen[1].count("arp") == 0 || seen[2].count("arp") == 0 {
		t.Errorf("ARP from clients reached servers %d and cameras %d times; want both: they have dealings",
			seen[1].count("arp"), seen[2].count("arp"))
	}
	before := seen[2].count("arp")
	quiet, done := context.WithTimeout(ctx, 2*time.Second) // an answer to a ping that passes takes a hundredth
	if err := server.Ping(quiet, addr(1, false), addr(2, false), []byte("denied"), time.Second/2); err == nil {
		t.Error("servers reach cameras")
	}
	if err := server.Ping(quiet, addr(1, true), addr(2, true), []byte("denied"), time.Second/2); err == nil {
		t.Error("servers reach cameras over IPv6")
	}
	done()
	// What a server sent is behind: its answers to pings that came later have come out of the bridge.
	for _, v6 := range []bool{false, true} {
		if err := client.Ping(ctx, addr(0, v6), addr(1, v6), []byte("behind the denied"), time.Second/2); err != nil {
			t.Error(err)
		}
	}
	if seen[2].count("denied:cams") > 0 {
		t.Error("what servers may not send came out to the cameras")
	}
	if n := seen[2].count("arp"); n != before {
		t.Errorf("%d questions for hardware addresses passed from servers to cameras; want none", n-before)
	}

	child := childOf(g.AwaitReady(), "policy")
	g.Order("kill policy KILL")
	for range 20 {
		for _, c := range open {
			talk(c)
		}
	}
	g.Await("the policy child to be back", func(r contract.Report) bool {
		c := childOf(r, "policy")
		return r.Ready && c.Restarts > child.Restarts && c.State == "ready"
	})
	for _, c := range open {
		talk(c)
	}
	g.PowerOff()
}

// frameKind names the frames this test looks for.
func frameKind(frame []byte) string {
	switch binary.BigEndian.Uint16(frame[12:]) {
	case 0x8100, 0x88a8:
		return "tagged"
	case 0x88b5:
		return "other"
	case 0x0806:
		return "arp"
	}
	if d, err := virtualnet.Dissect(frame); err == nil && d.Protocol == virtualnet.UDP {
		return string(d.Payload)
	}
	return ""
}
