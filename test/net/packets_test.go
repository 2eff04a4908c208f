package net

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	stdnet "net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"rempart/firstboot/filter"
	"rempart/firstboot/filter/filtertest"
	"rempart/test/netns"
)

// packetsLab is a lab with the profile of what lines do to packets, its policy loaded.
func packetsLab(t *testing.T) *lab {
	t.Helper()
	p := filtertest.Packets()
	l := newLab(t, p)
	l.load(t, compile(t, p))
	return l
}

// flowKey are the ports of a packet as one direction has them.
type flowKey struct{ from, to uint16 }

// written is what a node sees in the headers of each packet: its class of service and its hops left.
type written struct {
	mu   sync.Mutex
	seen map[flowKey][][2]byte
}

// headers starts to remember what comes to a node.
func (n *node) headers(t *testing.T) *written {
	t.Helper()
	w := &written{seen: map[flowKey][][2]byte{}}
	n.Sniff(t, nil, unix.SOCK_DGRAM, func(b []byte, from *unix.SockaddrLinklayer) {
		var head [2]byte
		var body []byte
		switch {
		case from.Pkttype != unix.PACKET_HOST:
			return
		case len(b) > 24 && b[0]>>4 == 4:
			head, body = [2]byte{b[1] >> 2, b[8]}, b[int(b[0]&15)*4:]
		case len(b) > 44 && b[0]>>4 == 6:
			head, body = [2]byte{b[0]<<4>>2 | b[1]>>6, b[7]}, b[40:]
		}
		if len(body) < 4 {
			return
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		key := flowKey{binary.BigEndian.Uint16(body), binary.BigEndian.Uint16(body[2:])}
		w.seen[key] = append(w.seen[key], head)
	})
	return w
}

// of is the one thing that all packets of a flow show, and how many there were; it waits for the first.
func (w *written) of(key flowKey) (string, int) {
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(silence / 30) {
		w.mu.Lock()
		n := len(w.seen[key])
		w.mu.Unlock()
		if n > 0 {
			break
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	text := ""
	for i, head := range w.seen[key] {
		now := fmt.Sprintf("dscp %d ttl %d", head[0], head[1])
		if i > 0 && now != text {
			return text + ", then " + now, len(w.seen[key])
		}
		text = now
	}
	return text, len(w.seen[key])
}

// A line writes its class of service and its time to live into every packet of a connection, in both directions and
// both families, and what no line says stays as it was sent.
func TestWrittenIntoPackets(t *testing.T) {
	l := packetsLab(t)
	const sent = 0x28 // class of service 10 of what the hosts send
	mark := func(network, _ string, c syscall.RawConn) (err error) {
		level, option := unix.IPPROTO_IP, unix.IP_TOS
		if network == "tcp6" || network == "udp6" {
			level, option = unix.IPPROTO_IPV6, unix.IPV6_TCLASS
		}
		if e := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), level, option, sent) }); e != nil {
			return e
		}
		return err
	}
	for _, test := range []struct {
		what, network, src, dst string
		port                    uint16
		there, back             string
	}{
		{"ef, 64 hops", "udp", "10.1.0.7", "198.51.100.7", 5060, "dscp 46 ttl 64", "dscp 46 ttl 64"},
		{"ef, 64 hops", "udp", "fd00:1::7", "2001:db8::7", 5060, "dscp 46 ttl 64", "dscp 46 ttl 64"},
		{"cs0", "tcp", "10.1.0.7", "198.51.100.7", 80, "dscp 0 ttl 63", "dscp 0 ttl 63"},
		{"cs0", "tcp", "fd00:1::7", "2001:db8::7", 80, "dscp 0 ttl 63", "dscp 0 ttl 63"},
		{"nothing", "udp", "10.1.0.7", "198.51.100.7", 81, "dscp 10 ttl 63", "dscp 0 ttl 63"},
		{"nothing", "udp", "fd00:1::7", "2001:db8::7", 81, "dscp 10 ttl 63", "dscp 0 ttl 63"},
		{"without tracking", "udp", "10.1.0.7", "10.2.0.20", 514, "dscp 10 ttl 63", "dscp 10 ttl 63"},
		{"without tracking", "udp", "fd00:1::7", "fd00:2::20", 514, "dscp 10 ttl 63", "dscp 10 ttl 63"},
	} {
		src, dst := netip.MustParseAddr(test.src), netip.AddrPortFrom(netip.MustParseAddr(test.dst), test.port)
		link := "up0"
		if test.port == 514 {
			link = "srv0"
		}
		client, server := l.host(t, "in0", src), l.host(t, link, dst.Addr())
		there, back := server.headers(t), client.headers(t)
		id := flowIDs.take()
		var local stdnet.Addr
		if test.network == "udp" {
			server.listenUDP(t, dst)
			local = stdnet.UDPAddrFromAddrPort(netip.AddrPortFrom(src, id))
		} else {
			server.listenTCP(t, dst)
			local = stdnet.TCPAddrFromAddrPort(netip.AddrPortFrom(src, id))
		}
		client.In(t, func() error {
			conn, err := (&stdnet.Dialer{LocalAddr: local, Control: mark, Timeout: patience}).Dial(test.network, dst.String())
			if err != nil {
				return err
			}
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(patience))
			if _, err := conn.Write([]byte("knock")); err != nil {
				return err
			}
			_, err = conn.Read(make([]byte, 64))
			return err
		})
		for _, way := range []struct {
			what string
			w    *written
			key  flowKey
			want string
		}{{"there", there, flowKey{id, test.port}, test.there}, {"back", back, flowKey{test.port, id}, test.back}} {
			if got, n := way.w.of(way.key); got != way.want || n == 0 {
				t.Errorf("%s, %s to %v by %s: %d packets %s with %q; want %q", test.what, src, dst, test.network, n, way.what,
					got, way.want)
			}
		}
	}
}

// tracked tells whether the firewall's connection tracking knows a flow from a port.
func (l *lab) tracked(t *testing.T, port uint16) (known bool) {
	t.Helper()
	l.fw.In(t, func() error {
		for _, family := range []netlink.InetFamily{unix.AF_INET, unix.AF_INET6} {
			flows, err := netlink.ConntrackTableList(netlink.ConntrackTable, family)
			if err != nil {
				return err
			}
			for _, f := range flows {
				known = known || f.Forward.SrcPort == port || f.Forward.DstPort == port
			}
		}
		return nil
	})
	return known
}

// Lines without tracking carry flows that connection tracking never knows; what comes back passes by its source port
// alone, and nothing else does.
func TestWithoutTracking(t *testing.T) {
	l := packetsLab(t)
	for _, test := range []struct {
		link, src, out, dst string
		port                uint16
		tracked             bool
	}{
		{"in0", "10.1.0.7", "srv0", "10.2.0.20", 514, false},
		{"in0", "fd00:1::7", "srv0", "fd00:2::20", 6514, false},
		{"up0", "198.51.100.7", "", "203.0.113.2", 5353, false},
		{"in0", "fd00:1::7", "", "fd00:1::1", 5353, false},
		{"in0", "10.1.0.7", "up0", "198.51.100.7", 514, true}, // the control
	} {
		src, dst := netip.MustParseAddr(test.src), netip.AddrPortFrom(netip.MustParseAddr(test.dst), test.port)
		server := l.fw
		if test.out != "" {
			server = l.host(t, test.out, dst.Addr())
		}
		server.listenUDP(t, dst)
		id := flowIDs.take()
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		ok, err := l.host(t, test.link, src).tryUDP(ctx, netip.AddrPortFrom(src, id), dst)
		cancel()
		if err != nil || !ok {
			t.Errorf("%v to %v: answered %v, %v; want an answer", src, dst, ok, err)
		}
		if got := l.tracked(t, id); got != test.tracked {
			t.Errorf("%v to %v: tracked %v; want %v", src, dst, got, test.tracked)
		}
	}
	// What looks like an answer, and what does not quite.
	client := netip.MustParseAddr("10.1.0.7")
	inside := l.host(t, "in0", client)
	for _, test := range []struct {
		from string
		port uint16
		want bool
	}{{"10.2.0.20", 6514, true}, {"10.2.0.20", 6515, false}, {"10.2.0.21", 6514, false}} {
		before := len(inside.seen.of(test.port))
		src := netip.MustParseAddr(test.from)
		l.host(t, "srv0", src).In(t, func() error {
			conn, err := stdnet.DialUDP("udp", stdnet.UDPAddrFromAddrPort(netip.AddrPortFrom(src, test.port)),
				stdnet.UDPAddrFromAddrPort(netip.AddrPortFrom(client, 7000)))
			if err != nil {
				return err
			}
			defer conn.Close()
			_, err = conn.Write([]byte("answer"))
			return err
		})
		time.Sleep(silence)
		if got := len(inside.seen.of(test.port)) > before; got != test.want {
			t.Errorf("a datagram from port %d of %s arrives inside: %v; want %v", test.port, src, got, test.want)
		}
	}
	// A protocol without ports, both ways.
	server := l.host(t, "srv0", netip.MustParseAddr("10.2.0.20"))
	gre := []byte{0, 0, 8, 0, 0, 0, 0, 0} // RFC 2784, section 2.1
	for _, way := range []struct {
		from, to *node
		src, dst string
	}{{inside, server, "10.1.0.7", "10.2.0.20"}, {server, inside, "10.2.0.20", "10.1.0.7"}} {
		if !hears(t, way.from, way.to, way.src, way.dst, unix.IPPROTO_GRE, gre) {
			t.Errorf("gre from %s does not arrive at %s", way.src, way.dst)
		}
	}
	// The kernel's word that a packet is too large gets to the sender, though nobody knows of the flow.
	dev := l.fw.Device(t, "srv0")
	netns.Must(t, l.fw.Link.LinkSetMTU(dev, smallMTU))
	if !l.learnsMTU(t, inside, netip.MustParseAddrPort("10.2.0.20:514")) {
		t.Error("the sender of an untracked flow never learnt the path MTU")
	}
	netns.Must(t, l.fw.Link.LinkSetMTU(dev, 1500))
}

// learnsMTU tells whether a sender of large datagrams hears that they do not fit.
func (l *lab) learnsMTU(t *testing.T, from *node, to netip.AddrPort) bool {
	t.Helper()
	var conn *stdnet.UDPConn
	from.In(t, func() (err error) {
		conn, err = stdnet.DialUDP("udp", nil, stdnet.UDPAddrFromAddrPort(to))
		return err
	})
	defer conn.Close()
	rawConn, err := conn.SyscallConn()
	netns.Must(t, err)
	netns.Must(t, rawConn.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DO)
	}))
	netns.Must(t, err)
	for end := time.Now().Add(patience); time.Now().Before(end); {
		if _, err := conn.Write(make([]byte, 1400)); err != nil {
			return true
		}
	}
	return false
}

// entries is how many connections the firewall tracks.
func (l *lab) entries(t *testing.T) (n int) {
	t.Helper()
	l.fw.In(t, func() error {
		flows, err := netlink.ConntrackTableList(netlink.ConntrackTable, unix.AF_INET)
		n = len(flows)
		return err
	})
	return n
}

// A flood of SYNs under forged addresses reaches neither connection tracking nor the server where a proxy stands
// before it, be it by a forward, between zones or for the firewall itself; and does where none stands.
func TestSYNFlood(t *testing.T) {
	l := packetsLab(t)
	const flood = 500
	net, web := l.host(t, "up0", netip.MustParseAddr("198.51.100.7")), l.host(t, "srv0", netip.MustParseAddr("10.2.0.10"))
	for _, port := range []uint16{80, 8444} { // a refusal would end the connection for connection tracking too
		web.listenTCP(t, netip.AddrPortFrom(netip.MustParseAddr("10.2.0.10"), port))
	}
	forged := netip.MustParsePrefix("198.18.0.0/15") // RFC 2544: nobody's
	rule := netlink.NewRule()
	rule.Src, rule.Table, rule.Family = netns.IPNet(forged), farTable, unix.AF_INET
	netns.Must(t, net.Link.RuleAdd(rule))
	for _, test := range []struct {
		what, dst string
		port      uint16
		proxied   bool
	}{
		{"a forward", "203.0.113.2", 443, true},
		{"a line between zones", "10.2.0.10", 8443, true},
		{"a line to self", "203.0.113.2", 8006, true},
		{"a forward without proxy", "203.0.113.2", 80, false},
		{"a line without proxy", "10.2.0.10", 8444, false},
	} {
		dst := netip.MustParseAddr(test.dst)
		before := l.entries(t)
		var ids []uint16
		for i := range flood {
			id := flowIDs.take()
			ids = append(ids, id)
			src := netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)})
			net.raw(t, src, dst, unix.IPPROTO_TCP, syn(src, dst, id, test.port))
		}
		grown, arrived := l.entries(t)-before, 0
		for _, id := range ids {
			arrived += len(web.seen.of(id))
		}
		if test.proxied && (grown > flood/10 || arrived > 0) {
			t.Errorf("%s: %d SYNs made %d connections and %d reached the server; want none", test.what, flood, grown, arrived)
		}
		if !test.proxied && (grown < flood*9/10 || arrived < flood*9/10) {
			t.Errorf("%s: %d SYNs made %d connections and %d reached the server; want nearly all: the flood is none",
				test.what, flood, grown, arrived)
		}
	}
}

// Through a proxy a connection carries what it carries without one: some megabytes each way, in both families.
func TestThroughProxy(t *testing.T) {
	l := packetsLab(t)
	data := bytes.Repeat([]byte("0123456789abcdef"), 1<<17)
	for _, test := range []struct{ link, src, dst, serverLink, server string }{
		{"up0", "198.51.100.7", "203.0.113.2:443", "srv0", "10.2.0.10:8080"},
		{"up0", "2001:db8::7", "[2001:db8:1::2]:443", "srv0", "[fd00:2::10]:443"},
		{"up0", "198.51.100.7", "10.2.0.30:8443", "srv0", "10.2.0.30:8443"},
		{"up0", "2001:db8::7", "[fd00:2::30]:8443", "srv0", "[fd00:2::30]:8443"},
		{"in0", "10.1.0.7", "10.1.0.1:7443", "srv0", "10.2.0.12:7443"},
		{"in0", "10.1.0.7", "10.1.0.1:8006", "", "10.1.0.1:8006"},
	} {
		at := netip.MustParseAddrPort(test.server)
		server := l.fw
		if test.serverLink != "" {
			server = l.host(t, test.serverLink, at.Addr())
		}
		ln := listen(t, server, at.Addr(), at.Port())
		echoed := make(chan error, 1)
		go func() {
			conn, err := ln.Accept()
			if err == nil {
				_, err = io.Copy(conn, conn)
				conn.Close()
			}
			echoed <- err
		}()
		client := l.host(t, test.link, netip.MustParseAddr(test.src))
		var conn stdnet.Conn
		client.In(t, func() (err error) {
			d := stdnet.Dialer{Timeout: patience, LocalAddr: &stdnet.TCPAddr{IP: stdnet.ParseIP(test.src)}}
			conn, err = d.Dial("tcp", test.dst)
			return err
		})
		netns.Must(t, conn.SetDeadline(time.Now().Add(4*patience)))
		go func() {
			_, _ = conn.Write(data)
			_ = conn.(*stdnet.TCPConn).CloseWrite()
		}()
		back, err := io.ReadAll(conn)
		conn.Close()
		if err != nil || !bytes.Equal(back, data) {
			t.Errorf("%s by %s: %d of %d bytes came back, %v", test.src, test.dst, len(back), len(data), err)
		}
		ln.Close()
		if err := <-echoed; err != nil {
			t.Errorf("%s by %s: the server: %v", test.src, test.dst, err)
		}
	}
}

// Forwards that maps and sets stand for lead where each of them says.
func TestManyForwards(t *testing.T) {
	p := filtertest.Forwarding(136) // 17 of each kind: as few as are merged, and one
	l := newLab(t, p)
	probes := filter.Probes(p)
	l.listen(t, probes)
	rules := compile(t, p)
	if targets := strings.Count(rules.Text(), "map @targets/"); targets < 4 {
		t.Errorf("%d rules ask maps of targets; want 4 at least: nothing is shown", targets)
	}
	l.load(t, rules)
	l.check(t, probes)
}
