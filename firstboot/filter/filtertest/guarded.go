package filtertest

import (
	"net/netip"
	"strings"

	"rempart/profiles"
)

// Guarded uses what a line can say beyond who, where and which port: other protocols and ICMP types, limits by source,
// numbers of connections, logs and refusals.
func Guarded() *profiles.Profile {
	proto := func(list ...profiles.Protocol) []profiles.Match {
		var out []profiles.Match
		for _, p := range list {
			out = append(out, profiles.Match{Protocol: p})
		}
		return out
	}
	return &profiles.Profile{
		Name:  "guarded",
		Admin: profiles.Admin{Zones: []string{"servers"}, At: line(3)},
		Links: []profiles.Link{
			{Name: "up0", Addresses: prefixes("203.0.113.2/24", "2001:db8:1::2/64"),
				Gateways: gateways("203.0.113.1", "2001:db8:1::1"), At: line(5)},
			{Name: "srv0", Addresses: prefixes("10.2.0.1/24", "fd00:2::1/64"), At: line(6)},
		},
		Zones: []profiles.Zone{
			{Name: "net", Members: on("up0"), External: true},
			{Name: "servers", Members: on("srv0")},
		},
		Sets: []profiles.Set{
			{Name: "blocked", At: line(8), Ranges: ranges("192.0.2.64-192.0.2.127", "198.51.100.200-198.51.100.203",
				"2001:db8:bad::-2001:db8:bad:ffff:ffff:ffff:ffff:ffff")},
			{Name: "partners", At: line(9), Ranges: ranges("192.0.2.9-192.0.2.11")},
			{Name: "nobody", At: line(9)},
		},
		Logging: profiles.Logging{AllDrops: true, At: line(4)},
		Policy: []profiles.Rule{
			{From: "net", To: profiles.Any, Action: profiles.Drop, At: line(9),
				Matches: []profiles.Match{{SourceSets: []string{"blocked", "nobody"}}}},
			{From: "servers", To: "net", Action: profiles.Reject, At: line(9),
				Matches: []profiles.Match{{DestinationSets: []string{"blocked"}}}},
			allow(9, "net", "servers", profiles.Match{Protocol: profiles.TCP, Ports: ports(5432),
				SourceSets: []string{"partners"}, Sources: prefixes("198.51.100.0/29")}),
			{From: "net", To: "servers", Action: profiles.Accept, At: line(10), Log: "web",
				Matches: []profiles.Match{{Protocol: profiles.TCP, Ports: ports(80)}},
				Limit:   &profiles.Limit{Count: 10, Per: "s", Burst: 20}, Connections: 15},
			{From: "net", To: "servers", Action: profiles.Accept, At: line(11), Connections: 3,
				Matches: []profiles.Match{{Protocol: profiles.TCP, Ports: ports(81)}}},
			{From: "net", To: "servers", Action: profiles.Accept, At: line(12),
				Matches: []profiles.Match{{Protocol: profiles.UDP, Ports: ports(82)}},
				Limit:   &profiles.Limit{Count: 1, Per: "h", Burst: 4}},
			allow(13, "net", "servers", append(proto("gre", "esp", profiles.AH, profiles.IGMP, "proto/99"),
				profiles.Match{Protocol: profiles.SCTP, Ports: ports(2905)})...),
			allow(14, profiles.Any, profiles.Self, profiles.Match{Protocol: profiles.ICMP, Types: []uint16{8, 13}},
				profiles.Match{Protocol: profiles.ICMP6, Types: []uint16{128}}),
			allow(15, "servers", "net", proto(profiles.ICMP, profiles.ICMP6)...),
			{From: "servers", To: "net", Action: profiles.Reject, At: line(16), With: profiles.PortUnreachable,
				Matches: []profiles.Match{{Protocol: profiles.TCP, Ports: ports(25)}}},
			{From: "servers", To: "net", Action: profiles.Reject, At: line(17), With: profiles.HostUnreachable,
				Matches: []profiles.Match{{Protocol: profiles.UDP, Ports: ports(25)}}},
			{From: "servers", To: "net", Action: profiles.Reject, At: line(18), With: profiles.NoRoute,
				Matches: []profiles.Match{{Protocol: profiles.UDP, Ports: ports(26)}}},
			{From: "servers", To: "net", Action: profiles.Reject, At: line(19), Log: "servers -> net",
				Matches: []profiles.Match{{Protocol: profiles.UDP}}},
			{From: "servers", To: "net", Action: profiles.Accept, At: line(20),
				Limit: &profiles.Limit{Count: 600, Per: "m", Burst: 100}},
		},
	}
}

// ranges reads "FIRST-LAST".
func ranges(list ...string) profiles.Ranges {
	var out profiles.Ranges
	for _, s := range list {
		first, last, _ := strings.Cut(s, "-")
		out = append(out, profiles.AddrRange{First: netip.MustParseAddr(first), Last: netip.MustParseAddr(last)})
	}
	return out
}

// Banning is Guarded with bans of the machine's own SSH, which admins reach by an address and a zone, and of a service
// behind it.
func Banning() *profiles.Profile {
	p := Guarded()
	p.Name = "banning"
	p.Admin.Prefixes = prefixes("198.51.100.9/32", "2001:db8:a::9/128")
	p.Policy = append([]profiles.Rule{allow(9, "net", profiles.Self, profiles.Match{Protocol: profiles.TCP,
		Ports: ports(22)}), allow(9, "net", "servers", profiles.Match{Protocol: profiles.TCP, Ports: ports(8006)})},
		p.Policy...)
	p.Bans = []profiles.Ban{
		{Service: "ssh", Ports: ports(22), Attempts: 3, Window: 10, For: 12, At: line(30)},
		{Service: "tcp/8006", Ports: ports(8006), Attempts: 2, Window: 60, For: 3600, At: line(31)},
	}
	return p
}
