package net

import (
	stdnet "net"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"rempart/firstboot/filter"
	"rempart/firstboot/filter/filtertest"
	"rempart/test/netns"
)

// smallMTU is what one link of the firewall has, and only there, so that neither end of a connection could know.
const smallMTU = 1300

// clampCases are connections of the one-armed firewall through the link with the small MTU, in both families.
var clampCases = []struct {
	src, dst string
	headers  int // of IP and TCP, without options: RFC 9293, section 3.7.1
}{{"10.9.0.7", "198.51.100.7:4444", 40}, {"fd00:10:9::7", "[2001:db8::7]:4444", 60}}

// Connections announce segments that fit the link with the smallest MTU, and without the rule they do not.
func TestSegmentsFitTheWay(t *testing.T) {
	t.Parallel()
	p := filtertest.OneArmed()
	l := newLab(t, p)
	l.listen(t, filter.Probes(p))
	full := compile(t, p)
	l.load(t, full)
	for i, size := range l.segments(t) {
		if most := smallMTU - clampCases[i].headers; size == 0 || size > most {
			t.Errorf("segments from %s have %d bytes; want 1 to %d", clampCases[i].src, size, most)
		}
	}
	for _, m := range filtertest.Missing(full) {
		if full.Tables[m.Table].Chains[m.Chain].Name == "clamp" {
			l.load(t, m.In(full))
		}
	}
	for i, size := range l.segments(t) {
		if most := smallMTU - clampCases[i].headers; size <= most {
			t.Errorf("without the rule segments from %s have %d bytes; want more than %d", clampCases[i].src, size, most)
		}
	}
}

// clamped tells whether the segments of both families fit. That nothing passes is another probe's finding.
func (l *lab) clamped(t *testing.T) bool {
	for i, size := range l.segments(t) {
		if size > smallMTU-clampCases[i].headers {
			return false
		}
	}
	return true
}

// segments are the largest segments that the connections settle on while the link has its small MTU; 0: none came
// about.
func (l *lab) segments(t *testing.T) []int {
	t.Helper()
	const mtu = 1500
	link := l.fw.Device(t, "lan0")
	netns.Must(t, l.fw.Link.LinkSetMTU(link, smallMTU))
	defer func() { netns.Must(t, l.fw.Link.LinkSetMTU(link, mtu)) }()
	var out []int
	for _, x := range clampCases {
		out = append(out, l.segment(t, netip.MustParseAddr(x.src), netip.MustParseAddrPort(x.dst)))
	}
	return out
}

func (l *lab) segment(t *testing.T, src netip.Addr, dst netip.AddrPort) (size int) {
	t.Helper()
	var conn stdnet.Conn
	err := l.host(t, "dmz0", src).Enter(func() (err error) {
		d := stdnet.Dialer{Timeout: silence}
		conn, err = d.Dial("tcp", dst.String())
		return err
	})
	if err != nil {
		return 0
	}
	defer conn.Close()
	rawConn, err := conn.(*stdnet.TCPConn).SyscallConn()
	netns.Must(t, err)
	netns.Must(t, rawConn.Control(func(fd uintptr) {
		size, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_MAXSEG)
	}))
	netns.Must(t, err)
	return size
}
