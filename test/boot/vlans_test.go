package boot

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"rempart/builder/virtualnet"
	"rempart/firstboot/contract"
	"rempart/test/rig"
)

// etherTest is the first local experimental Ethernet type (IEEE 802, 9.2.2).
const etherTest = 0x88b5

// station is one end of a guest's wire: it sends frames as they are and keeps every one that it gets.
type station struct {
	name string
	mac  [6]byte
	conn net.Conn
	mu   sync.Mutex
	got  [][]byte
}

func newStation(t *testing.T, name string, number byte, conn net.Conn) *station {
	s := &station{name: name, mac: [6]byte{2, 0, 0x5e, 0, 0x77, number}, conn: conn}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, virtualnet.MaxFrame)
		for {
			frame, err := virtualnet.ReadFrame(conn, buf)
			if err != nil {
				return
			}
			s.mu.Lock()
			s.got = append(s.got, bytes.Clone(frame))
			s.mu.Unlock()
		}
	}()
	t.Cleanup(func() { conn.Close(); <-done })
	return s
}

// frame is a broadcast, behind the tags given; 0 is none.
func (s *station) frame(tag int, ether uint16, payload []byte) []byte {
	b := append(bytes.Repeat([]byte{0xff}, 6), s.mac[:]...)
	if tag != 0 {
		b = binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(b, ether8021Q), uint16(tag))
	}
	b = append(binary.BigEndian.AppendUint16(b, ether), payload...)
	const minimum = 60 // IEEE 802.3, 3.2.8, without the check sum
	return append(b, make([]byte, max(0, minimum-len(b)))...)
}

func (s *station) send(t *testing.T, frame []byte) {
	t.Helper()
	if _, err := s.conn.Write(virtualnet.AppendFrame(nil, frame)); err != nil {
		t.Fatalf("%s: %v", s.name, err)
	}
}

// heard lists the tags that a test frame with a payload came with: 0 for none.
func (s *station) heard(payload string) (tags []int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, frame := range s.got {
		tag, rest := 0, frame[12:]
		if binary.BigEndian.Uint16(rest) == ether8021Q {
			tag, rest = int(binary.BigEndian.Uint16(rest[2:])&0xfff), rest[4:]
		}
		if binary.BigEndian.Uint16(rest) == etherTest && bytes.HasPrefix(rest[2:], []byte(payload+"\x00")) {
			tags = append(tags, tag)
		}
	}
	return tags
}

// arp asks for an address, as RFC 826 does.
func (s *station) arp(sender, target netip.Addr) []byte {
	b := []byte{0, 1, 8, 0, 6, 4, 0, 1} // Ethernet, IPv4, lengths, request
	b = append(append(b, s.mac[:]...), sender.AsSlice()...)
	return append(append(b, make([]byte, 6)...), target.AsSlice()...)
}

// answers counts ARP replies for an address that came behind a tag.
func (s *station) answers(tag int, address netip.Addr) (n int) {
	const reply = 2
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, frame := range s.got {
		rest := frame[12:]
		if tag != 0 {
			if binary.BigEndian.Uint16(rest) != ether8021Q || int(binary.BigEndian.Uint16(rest[2:])&0xfff) != tag {
				continue
			}
			rest = rest[4:]
		}
		if binary.BigEndian.Uint16(rest) == 0x0806 && rest[9] == reply && bytes.Equal(rest[16:20], address.AsSlice()) {
			n++
		}
	}
	return n
}

// TestBridgeVLANs boots a guest with a bridge that sorts by VLAN and sends every kind of frame into every port: each
// must come out of exactly the ports it belongs to, with or without its tag.
func TestBridgeVLANs(t *testing.T) {
	t.Parallel()
	m := rig.Build(t, "testdata/bridge-vlans.yaml")
	g := m.Boot(t, rig.Options{Backends: wires(len(m.Manifest.Links))})
	ports := map[string]*station{}
	for i, name := range m.Manifest.Links {
		ports[name] = newStation(t, name, byte(i+1), g.Guest.Wires[i])
	}
	if r := g.AwaitReady(); len(r.Failures)+len(r.Warnings) > 0 {
		t.Errorf("report %+v; want every link well", r)
	}
	// What leaves by each port, by VLAN: "u" without a tag, "t" with it. p5 is the bond's active member; what far sends
	// has p7's own tag, 77, round it, here left out.
	leaves := map[int]map[string]string{
		10:   {"p1": "u", "p2": "t", "p4": "u", "p5": "t", "p7": "u"},
		20:   {"p2": "t", "p3": "u", "p4": "u"},
		4094: {"p2": "t"},
		15:   {"p5": "t"},
	}
	// Which VLAN a frame is in that enters by a port with a tag (0: without); what is not here is dropped.
	enters := map[string]map[int]int{
		"p1": {0: 10, 10: 10}, "p2": {10: 10, 20: 20, 4094: 4094}, "p3": {0: 20, 20: 20},
		"p4": {0: 10, 10: 10, 20: 20}, "p5": {10: 10, 15: 15},
	}
	var names []string
	for _, port := range []string{"p1", "p2", "p3", "p4", "p5"} {
		names = append(names, port)
		s := ports[port]
		for _, tag := range []int{0, 1, 10, 15, 20, 30, 4094} {
			s.send(t, s.frame(tag, etherTest, fmt.Appendf(nil, "%s %d\x00", port, tag)))
		}
	}
	// p1 to p5 speak last in VLAN 10, p3 in 20, p2 in both: what came through before them has arrived where they have.
	fence := func(port string, tag int, at ...string) {
		s, word := ports[port], fmt.Sprintf("fence %s %d", port, tag)
		s.send(t, s.frame(tag, etherTest, []byte(word+"\x00")))
		for _, name := range at {
			eventually(t, word+" at "+name, func() bool { return len(ports[name].heard(word)) > 0 })
		}
	}
	for range 2 { // the second time nothing is left in the guest that came before the first
		fence("p1", 0, "p2", "p4", "p5", "p7")
		fence("p2", 10, "p1", "p4", "p5", "p7")
		fence("p2", 20, "p3", "p4")
		fence("p3", 0, "p2", "p4")
		fence("p4", 10, "p1", "p2", "p5", "p7")
		fence("p5", 10, "p1", "p2", "p4", "p7")
	}
	for _, from := range names {
		for _, tag := range []int{0, 1, 10, 15, 20, 30, 4094} {
			vlan, passes := enters[from][tag]
			for _, to := range append(slices.Clone(names), "p6", "p7") {
				var want []int
				if how := leaves[vlan][to]; passes && from != to && how != "" {
					want = []int{0}
					if how == "t" {
						want = []int{vlan}
					}
					if to == "p7" {
						want = []int{77} // far's packets are p7's VLAN 77
					}
				}
				if got := ports[to].heard(fmt.Sprintf("%s %d", from, tag)); !slices.Equal(got, want) {
					t.Errorf("a frame with tag %d sent into %s came out of %s with tags %v; want %v", tag, from, to, got, want)
				}
			}
		}
	}

	// The guest itself takes part in VLAN 10 under the bridge's name and in 20 by a VLAN link.
	own10, own20 := netip.MustParseAddr("10.10.0.1"), netip.MustParseAddr("10.20.0.1")
	ask := func(port string, tag int, target netip.Addr) {
		s := ports[port]
		peer := target.As4()
		peer[3] = 9
		s.send(t, s.frame(tag, 0x0806, s.arp(netip.AddrFrom4(peer), target)))
	}
	for _, c := range []struct {
		port  string
		tag   int
		wrong netip.Addr
		right netip.Addr
	}{{"p1", 0, own20, own10}, {"p3", 0, own10, own20}, {"p2", 10, own20, own10}, {"p2", 20, own10, own20}} {
		ask(c.port, c.tag, c.wrong)
		ask(c.port, c.tag, c.right)
		eventually(t, fmt.Sprintf("%s's answer on %s, tag %d", c.right, c.port, c.tag), func() bool {
			return ports[c.port].answers(c.tag, c.right) > 0
		})
		if n := ports[c.port].answers(c.tag, c.wrong); n > 0 {
			t.Errorf("%s answers on %s, tag %d; want only %s to", c.wrong, c.port, c.tag, c.right)
		}
	}

	// Killed, the link child finds everything as it left it.
	before := childOf(g.AwaitReady(), "link")
	said := len(g.ConsoleText())
	g.Order("kill link KILL")
	g.Await("the link child to be back", func(r contract.Report) bool {
		c := childOf(r, "link")
		return r.Ready && c.Restarts > before.Restarts && c.State == "ready"
	})
	for _, again := range []string{"VLANs ", "make a ", "remove ", "member of ", "filtering"} {
		if strings.Contains(g.ConsoleText()[said:], again) {
			t.Errorf("after a restart %q was done again:\n%s", again, g.ConsoleText()[said:])
		}
	}
	g.PowerOff()
}
