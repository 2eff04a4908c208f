package net

import (
	"context"
	"errors"
	stdnet "net"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rempart/firstboot/filter"
	"rempart/firstboot/filter/filtertest"
	"rempart/test/netns"
)

// guarded is a lab with the profile of other protocols, limits and refusals, its policy loaded, and one host each side.
func guarded(t *testing.T) (l *lab, out, in *node) {
	t.Helper()
	p := filtertest.Guarded()
	l = newLab(t, p)
	l.load(t, compile(t, p))
	return l, l.host(t, "up0", netip.MustParseAddr("198.51.100.7")), l.host(t, "srv0", netip.MustParseAddr("10.2.0.7"))
}

// hears tells whether a packet of a protocol that one node sends arrives at the other, as its own kernel sees it.
func hears(t *testing.T, from, to *node, src, dst string, protocol int, body []byte) bool {
	t.Helper()
	var conn *stdnet.IPConn
	to.In(t, func() (err error) {
		conn, err = stdnet.ListenIP("ip4:"+strconv.Itoa(protocol), &stdnet.IPAddr{IP: stdnet.ParseIP(dst)})
		return err
	})
	defer conn.Close()
	from.raw(t, netip.MustParseAddr(src), netip.MustParseAddr(dst), byte(protocol), body)
	_ = conn.SetReadDeadline(time.Now().Add(silence))
	_, _, err := conn.ReadFromIP(make([]byte, 256))
	if err != nil && !errors.Is(err, unix.EAGAIN) && !isTimeout(err) {
		t.Fatalf("protocol %d: %v", protocol, err)
	}
	return err == nil
}

func isTimeout(err error) bool {
	var timeout stdnet.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

// Protocols without ports, and ICMP types by themselves, pass where a line names them and nowhere else.
func TestOtherProtocols(t *testing.T) {
	t.Parallel()
	_, net, server := guarded(t)
	const outside, inside, self = "198.51.100.7", "10.2.0.7", "203.0.113.2"
	sctp := func(port uint16) []byte { // a common header and an INIT chunk, RFC 9260, sections 3.1 and 3.3.2
		b := []byte{0x30, 0x39, byte(port >> 8), byte(port), 0, 0, 0, 0, 0, 0, 0, 0,
			1, 0, 0, 20, 0, 0, 0, 1, 0, 0, 0xff, 0xff, 0, 1, 0, 1, 0, 0, 0, 1}
		sum := crc32c(b)
		b[8], b[9], b[10], b[11] = byte(sum), byte(sum>>8), byte(sum>>16), byte(sum>>24)
		return b
	}
	gre := []byte{0, 0, 8, 0, 0, 0, 0, 0} // RFC 2784, section 2.1
	timestamp := make([]byte, 20)         // RFC 792: type 13, code 0
	timestamp[0], timestamp[2], timestamp[3] = 13, 0xf2, 0xff
	mask := make([]byte, 12) // RFC 950: type 17
	mask[0], mask[2], mask[3] = 17, 0xee, 0xff
	for _, test := range []struct {
		what     string
		from, to *node
		src, dst string
		protocol int
		body     []byte
		want     bool
	}{
		{"gre", net, server, outside, inside, 47, gre, true},
		{"esp", net, server, outside, inside, 50, make([]byte, 16), true},
		{"ah", net, server, outside, inside, 51, make([]byte, 24), true},
		{"igmp", net, server, outside, inside, 2, make([]byte, 8), true},
		{"a protocol by number", net, server, outside, inside, 99, make([]byte, 8), true},
		{"its neighbour", net, server, outside, inside, 98, make([]byte, 8), false},
		{"sctp to the port", net, server, outside, inside, 132, sctp(2905), true},
		{"sctp to another port", net, server, outside, inside, 132, sctp(2906), false},
		{"timestamp request", server, net, inside, outside, 1, timestamp, true},
		{"timestamp request inwards", net, server, outside, inside, 1, timestamp, false},
	} {
		if test.to == net {
			test.dst = outside
		}
		if got := hears(t, test.from, test.to, test.src, test.dst, test.protocol, test.body); got != test.want {
			t.Errorf("%s from %s to %s arrives: %v; want %v", test.what, test.src, test.dst, got, test.want)
		}
	}
	// The firewall answers the one type and not the other.
	for _, test := range []struct {
		what string
		body []byte
		want bool
	}{{"timestamp", timestamp, true}, {"address mask", mask, false}} {
		var conn *stdnet.IPConn
		net.In(t, func() (err error) {
			conn, err = stdnet.ListenIP("ip4:icmp", &stdnet.IPAddr{IP: stdnet.ParseIP(outside)})
			return err
		})
		net.raw(t, netip.MustParseAddr(outside), netip.MustParseAddr(self), unix.IPPROTO_ICMP, test.body)
		_ = conn.SetReadDeadline(time.Now().Add(silence))
		_, _, err := conn.ReadFromIP(make([]byte, 256))
		if got := err == nil; got != test.want {
			t.Errorf("the firewall answers a %s request: %v; want %v", test.what, got, test.want)
		}
		_ = conn.Close()
	}
}

// crc32c is the checksum of SCTP, RFC 9260, appendix A, bit by bit.
func crc32c(b []byte) uint32 {
	crc := ^uint32(0)
	for _, c := range b {
		crc ^= uint32(c)
		for range 8 {
			crc = crc>>1 ^ 0x82f63b78&-(crc&1)
		}
	}
	return ^crc
}

// Each source has a rate of its own; in IPv6 the hosts of a /64 share one.
func TestLimitBySource(t *testing.T) {
	l, _, _ := guarded(t)
	const burst, tries = 4, 10 // burst as in the profile, and refilled once an hour
	count := func(src, dst string) (arrived int) {
		from, to := l.host(t, "up0", netip.MustParseAddr(src)), l.host(t, "srv0", netip.MustParseAddr(dst))
		var flows []uint16
		for range tries {
			id := flowIDs.take()
			flows = append(flows, id)
			from.In(t, func() error {
				conn, err := stdnet.DialUDP("udp", stdnet.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(src), id)),
					stdnet.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(dst), 82)))
				if err != nil {
					return err
				}
				defer conn.Close()
				_, err = conn.Write([]byte("knock"))
				return err
			})
		}
		time.Sleep(silence)
		for _, id := range flows {
			arrived += len(to.seen.of(id))
		}
		return arrived
	}
	for _, test := range []struct {
		src, dst string
		want     int
	}{
		{"198.51.100.11", "10.2.0.7", burst}, {"198.51.100.11", "10.2.0.7", 0}, {"198.51.100.12", "10.2.0.7", burst},
		{"2001:db8:5::1", "fd00:2::7", burst}, {"2001:db8:5::2", "fd00:2::7", 0}, {"2001:db8:6::1", "fd00:2::7", burst},
	} {
		if got := count(test.src, test.dst); got != test.want {
			t.Errorf("%d of %d flows from %s arrive; want %d", got, tries, test.src, test.want)
		}
	}
	if got, want := l.counter(t, "fwd/net/servers.limit"), 2*(tries-burst)+2*tries+2*(tries-burst)-0; got < want {
		t.Errorf("%d packets counted above the limit; want at least %d", got, want)
	}
}

// counter is how many packets a named counter of the firewall saw.
func (l *lab) counter(t *testing.T, name string) int {
	t.Helper()
	out, err := l.fw.Command("nft", "list", "counter", "inet", filter.TableName, name).Output()
	if err != nil {
		t.Fatalf("list counter %s: %v", name, err)
	}
	m := regexp.MustCompile(`packets (\d+)`).FindSubmatch(out)
	if m == nil {
		t.Fatalf("counter %s: %s", name, out)
	}
	n, err := strconv.Atoi(string(m[1]))
	netns.Must(t, err)
	return n
}

// A source may have so many connections and no more, and a new one once an old one is closed.
func TestConnectionsBySource(t *testing.T) {
	const most = 3 // as in the profile
	l, _, server := guarded(t)
	for _, test := range []struct{ src, dst string }{{"198.51.100.7", "10.2.0.7"}, {"2001:db8::7", "fd00:2::7"}} {
		dst := netip.AddrPortFrom(netip.MustParseAddr(test.dst), 81)
		if dst.Addr().Is6() {
			server = l.host(t, "srv0", dst.Addr())
		}
		var ln *stdnet.TCPListener
		server.In(t, func() (err error) {
			ln, err = stdnet.ListenTCP("tcp", stdnet.TCPAddrFromAddrPort(dst))
			return err
		})
		defer ln.Close()
		open := func() *stdnet.TCPConn {
			ctx, cancel := context.WithTimeout(context.Background(), 2*silence)
			defer cancel()
			var conn stdnet.Conn
			_ = l.host(t, "up0", netip.MustParseAddr(test.src)).Enter(func() (err error) {
				d := stdnet.Dialer{LocalAddr: &stdnet.TCPAddr{IP: stdnet.ParseIP(test.src)}}
				conn, err = d.DialContext(ctx, "tcp", dst.String())
				return err
			})
			if conn == nil {
				return nil
			}
			return conn.(*stdnet.TCPConn)
		}
		var all []*stdnet.TCPConn
		for range most + 2 {
			if conn := open(); conn != nil {
				defer conn.Close()
				all = append(all, conn)
			}
		}
		if len(all) != most {
			t.Fatalf("%d connections from %s; want %d", len(all), test.src, most)
		}
		netns.Must(t, all[0].SetLinger(0)) // a reset: closed for connection tracking at once
		netns.Must(t, all[0].Close())
		deadline := time.Now().Add(patience)
		for {
			if conn := open(); conn != nil {
				defer conn.Close()
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("no new connection from %s after an old one closed", test.src)
			}
		}
		if conn := open(); conn != nil {
			conn.Close()
			t.Errorf("%d connections from %s; want %d", most+1, test.src, most)
		}
	}
}

// hearErrors makes a socket tell of every ICMP error about its packets, which UDP otherwise does of some.
func hearErrors(network, _ string, c syscall.RawConn) (err error) {
	level, option := unix.IPPROTO_IP, unix.IP_RECVERR
	if strings.HasSuffix(network, "6") {
		level, option = unix.IPPROTO_IPV6, unix.IPV6_RECVERR
	}
	return errors.Join(c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), level, option, 1) }), err)
}

// What is refused is refused with the error the line names.
func TestRefusals(t *testing.T) {
	t.Parallel()
	l, _, _ := guarded(t)
	for _, test := range []struct {
		network, src, dst string
		port              uint16
		want              error
	}{
		{"tcp", "10.2.0.7", "198.51.100.7", 25, unix.ECONNREFUSED},
		{"udp", "10.2.0.7", "198.51.100.7", 25, unix.EHOSTUNREACH},
		{"udp", "10.2.0.7", "198.51.100.7", 26, unix.ENETUNREACH},
		{"udp", "10.2.0.7", "198.51.100.7", 27, unix.EHOSTUNREACH}, // administratively prohibited
		{"tcp", "fd00:2::7", "2001:db8::7", 25, unix.ECONNREFUSED},
		{"udp", "fd00:2::7", "2001:db8::7", 25, unix.EHOSTUNREACH},
		{"udp", "fd00:2::7", "2001:db8::7", 26, unix.ENETUNREACH},
		{"udp", "fd00:2::7", "2001:db8::7", 27, unix.EACCES},
	} {
		src, dst := netip.MustParseAddr(test.src), netip.AddrPortFrom(netip.MustParseAddr(test.dst), test.port)
		err := l.host(t, "srv0", src).Enter(func() error {
			conn, err := (&stdnet.Dialer{Timeout: 3 * silence, Control: hearErrors}).Dial(test.network, dst.String())
			if err != nil {
				return err
			}
			defer conn.Close()
			_, _ = conn.Write([]byte("knock"))
			_ = conn.SetReadDeadline(time.Now().Add(3 * silence))
			_, err = conn.Read(make([]byte, 8))
			return err
		})
		if !errors.Is(err, test.want) {
			t.Errorf("%s to %v: %v; want %v", test.network, dst, err, test.want)
		}
	}
	if l.counter(t, "fwd/servers/net.log") == 0 {
		t.Error("no packet was counted for the log")
	}
}
