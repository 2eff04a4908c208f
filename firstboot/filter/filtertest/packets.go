package filtertest

import (
	"net/netip"

	"rempart/profiles"
)

// Packets uses what a line can do to packets and to connection tracking: classes of service and times to live, flows
// without tracking, and SYN proxies before hosts behind it, before itself and before the targets of forwards.
func Packets() *profiles.Profile {
	class := func(n uint8) *uint8 { return &n }
	proxy := func(mss uint16) *profiles.SynProxy {
		return &profiles.SynProxy{MSS: mss, WScale: profiles.DefaultWScale}
	}
	web, web6 := netip.MustParseAddr("10.2.0.10"), netip.MustParseAddr("fd00:2::10")
	return &profiles.Profile{
		Name:  "packets",
		Admin: profiles.Admin{Zones: []string{"inside"}, At: line(3)},
		Links: []profiles.Link{
			{Name: "up0", Addresses: prefixes("203.0.113.2/24", "2001:db8:1::2/64"),
				Gateways: gateways("203.0.113.1", "2001:db8:1::1"), At: line(5)},
			{Name: "in0", Addresses: prefixes("10.1.0.1/24", "fd00:1::1/64"), At: line(6)},
			{Name: "srv0", Addresses: prefixes("10.2.0.1/24", "fd00:2::1/64"), At: line(7)},
		},
		Zones: []profiles.Zone{
			{Name: "net", Members: on("up0"), External: true},
			{Name: "inside", Members: on("in0")},
			{Name: "servers", Members: on("srv0")},
		},
		Sets: []profiles.Set{{Name: "blocked", At: line(8), Ranges: ranges("192.0.2.64-192.0.2.127")}},
		Policy: []profiles.Rule{
			{From: "net", To: profiles.Any, Action: profiles.Drop, At: line(10),
				Matches: []profiles.Match{{SourceSets: []string{"blocked"}}}},
			{From: "inside", To: "net", Action: profiles.Accept, At: line(11), DSCP: class(46), TTL: 64,
				Matches: []profiles.Match{{Protocol: profiles.UDP, Ports: ports(5060)}}},
			{From: "inside", To: "net", Action: profiles.Accept, At: line(12), DSCP: class(0),
				Matches: []profiles.Match{{Protocol: profiles.TCP, Ports: ports(80)}}},
			allow(13, "inside", "net"),
			// Without tracking: some ports, a protocol without ports, the machine's own service, and its own requests.
			{From: "inside", To: "servers", Action: profiles.Accept, At: line(14), NoTrack: true, DSCP: class(10),
				Matches: []profiles.Match{{Protocol: profiles.UDP, Ports: ports(514, 6514), Destinations: prefixes("10.2.0.20/32",
					"fd00:2::20/128")}, {Protocol: "gre"}}},
			{From: profiles.Any, To: profiles.Self, Action: profiles.Accept, At: line(15), NoTrack: true,
				Matches: []profiles.Match{{Protocol: profiles.UDP, Ports: ports(5353)}}},
			{From: profiles.Self, To: "servers", Action: profiles.Accept, At: line(16), NoTrack: true, TTL: 9,
				Matches: []profiles.Match{{Protocol: profiles.UDP, Ports: ports(123)}}},
			{From: profiles.Self, To: "inside", Action: profiles.Drop, At: line(17),
				Matches: []profiles.Match{{Protocol: profiles.TCP}}},
			// Behind a proxy: a server, and the machine itself.
			{From: "net", To: "servers", Action: profiles.Accept, At: line(18), SynProxy: proxy(0),
				Matches: []profiles.Match{{Protocol: profiles.TCP, Ports: ports(8443)}}},
			{From: profiles.Any, To: profiles.Self, Action: profiles.Accept, At: line(19), SynProxy: proxy(1200),
				Matches: []profiles.Match{{Protocol: profiles.TCP, Ports: ports(8006)}}},
			allow(20, "net", "servers", profiles.Match{Protocol: profiles.TCP, Ports: ports(8444)}),
			allow(21, "servers", "inside", profiles.Match{Protocol: profiles.TCP, Ports: ports(25)}),
		},
		Forwards: []profiles.Forward{
			{From: "net", Protocol: profiles.TCP, Ports: ports(443), To: web, ToPort: 8080, SynProxy: proxy(0), At: line(25)},
			{From: "net", Protocol: profiles.TCP, Ports: ports(443), To: web6, SynProxy: proxy(0), At: line(25)},
			{From: "net", Protocol: profiles.TCP, Ports: []profiles.PortRange{{First: 9000, Last: 9003}}, To: web, ToPort: 9100,
				Others: []netip.Addr{netip.MustParseAddr("10.2.0.11")}, SynProxy: proxy(0), At: line(26)},
			{From: "servers", Protocol: profiles.TCP, Ports: ports(443), To: web, SynProxy: proxy(0),
				Address: netip.MustParseAddr("203.0.113.2"), At: line(27)},
			{From: "inside", Protocol: profiles.TCP, Ports: ports(7443), To: netip.MustParseAddr("10.2.0.12"), SNAT: true,
				SynProxy: proxy(0), At: line(28)},
			{From: "net", Protocol: profiles.TCP, Ports: ports(80), To: web, At: line(29)},
		},
	}
}
