package dhcp4

import (
	"errors"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

var insideNets = []netip.Prefix{netip.MustParsePrefix("10.10.10.0/24"), netip.MustParsePrefix("172.16.0.0/16")}

func TestParseLeaseRefuses(t *testing.T) {
	mask := func(b ...byte) func(*dhcpv4.DHCPv4) { return option(dhcpv4.OptionSubnetMask, b...) }
	for name, c := range map[string]struct {
		edit []func(*dhcpv4.DHCPv4)
		want string
	}{
		"zero":             {[]func(*dhcpv4.DHCPv4){address("0.0.0.0")}, "cannot be a host's"},
		"this network":     {[]func(*dhcpv4.DHCPv4){address("0.0.0.9")}, "cannot be a host's"},
		"loopback":         {[]func(*dhcpv4.DHCPv4){address("127.0.0.1")}, "cannot be a host's"},
		"multicast":        {[]func(*dhcpv4.DHCPv4){address("224.0.0.1")}, "cannot be a host's"},
		"class E":          {[]func(*dhcpv4.DHCPv4){address("240.0.0.1")}, "cannot be a host's"},
		"broadcast":        {[]func(*dhcpv4.DHCPv4){address("255.255.255.255")}, "cannot be a host's"},
		"link-local":       {[]func(*dhcpv4.DHCPv4){address("169.254.1.1")}, "cannot be a host's"},
		"network address":  {[]func(*dhcpv4.DHCPv4){address("198.51.100.0")}, "network or broadcast"},
		"subnet broadcast": {[]func(*dhcpv4.DHCPv4){address("198.51.100.255")}, "network or broadcast"},
		"no address":       {[]func(*dhcpv4.DHCPv4){func(m *dhcpv4.DHCPv4) { m.YourIPAddr = nil }}, "cannot be a host's"},
		"inside":           {[]func(*dhcpv4.DHCPv4){address("10.10.10.9")}, "overlaps 10.10.10.0/24"},
		"around inside":    {[]func(*dhcpv4.DHCPv4){address("10.1.2.3"), mask(255, 0, 0, 0)}, "overlaps 10.10.10.0/24"},
		"part of inside": {[]func(*dhcpv4.DHCPv4){address("172.16.9.9"), mask(255, 255, 255, 252)},
			"overlaps 172.16.0.0/16"},
		"no mask, inside": {[]func(*dhcpv4.DHCPv4){address("172.16.9.9"), mask()}, "overlaps 172.16.0.0/16"},
		"all the world":   {[]func(*dhcpv4.DHCPv4){mask(0, 0, 0, 0)}, "subnet mask 0.0.0.0"},
		"half the world":  {[]func(*dhcpv4.DHCPv4){mask(128, 0, 0, 0)}, "subnet mask 128.0.0.0"},
		"mask with holes": {[]func(*dhcpv4.DHCPv4){mask(255, 0, 255, 0)}, "subnet mask 255.0.255.0"},
		"short mask":      {[]func(*dhcpv4.DHCPv4){mask(255, 255)}, "of 2 bytes"},
		"long mask":       {[]func(*dhcpv4.DHCPv4){mask(255, 255, 255, 0, 255, 255, 255, 0)}, "of 8 bytes"},
		"no server":       {[]func(*dhcpv4.DHCPv4){option(dhcpv4.OptionServerIdentifier)}, "server identifier"},
		"multicast server": {[]func(*dhcpv4.DHCPv4){option(dhcpv4.OptionServerIdentifier, 239, 1, 1, 1)},
			"server identifier"},
		"broadcast server": {[]func(*dhcpv4.DHCPv4){option(dhcpv4.OptionServerIdentifier, 255, 255, 255, 255)},
			"server identifier"},
		"IPv6 server": {[]func(*dhcpv4.DHCPv4){option(dhcpv4.OptionServerIdentifier, make([]byte, 16)...)},
			"server identifier"},
		"no lease time":   {[]func(*dhcpv4.DHCPv4){option(dhcpv4.OptionIPAddressLeaseTime)}, "no lease time"},
		"long lease time": {[]func(*dhcpv4.DHCPv4){option(dhcpv4.OptionIPAddressLeaseTime, 0, 0, 0, 9, 9)}, "no lease time"},
	} {
		m := answer(dhcpv4.MessageTypeAck)
		for _, e := range c.edit {
			e(m)
		}
		l, err := parseLease(m, insideNets, DefaultMinLease, time.Hour)
		if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: parseLease = %+v, %v; want refused for %q", name, l, err, c.want)
		}
	}
}

func TestParseLeaseTakes(t *testing.T) {
	route := func(dst, via string) Route {
		r := Route{Dst: netip.MustParsePrefix(dst)}
		if via != "" {
			r.Gateway = netip.MustParseAddr(via)
		}
		return r
	}
	defaultRoute := []Route{route("0.0.0.0/0", "198.51.100.1")}
	for name, c := range map[string]struct {
		edit   []func(*dhcpv4.DHCPv4)
		routes []Route
		note   string
	}{
		"plain": {nil, defaultRoute, ""},
		"several routers": {[]func(*dhcpv4.DHCPv4){option(dhcpv4.OptionRouter, 224, 0, 0, 1, 198, 51, 100, 1, 198, 51,
			100, 2)}, defaultRoute, "no unicast"},
		"no router":     {[]func(*dhcpv4.DHCPv4){option(dhcpv4.OptionRouter)}, nil, ""},
		"half a router": {[]func(*dhcpv4.DHCPv4){option(dhcpv4.OptionRouter, 198, 51, 100)}, nil, ""},
		"router is us": {[]func(*dhcpv4.DHCPv4){option(dhcpv4.OptionRouter, 198, 51, 100, 50)}, nil,
			"the address itself"},
		"router inside": {[]func(*dhcpv4.DHCPv4){option(dhcpv4.OptionRouter, 10, 10, 10, 1)}, nil, "in 10.10.10.0/24"},
		"router zero":   {[]func(*dhcpv4.DHCPv4){option(dhcpv4.OptionRouter, 0, 0, 0, 0)}, nil, "needs a gateway"},
		"router off subnet": {[]func(*dhcpv4.DHCPv4){option(dhcpv4.OptionRouter, 203, 0, 113, 1)},
			[]Route{route("0.0.0.0/0", "203.0.113.1")}, ""},
		"121 beats 3": {[]func(*dhcpv4.DHCPv4){option(dhcpv4.OptionClasslessStaticRoute, 24, 192, 0, 2, 198, 51, 100, 9)},
			[]Route{route("192.0.2.0/24", "198.51.100.9")}, ""},
		"121 host bits": {[]func(*dhcpv4.DHCPv4){option(dhcpv4.OptionClasslessStaticRoute, 20, 192, 0, 0xff, 198, 51, 100,
			9)},
			[]Route{route("192.0.240.0/20", "198.51.100.9")}, ""},
		"121 on link": {[]func(*dhcpv4.DHCPv4){option(dhcpv4.OptionClasslessStaticRoute, 32, 192, 0, 2, 7, 0, 0, 0, 0)},
			[]Route{route("192.0.2.7/32", "")}, ""},
		"121 broken": {[]func(*dhcpv4.DHCPv4){option(dhcpv4.OptionClasslessStaticRoute, 24, 192, 0)}, defaultRoute,
			"24 bits in 3 bytes"},
		"121 33 bits": {[]func(*dhcpv4.DHCPv4){option(dhcpv4.OptionClasslessStaticRoute, 33, 1, 2, 3, 4, 5, 6, 7, 8,
			9)}, defaultRoute, "33 bits"},
		"121 inside": {[]func(*dhcpv4.DHCPv4){option(dhcpv4.OptionClasslessStaticRoute, 25, 10, 10, 10, 0, 198, 51,
			100, 9)}, nil, "overlaps 10.10.10.0/24"},
		"121 over inside": {[]func(*dhcpv4.DHCPv4){option(dhcpv4.OptionClasslessStaticRoute, 8, 10, 198, 51, 100, 9)}, nil,
			"overlaps 10.10.10.0/24"},
		"121 multicast": {[]func(*dhcpv4.DHCPv4){option(dhcpv4.OptionClasslessStaticRoute, 4, 224, 198, 51, 100, 9)},
			nil, "not a unicast destination"},
		"121 loopback": {[]func(*dhcpv4.DHCPv4){option(dhcpv4.OptionClasslessStaticRoute, 8, 127, 198, 51, 100, 9)},
			nil, "not a unicast destination"},
		"121 own subnet": {[]func(*dhcpv4.DHCPv4){option(dhcpv4.OptionClasslessStaticRoute, 24, 198, 51, 100, 198, 51,
			100, 9)}, nil, "the subnet itself"},
		"121 twice": {[]func(*dhcpv4.DHCPv4){option(dhcpv4.OptionClasslessStaticRoute, 24, 192, 0, 2, 198, 51, 100, 9, 24,
			192, 0, 2, 198, 51, 100, 8)},
			[]Route{route("192.0.2.0/24", "198.51.100.9")}, "second route"},
	} {
		m := answer(dhcpv4.MessageTypeAck)
		for _, e := range c.edit {
			e(m)
		}
		l, err := parseLease(m, insideNets, DefaultMinLease, time.Hour)
		if err != nil || !reflect.DeepEqual(l.Routes, c.routes) || !strings.Contains(strings.Join(l.Notes, "\n"), c.note) ||
			(c.note == "") != (len(l.Notes) == 0) {
			t.Errorf("%s: parseLease = routes %v, notes %q, %v; want %v, %q", name, l.Routes, l.Notes, err, c.routes, c.note)
		}
	}
}

func TestRoutesAreBounded(t *testing.T) {
	var b []byte
	for i := range 500 {
		b = append(b, 24, 100, byte(i>>8), byte(i), 198, 51, 100, 9)
	}
	m := answer(dhcpv4.MessageTypeAck)
	m.Options[dhcpv4.OptionClasslessStaticRoute.Code()] = b
	if l, err := parseLease(m, nil, DefaultMinLease, 0); err != nil || len(l.Routes) != maxRoutes {
		t.Errorf("500 routes: %d taken, %v; want %d", len(l.Routes), err, maxRoutes)
	}
}

func TestLeaseTimes(t *testing.T) {
	const sent = time.Hour
	four := func(code dhcpv4.OptionCode, s uint32) func(*dhcpv4.DHCPv4) {
		return option(code, byte(s>>24), byte(s>>16), byte(s>>8), byte(s))
	}
	for _, c := range []struct{ lease, t1, t2, wantT1, wantT2, want uint32 }{
		{3600, 0, 0, 1800, 3150, 3600},
		{3600, 600, 3000, 600, 3000, 3600},
		{3600, 3000, 600, 1800, 3150, 3600}, // the wrong way round
		{3600, 600, 9000, 1800, 3150, 3600}, // after the end
		{3600, 1, 2, 1800, 3150, 3600},      // a renewal each second
		{1, 0, 0, 10, 17, 20},               // held for the least time
		{0, 0, 0, 10, 17, 20},
		{0xffffffff, 0, 0, 1296000, 2268000, 2592000}, // for ever: 30 days
	} {
		m := answer(dhcpv4.MessageTypeAck)
		four(dhcpv4.OptionIPAddressLeaseTime, c.lease)(m)
		four(dhcpv4.OptionRenewTimeValue, c.t1)(m)
		four(dhcpv4.OptionRebindingTimeValue, c.t2)(m)
		l, err := parseLease(m, nil, DefaultMinLease, sent)
		s := func(d time.Duration) uint32 { return uint32((d - sent) / time.Second) }
		if err != nil || s(l.Renew) != c.wantT1 || s(l.Rebind) != c.wantT2 || s(l.Expires) != c.want {
			t.Errorf("lease %d, T1 %d, T2 %d: %d, %d, %d, %v; want %d, %d, %d", c.lease, c.t1, c.t2, s(l.Renew), s(l.Rebind),
				s(l.Expires), err, c.wantT1, c.wantT2, c.want)
		}
	}
}

func TestSmallThings(t *testing.T) {
	for in, want := range map[string]string{
		"example.org": "example.org", "Example.ORG.": "example.org", "a\nnameserver 6.6.6.6": "", "": "", "-a.b": "",
		"a..b": "", "a b": "", strings.Repeat("a", 64): "", strings.Repeat("a.", 200): "", "x\x00": "x", "ex\x00y": "",
	} {
		if got := Domain([]byte(in)); got != want {
			t.Errorf("Domain(%q) = %q; want %q", in, got, want)
		}
	}
	for mtu, want := range map[uint16]int{0: 0, 68: 0, 575: 0, 576: 576, 1460: 1460, 9216: 9216, 9217: 0, 65535: 0} {
		m := answer(dhcpv4.MessageTypeAck)
		m.Options[dhcpv4.OptionInterfaceMTU.Code()] = []byte{byte(mtu >> 8), byte(mtu)}
		if l, err := parseLease(m, nil, DefaultMinLease, 0); err != nil || l.MTU != want {
			t.Errorf("MTU %d: %d, %v; want %d", mtu, l.MTU, err, want)
		}
	}
	m := answer(dhcpv4.MessageTypeAck)
	m.Options[dhcpv4.OptionDomainNameServer.Code()] = []byte{127, 0, 0, 1, 8, 8, 8, 8, 8, 8, 8, 8, 0, 0, 0, 0, 9, 9, 9, 9,
		1, 1, 1, 1, 4, 4, 4, 4, 77}
	want := []netip.Addr{netip.MustParseAddr("8.8.8.8"), netip.MustParseAddr("9.9.9.9"), netip.MustParseAddr("1.1.1.1")}
	if l, err := parseLease(m, nil, DefaultMinLease, 0); err != nil || !reflect.DeepEqual(l.DNS, want) {
		t.Errorf("name servers = %v, %v; want %v", l.DNS, err, want)
	}
	m = answer(dhcpv4.MessageTypeAck)
	delete(m.Options, dhcpv4.OptionSubnetMask.Code())
	if l, err := parseLease(m, nil, DefaultMinLease, 0); err != nil || l.Address.Bits() != 32 {
		t.Errorf("without a mask: %s, %v; want a /32", l.Address, err)
	}
}
