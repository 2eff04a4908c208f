package net

import (
	"context"
	"errors"
	stdnet "net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rempart/firstboot/filter"
	"rempart/firstboot/filter/filtertest"
	"rempart/profiles"
	"rempart/test/netns"
)

// A DHCP server's answer reaches the client although it belongs to no connection; the same on the inside does not,
// nor does anything else from the server.
func TestDHCPAnswers(t *testing.T) {
	t.Parallel()
	p := filtertest.Uplink()
	l := newLab(t, p)
	l.load(t, compile(t, p))
	var client *stdnet.UDPConn
	l.fw.In(t, func() (err error) {
		client, err = stdnet.ListenUDP("udp4", &stdnet.UDPAddr{Port: 68})
		return err
	})
	defer client.Close()
	hears := func(link, from string, port uint16, to string) bool {
		n := l.host(t, link, netip.MustParseAddr(from))
		n.In(t, func() error {
			conn, err := stdnet.DialUDP("udp4", stdnet.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(from), port)),
				stdnet.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(to), 68)))
			if err != nil {
				return err
			}
			defer conn.Close()
			_, err = conn.Write([]byte("offer"))
			return err
		})
		_ = client.SetReadDeadline(time.Now().Add(silence))
		_, _, err := client.ReadFromUDPAddrPort(make([]byte, 64))
		return err == nil
	}
	for _, test := range []struct {
		link, from string
		port       uint16
		to         string
		want       bool
	}{
		{"wan", "203.0.113.50", 67, lease.Addr().String(), true},
		{"wan", "203.0.113.50", 1067, lease.Addr().String(), false},
		{"lan", "10.10.10.7", 67, "10.10.10.1", false},
	} {
		if got := hears(test.link, test.from, test.port, test.to); got != test.want {
			t.Errorf("a datagram from %s port %d on %s reaches the DHCP client: %v; want %v", test.from, test.port,
				test.link, got, test.want)
		}
	}
}

// Lines from self bind the firewall's own packets; what no such line forbids it may send.
func TestOwnPackets(t *testing.T) {
	t.Parallel()
	p := filtertest.Wide() // self -> guests: tcp is dropped
	l := newLab(t, p)
	guest, server := netip.MustParseAddr("10.1.0.7"), netip.MustParseAddr("10.2.0.7")
	for link, a := range map[string]netip.Addr{"in.1": guest, "srv-0": server} {
		l.host(t, link, a).listenTCP(t, netip.AddrPortFrom(a, 7777))
		l.host(t, link, a).listenUDP(t, netip.AddrPortFrom(a, 7777))
	}
	l.load(t, compile(t, p))
	try := func(proto profiles.Protocol, src string, dst netip.Addr) bool {
		ctx, cancel := context.WithTimeout(context.Background(), 2*silence)
		defer cancel()
		from, to := netip.AddrPortFrom(netip.MustParseAddr(src), flowIDs.take()), netip.AddrPortFrom(dst, 7777)
		ask := l.fw.tryTCP
		if proto == profiles.UDP {
			ask = l.fw.tryUDP
		}
		ok, err := ask(ctx, from, to)
		if err != nil && !errors.Is(err, unix.EPERM) {
			t.Errorf("from the firewall to %v: %v", dst, err)
		}
		return ok
	}
	for _, test := range []struct {
		proto profiles.Protocol
		src   string
		dst   netip.Addr
		want  bool
	}{{profiles.TCP, "10.1.0.1", guest, false}, {profiles.UDP, "10.1.0.1", guest, true},
		{profiles.TCP, "10.2.0.1", server, true}} {
		if got := try(test.proto, test.src, test.dst); got != test.want {
			t.Errorf("the firewall reaches %v by %s: %v; want %v", test.dst, test.proto, got, test.want)
		}
	}
}

// The firewall's own "fragmentation needed" and "packet too big" about a known flow reach the sender: it sends them
// where its outer link is narrower than the inner one. The flow is UDP, which nobody clamps.
func TestPathMTU(t *testing.T) {
	t.Parallel()
	p := filtertest.OneArmed()
	l := newLab(t, p)
	l.load(t, compile(t, p))
	for _, test := range []struct{ src, dst string }{{"10.9.0.7", "198.51.100.7"}, {"fd00:10:9::7", "2001:db8::7"}} {
		src, dst := netip.MustParseAddr(test.src), netip.MustParseAddr(test.dst)
		sender, receiver := l.host(t, "dmz0", src), l.host(t, "lan0", dst)
		receiver.listenUDP(t, netip.AddrPortFrom(dst, 9999))
		const narrow = 1280
		netns.Must(t, l.fw.Link.LinkSetMTU(l.fw.Device(t, "lan0"), narrow))
		var conn *stdnet.UDPConn
		sender.In(t, func() (err error) {
			conn, err = stdnet.DialUDP("udp", nil, stdnet.UDPAddrFromAddrPort(netip.AddrPortFrom(dst, 9999)))
			return err
		})
		defer conn.Close()
		rawConn, err := conn.SyscallConn()
		netns.Must(t, err)
		level, option, discover := unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DO
		if dst.Is6() {
			level, option, discover = unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_DO
		}
		netns.Must(t, rawConn.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), level, option, discover) }))
		netns.Must(t, err)
		tooBig := false
		for range 5 {
			if _, err := conn.Write(make([]byte, 1400)); errors.Is(err, unix.EMSGSIZE) {
				tooBig = true
				break
			}
			time.Sleep(silence / 3)
		}
		if !tooBig {
			t.Errorf("%v never learnt that 1400 bytes to %v do not fit", src, dst)
		}
		netns.Must(t, l.fw.Link.LinkSetMTU(l.fw.Device(t, "lan0"), 1500))
	}
}

// Neighbour discovery works from the first packet on, with the closed rules too where the admin path is IPv6.
func TestNeighbourDiscovery(t *testing.T) {
	t.Parallel()
	p := filtertest.OneArmed()
	l := newLab(t, p)
	admin := pick(t, p, "the admin path by IPv6", func(x filter.Probe) bool {
		return x.Pass && x.To == profiles.Self && x.Port == filter.PortSSH && x.Src.Is6()
	})
	l.listen(t, []filter.Probe{admin})
	closed, err := filter.Closed(p)
	if err != nil {
		t.Fatal(err)
	}
	for _, rs := range []filter.Ruleset{closed, compile(t, p)} {
		for _, n := range append(l.nodes(), l.fw) {
			if out, err := n.Command("ip", "-6", "neigh", "flush", "all").CombinedOutput(); err != nil {
				t.Fatalf("flush: %v\n%s", err, out)
			}
		}
		l.load(t, rs)
		l.check(t, []filter.Probe{admin})
	}
}

// An ICMP error from far away about a known flow comes back through the firewall and its masquerading.
func TestErrorsComeBack(t *testing.T) {
	t.Parallel()
	p := filtertest.OneArmed()
	l := newLab(t, p)
	l.load(t, compile(t, p))
	for _, test := range []struct{ src, dst string }{{"10.9.0.7", "198.51.100.7"}, {"fd00:10:9::7", "2001:db8::7"}} {
		dst := netip.AddrPortFrom(netip.MustParseAddr(test.dst), 9) // nobody listens
		var conn *stdnet.UDPConn
		l.host(t, "dmz0", netip.MustParseAddr(test.src)).In(t, func() (err error) {
			conn, err = stdnet.DialUDP("udp", nil, stdnet.UDPAddrFromAddrPort(dst))
			return err
		})
		defer conn.Close()
		_, _ = conn.Write([]byte("knock"))
		_ = conn.SetReadDeadline(time.Now().Add(5 * silence))
		if _, err := conn.Read(make([]byte, 64)); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("from %s to a closed port of %s: %v; want connection refused", test.src, test.dst, err)
		}
	}
}
