package kernel

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"sync/atomic"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"rempart/firstboot/filter/filtertest"
	"rempart/test/netns"
)

// uplinks shows that the short way leads no connection to an uplink that the rules would keep it off, and to the other
// uplink when they let it.
func uplinks(t *testing.T) {
	p := filtertest.Homed()
	p.FlowTable = true
	s := build(t)
	s.apply(t, p)
	defer s.keep(t, p)()
	forwarded := s.counted(t)
	second := netns.NewNode(t, "second uplink")
	s.plug(t, "in0", s.in, []string{"10.1.0.1/16", "fd00:1::1/64"}, []string{"10.1.2.7/16", "fd00:1::2:7/64"})
	for _, staff := range []string{"10.1.1.7/16", "fd00:1::1:7/64"} {
		s.in.Addr(t, s.in.Device(t, "eth0"), netip.MustParsePrefix(staff))
	}
	s.plug(t, "up1", s.out, []string{"203.0.113.2/24", "2001:db8:1::2/64"}, []string{"203.0.113.1/24", "2001:db8:1::1/64"})
	s.plug(t, "up2", second, []string{"192.0.2.2/24", "2001:db8:2::2/64"}, []string{"192.0.2.1/24", "2001:db8:2::1/64"})
	echo(t, s.out, ":7000")
	for _, test := range []struct{ far, via1, via2, guest, staff string }{
		{"198.51.100.7", "203.0.113.1", "192.0.2.1", "10.1.2.7", "10.1.1.7"},
		{"2001:db8:9::7", "2001:db8:1::1", "2001:db8:2::1", "fd00:1::2:7", "fd00:1::1:7"},
	} {
		far, via := netip.MustParseAddr(test.far), netip.MustParseAddr(test.via1)
		for _, n := range []*netns.Node{s.out, second} {
			n.Addr(t, n.Device(t, "lo"), netns.Single(far))
		}
		first := s.fw.Device(t, "up1")
		s.fw.Metric(t, first, netns.Everything(far), via, 0, 100)
		s.fw.Metric(t, s.fw.Device(t, "up2"), netns.Everything(far), netip.MustParseAddr(test.via2), 0, 200)
		for _, who := range []struct {
			from  string
			leads bool
		}{{test.guest, false}, {test.staff, true}} {
			c, err := dial(s.in, who.from, net.JoinHostPort(test.far, "7000"))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			s.shortWay(t, who.from, c, forwarded)
			leaked := arrivals(t, second, c.port())
			dropped := s.dropped(t)
			netns.Must(t, s.fw.Link.RouteDel(&netlink.Route{LinkIndex: first.Attrs().Index,
				Dst: netns.IPNet(netns.Everything(far)), Gw: via.AsSlice(), Priority: 100}))
			if _, err := fmt.Fprintln(c, "moved"); err != nil {
				t.Fatal(err)
			}
			// What the guest sent is sent again until it arrives, and may be dropped once more while the staff is asked.
			judged := func() bool { return leaked.Load() > 0 || !who.leads && s.dropped(t) != dropped }
			if !within(patience, judged) {
				t.Fatalf("%s: what was sent after the route changed neither arrived nor was dropped\n%s", who.from, s.rules(t))
			}
			if got := leaked.Load() > 0; got != who.leads {
				t.Errorf("%s: left by the other uplink: %v; want %v", who.from, got, who.leads)
			}
			s.fw.Metric(t, first, netns.Everything(far), via, 0, 100)
		}
	}
}

// droppedGuests is what the rules drop of guests for the second uplink.
var droppedGuests = regexp.MustCompile(`counter fwd/guests/two \{\s+packets (\d+)`)

// dropped is its count.
func (s *street) dropped(t *testing.T) string {
	m := droppedGuests.FindStringSubmatch(s.rules(t))
	if m == nil {
		t.Fatalf("no counter of guests:\n%s", s.rules(t))
	}
	return m[1]
}

// arrivals counts the TCP packets from a port that come to a node.
func arrivals(t *testing.T, n *netns.Node, port int) *atomic.Int64 {
	var count atomic.Int64
	n.Sniff(t, nil, unix.SOCK_DGRAM, func(b []byte, from *unix.SockaddrLinklayer) {
		at, proto := 40, 6
		switch {
		case from.Pkttype != unix.PACKET_HOST || len(b) < 44:
			return
		case b[0]>>4 == 4:
			at, proto = int(b[0]&15)*4, 9
		}
		if b[proto] == unix.IPPROTO_TCP && int(binary.BigEndian.Uint16(b[at:])) == port {
			count.Add(1)
		}
	})
	return &count
}
