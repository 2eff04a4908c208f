package link_test

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"

	"rempart/firstboot/contract"
	"rempart/profiles"
	"rempart/test/netns"
)

// autoUplink is a firewall whose wan listens to routers, beside an address of its own.
func autoUplink(accept profiles.Believed) *profiles.Profile {
	return &profiles.Profile{
		Name: "fw-auto",
		Links: []profiles.Link{
			{Name: "wan", MAC: macA, Auto: true, Addresses: pfx("198.51.100.2/24"), Accept: accept},
			{Name: "lan", MAC: macB, Addresses: pfx("10.10.10.1/24", "fd00:1::1/64")},
		},
		Zones: []profiles.Zone{{Name: "internet", External: true}, {Name: "inside"}},
	}
}

func autoLab(t *testing.T) *lab {
	l := newLab(t, "isp", "lan")
	l.wire("eth0", macA, "isp", "p0", "198.51.100.1/24", "2001:db8:1::1/64", "fe80::1/64")
	l.wire("eth1", macB, "lan", "p1", "10.10.10.2/24", "fd00:1::2/64")
	l.in("isp", "ip", "address", "add", "2001:db8:9::9/128", "dev", "lo")
	// The router has one link-local address, and keeps it over a flap.
	l.in("isp", "sysctl", "-qw", "net.ipv6.conf.p0.addr_gen_mode=1", "net.ipv6.conf.p0.keep_addr_on_down=1")
	for line := range strings.Lines(l.in("isp", "ip", "-o", "-6", "address", "show", "dev", "p0", "scope", "link")) {
		if a := strings.Fields(line)[3]; a != "fe80::1/64" {
			l.in("isp", "ip", "address", "del", a, "dev", "p0")
		}
	}
	return l
}

// autoAddress is that of macA (02:00:00:00:00:0a) in the subnet of isp, by RFC 4291.
const autoAddress = "2001:db8:1::ff:fe00:a/64"

// routerd starts dnsmasq as a router that advertises 2001:db8:1::/64.
func (l *lab) routerd(options ...string) *process {
	l.t.Helper()
	args := append([]string{netns.Tool(l.t, "dnsmasq", "dnsmasq-base"), "--keep-in-foreground", "--conf-file=/dev/null",
		"--user=root", "--port=0", "--interface=p0", "--bind-dynamic", "--log-facility=-", "--log-dhcp", "--enable-ra",
		"--pid-file=" + filepath.Join(l.root, "dnsmasq.pid"),
		"--dhcp-leasefile=" + filepath.Join(l.root, "dnsmasq.leases")}, options...)
	return l.background("isp", args...)
}

// TestRouterAdvertisements: dnsmasq is the router of wan.
func TestRouterAdvertisements(t *testing.T) {
	if macA != "02:00:00:00:00:0a" {
		t.Fatalf("macA = %s: autoAddress is that of another", macA)
	}
	l := autoLab(t)
	l.routerd("--dhcp-range=2001:db8:1::,ra-only,64,3600", "--ra-param=p0,mtu:1400,high,10,1200",
		"--dhcp-option=option6:dns-server,[2001:db8:9::53]", "--dhcp-option=option6:domain-search,isp.example")
	g := l.start(autoUplink(profiles.Believed{}))
	g.waitReady()
	l.eventually("the advertised address", patience, func() bool {
		return slices.Contains(l.addresses("wan"), autoAddress)
	})
	const gateway = "default via fe80::1 dev wan proto ra metric 1024 pref medium"
	l.eventually("the default route", patience, func() bool { return slices.Contains(l.routes("-6"), gateway) })
	l.eventually("the advertised MTU", patience, func() bool { return l.sysctl("ipv6/conf/wan/mtu") == "1400" })
	if got := l.sysctl("ipv6/conf/wan/accept_ra"); got != "0" {
		t.Errorf("accept_ra = %s; want 0: the kernel's own client stays off", got)
	}
	if got := l.sysctl("ipv6/conf/lan/mtu"); got != "1500" {
		t.Errorf("the MTU of lan is %s; want 1500", got)
	}
	l.in("fw", "ping", "-6", "-c1", "-W5", "2001:db8:9::9")
	resolv, err := os.ReadFile(filepath.Join(l.root, contract.ResolvPath))
	if want := "search isp.example\nnameserver 2001:db8:9::53\n"; err != nil || !strings.HasSuffix(string(resolv), want) {
		t.Errorf("resolv.conf = %q, %v; want it to end in %q", resolv, err, want)
	}

	// What somebody takes away comes back, and what somebody adds goes: it is wanted like any other.
	l.in("fw", "ip", "-6", "route", "del", "default", "dev", "wan")
	l.in("fw", "ip", "-6", "address", "add", "2001:db8:bad::1/64", "dev", "wan")
	l.eventually("the route back and the stranger gone", patience, func() bool {
		return slices.Contains(l.routes("-6"), gateway) && !slices.Contains(l.addresses("wan"), "2001:db8:bad::1/64")
	})

	// Killed and started again it finds nothing to do: not one packet is lost.
	watch := l.background("fw", "ping", "-6", "-i0.05", "-W1", "2001:db8:9::9")
	g.kill(syscall.SIGKILL)
	g = l.start(autoUplink(profiles.Believed{}))
	g.waitReady()
	if log := g.log.String(); strings.Contains(log, "remove ") || strings.Contains(log, "wan: route") {
		t.Errorf("after a restart the child changed something:\n%s", log)
	}
	_ = watch.cmd.Process.Signal(syscall.SIGINT)
	l.eventually("ping's count", patience, func() bool { return strings.Contains(watch.out.String(), "packet loss") })
	if !strings.Contains(watch.out.String(), " 0% packet loss") {
		t.Errorf("over a restart of the child packets were lost:\n%s", watch.out.String())
	}

	// A flap asks again; the address and the route are back.
	l.in("isp", "ip", "link", "set", "p0", "down")
	g.waitLink("wan", "down", func(r contract.LinkReport) bool { return !r.Up })
	l.in("isp", "ip", "link", "set", "p0", "up")
	l.eventually("address and route after a flap", patience, func() bool {
		return slices.Contains(l.addresses("wan"), autoAddress) && slices.Contains(l.routes("-6"), gateway)
	})
}

// advertise sends router advertisements made by hand from the link-local address of p0 in the namespace isp.
func (l *lab) advertise(from string, lifetime uint16, options ...[]byte) {
	l.t.Helper()
	body := []byte{1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0} // hop limit 1, flags, lifetime, timers
	binary.BigEndian.PutUint16(body[2:], lifetime)
	b, err := (&icmp.Message{Type: ipv6.ICMPTypeRouterAdvertisement,
		Body: &icmp.RawBody{Data: slices.Concat(append([][]byte{body}, options...)...)}}).Marshal(nil)
	if err != nil {
		l.t.Fatal(err)
	}
	out := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		out <- l.rawICMP6("isp", "p0", from, b)
	}()
	if err := <-out; err != nil {
		l.t.Fatal(err)
	}
}

func (l *lab) rawICMP6(space, dev, from string, b []byte) error {
	ns, err := os.Open("/run/netns/" + l.space(space))
	if err != nil {
		return err
	}
	defer func() { _ = ns.Close() }()
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("entering %s: %w", space, err)
	}
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMPV6)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	if err := unix.BindToDevice(fd, dev); err != nil {
		return err
	}
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, 255); err != nil {
		return err
	}
	req, err := unix.NewIfreq(dev)
	if err != nil {
		return err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, req); err != nil {
		return err
	}
	index := req.Uint32()
	if err := unix.Bind(fd, &unix.SockaddrInet6{Addr: netip.MustParseAddr(from).As16(), ZoneId: index}); err != nil {
		return fmt.Errorf("binding to %s: %w", from, err)
	}
	return unix.Sendto(fd, b, 0, &unix.SockaddrInet6{Addr: netip.MustParseAddr("ff02::1").As16(), ZoneId: index})
}

func prefixInfo(p string, flags byte, valid, preferred uint32) []byte {
	b := []byte{3, 4, byte(netip.MustParsePrefix(p).Bits()), flags}
	b = binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(b, valid), preferred)
	return append(append(b, 0, 0, 0, 0), netip.MustParsePrefix(p).Addr().AsSlice()...)
}

// TestHostileRouter sends what no router should. The inside stays where it is, and what is well formed of it works.
func TestHostileRouter(t *testing.T) {
	l := autoLab(t)
	g := l.start(autoUplink(profiles.Believed{Prefixes: pfx("2001:db8::/32")}))
	g.waitLink("wan", "waiting for a router", func(r contract.LinkReport) bool {
		return r.Up && strings.Contains(r.Error, "no router advertisement yet")
	})
	// What is sent before it listens it does not hear; this router says everything once.
	l.eventually("a packet socket of IPv6", patience, func() bool {
		return strings.Contains(l.in("fw", "cat", "/proc/net/packet"), " 86dd ")
	})
	const both = 0xc0 // on-link, autonomous
	for _, options := range [][][]byte{
		{prefixInfo("fd00:1::/64", both, 7200, 3600)},   // the inside's
		{prefixInfo("fd00::/16", 0x80, 7200, 3600)},     // around it
		{prefixInfo("2001:bad::/64", both, 7200, 3600)}, // not what the profile allows
		{prefixInfo("::/0", 0x80, 7200, 3600)},
		{prefixInfo("2001:db8:5::/80", both, 7200, 3600)},
		{{5, 1, 0, 0, 0, 0, 0, 68}},                                       // an MTU below IPv6's
		{{5, 1, 0, 0, 0xff, 0xff, 0, 0}},                                  // and far above
		{{25, 0}},                                                         // a length of nothing
		{{25, 40, 0, 0, 0, 0, 255, 255}},                                  // longer than the packet
		{{31, 2, 0, 0, 0, 0, 255, 255, 0xc0, 0, 3, 'a', '\n', 'b', 0, 0}}, // a search domain of nonsense
	} {
		l.advertise("fe80::1", 0, options...)
	}
	// The decent one comes last: when it is there, all before have been read.
	l.advertise("fe80::1", 1800, prefixInfo("2001:db8:1::/64", both, 7200, 3600))
	g.waitReady()
	g.waitLink("wan", "its address", func(r contract.LinkReport) bool { return slices.Contains(r.Addresses, autoAddress) })
	if got, want := l.addresses("wan"), []string{"198.51.100.2/24", autoAddress}; !slices.Equal(got, want) {
		t.Errorf("addresses of wan = %v; want %v", got, want)
	}
	routes := []string{"default via fe80::1 dev wan proto ra metric 1024 pref medium"}
	if got, want := l.routes("-6"), routes; !slices.Equal(got, want) {
		t.Errorf("IPv6 routes = %v; want %v", got, want)
	}
	for path, want := range map[string]string{"ipv6/conf/wan/mtu": "1500", "ipv6/conf/wan/hop_limit": "64"} {
		if got := l.sysctl(path); got != want {
			t.Errorf("%s = %s; want %s", path, got, want)
		}
	}
	l.in("fw", "ping", "-6", "-c1", "-W5", "fd00:1::2")
	// One forged packet does not take the address: below two hours nothing shortens its life.
	l.advertise("fe80::1", 1800, prefixInfo("2001:db8:1::/64", both, 0, 0), []byte{5, 1, 0, 0, 0, 0, 5, 20})
	l.eventually("the MTU of the same advertisement", patience, func() bool {
		return l.sysctl("ipv6/conf/wan/mtu") == "1300"
	})
	if got := l.addresses("wan"); !slices.Contains(got, autoAddress) {
		t.Errorf("addresses of wan = %v; want %s still", got, autoAddress)
	}
	l.eventually("the address being deprecated", patience, func() bool {
		return strings.Contains(l.in("fw", "ip", "-6", "address", "show", "dev", "wan", "deprecated"), "2001:db8:1:")
	})
	// The router says that it is none any more.
	l.advertise("fe80::1", 0)
	l.eventually("no default route", patience, func() bool { return len(l.routes("-6")) == 0 })
}

// TestTwoUplinks: two links learn, and the profile says which is the way out and whose name servers count.
func TestTwoUplinks(t *testing.T) {
	l := uplinkLab(t)
	l.dhcpd(fmt.Sprintf(iscConfig, 600, "198.51.100.50", ""))
	p := uplink()
	p.Links[0].Accept = profiles.Believed{Metric: 700, NoDNS: true}
	p.Links[0].ClientID = "fw-dhcp"
	p.Links[1].Gateways = []profiles.Gateway{{Addr: netip.MustParseAddr("10.10.10.2"), Metric: 50}}
	g := l.start(p)
	g.waitReady()
	want := []string{"default via 10.10.10.2 dev lan proto static metric 50",
		strings.Replace(leasedDefault, "metric 512", "metric 700", 1)}
	l.eventually("both default routes", patience, func() bool { return slices.Equal(l.routes("-4"), want) })
	if got := l.sysctl("ipv4/conf/wan/rp_filter"); got != "2" {
		t.Errorf("rp_filter of wan = %s; want 2, loose: there are two ways out", got)
	}
	if b, err := os.ReadFile(filepath.Join(l.root, contract.ResolvPath)); err != nil || strings.Contains(string(b),
		"nameserver") {
		t.Errorf("resolv.conf = %q, %v; want no name servers", b, err)
	}
	leases, err := os.ReadFile(filepath.Join(l.root, "dhcpd.leases"))
	if want := "uid \"\\000fw-dhcp\""; err != nil || !strings.Contains(string(leases), want) {
		t.Errorf("the server knows the client by\n%s\n%v; want %s", leases, err, want)
	}
	g.kill(syscall.SIGTERM)

	// Without its default route, and from another server than there is, nothing is taken.
	p.Links[0].Accept = profiles.Believed{NoDefault: true}
	g = l.start(p)
	l.eventually("one default route", patience, func() bool { return slices.Equal(l.routes("-4"), want[:1]) })
	g.kill(syscall.SIGTERM)
	_ = os.Remove(filepath.Join(l.root, contract.LinkDir, "wan.lease"))
	p.Links[0].Accept = profiles.Believed{Servers: []netip.Addr{netip.MustParseAddr("198.51.100.9")}}
	g = l.start(p)
	l.eventually("the offer to be refused", patience, func() bool {
		return strings.Contains(g.log.String(), "the profile names other servers")
	})
}
