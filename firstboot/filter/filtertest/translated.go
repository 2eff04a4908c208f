package filtertest

import (
	"net/netip"

	"rempart/profiles"
)

// Translated uses every kind of address translation, in IPv4 and IPv6.
func Translated() *profiles.Profile {
	addr := netip.MustParseAddr
	web, web6, inside := addr("10.2.0.10"), addr("fd00:2::10"), addr("10.1.0.10")
	const git, mail, mapped = "203.0.113.3", "2001:db8:1::3", "203.0.113.4"
	return &profiles.Profile{
		Name:  "translated",
		Admin: profiles.Admin{Zones: []string{"inside"}, At: line(3)},
		Links: []profiles.Link{
			{Name: "up0", Addresses: prefixes("203.0.113.2/24", git+"/24", mapped+"/24", "2001:db8:1::2/64", mail+"/64"),
				Gateways: gateways("203.0.113.1", "2001:db8:1::1"), At: line(5)},
			{Name: "in0", Addresses: prefixes("10.1.0.1/24", "fd00:1::1/64"), At: line(6)},
			{Name: "srv0", Addresses: prefixes("10.2.0.1/24", "fd00:2::1/64"), At: line(7)},
			{Name: "lab0", Addresses: prefixes("10.3.0.1/24", "fd00:3::1/64"), At: line(7)},
		},
		Logging: profiles.Logging{Drops: []string{"net"}, At: line(4)},
		Zones: []profiles.Zone{
			{Name: "net", Members: on("up0"), External: true},
			{Name: "inside", Members: on("in0")},
			{Name: "servers", Members: on("srv0")},
			{Name: "lab", Members: on("lab0")},
		},
		Sets: []profiles.Set{{Name: "partners", At: line(8), Ranges: ranges("192.0.2.9-192.0.2.11")}},
		Policy: []profiles.Rule{
			{From: "inside", To: "net", Action: profiles.Accept, Helper: profiles.HelperFTP, At: line(9),
				Matches: []profiles.Match{{Protocol: profiles.TCP, Ports: ports(21)}}},
			allow(10, "inside", "net"),
			allow(11, "servers", "net"),
			allow(12, "lab", "net"),
			allow(13, "net", "servers", profiles.Match{Protocol: profiles.TCP, Ports: ports(993),
				Destinations: prefixes("10.2.0.20/32")}),
			{From: "inside", To: "servers", Action: profiles.Accept, Helper: profiles.HelperFTP, At: line(14),
				Matches: []profiles.Match{{Protocol: profiles.TCP, Ports: ports(21)}}},
			{From: "servers", To: "inside", Action: profiles.Accept, Helper: profiles.HelperTFTP, At: line(14),
				Matches: []profiles.Match{{Protocol: profiles.UDP, Ports: ports(69), Sources: prefixes("10.2.0.0/24")}}},
			allow(14, profiles.Any, "lab", profiles.Match{Protocol: profiles.Ping}),
		},
		Masquerade: []profiles.Pair{{From: "inside", To: "net", At: line(15)},
			{From: "servers", To: "net", Families: profiles.BothFamilies, At: line(16)}},
		NAT: profiles.NAT{
			Sources: []profiles.SourceNAT{
				// Addresses that are routed here, shared by some; others by the family.
				{From: "inside", To: "net", First: addr("100.64.9.1"), Last: addr("100.64.9.6"),
					Clients: prefixes("10.1.0.64/26", "10.1.0.200/32"), At: line(17)},
				{From: "inside", To: "net", First: addr(mail), Last: addr(mail), At: line(17)},
			},
			Mappings: []profiles.Mapping{
				{Zone: "net", Outside: prefixes(mapped + "/32")[0], Inside: prefixes("10.2.0.20/32")[0], At: line(18)},
				{Zone: "net", Outside: prefixes("2001:db8:f0::/64")[0], Inside: prefixes("fd00:3::/64")[0], At: line(18)},
				{Zone: "net", Outside: prefixes("100.64.3.128/25")[0], Inside: prefixes("10.3.0.0/25")[0], At: line(18)},
				{Zone: "net", Outside: prefixes("2001:db8:ff::20/128")[0], Inside: prefixes("fd00:2::20/128")[0],
					At: line(18)},
			},
		},
		Forwards: []profiles.Forward{
			// One port at two addresses, in both families, and at the rest of them.
			{From: "net", Protocol: profiles.TCP, Ports: ports(22), To: web, Address: addr(git), At: line(20)},
			{From: "net", Protocol: profiles.TCP, Ports: ports(25), To: web6, Address: addr(mail), At: line(21)},
			{From: "net", Protocol: profiles.TCP, Ports: ports(25), To: web6, ToPort: 2525, At: line(22)},
			// Some sources get another host than all others, or none.
			{From: "net", Protocol: profiles.TCP, Ports: ports(443), To: web, ToPort: 8443,
				Sources: prefixes("198.51.100.64/26"), SourceSets: []string{"partners"}, At: line(23)},
			{From: "net", Protocol: profiles.TCP, Ports: ports(443), To: addr("10.2.0.11"), At: line(24)},
			{From: "net", Protocol: profiles.UDP, Ports: ports(500), To: web6, Sources: prefixes("2001:db8:9::/48"),
				At: line(25)},
			{From: "net", Protocol: profiles.TCP, Ports: ports(21), To: addr("10.2.0.40"), Helper: profiles.HelperFTP,
				At: line(33)},
			{From: "net", Protocol: profiles.UDP, Ports: ports(5060), To: web6, Helper: profiles.HelperSIP, At: line(34)},
			// Several hosts share the clients, at a port and a range of their own.
			{From: "net", Protocol: profiles.TCP, Ports: ports(9000), To: addr("10.2.0.31"), ToPort: 9090,
				Others: []netip.Addr{addr("10.2.0.32"), addr("10.2.0.33")}, At: line(30)},
			{From: "net", Protocol: profiles.TCP, Ports: []profiles.PortRange{{First: 9100, Last: 9102}}, To: addr("fd00:2::31"),
				ToPort: 9200, Others: []netip.Addr{addr("fd00:2::32")}, At: line(31)},
			{From: "inside", Protocol: profiles.TCP, Ports: ports(9000), To: addr("10.1.0.31"),
				Others: []netip.Addr{addr("10.1.0.32")}, At: line(32)},
			// A range moves one to one, across a port that is its own.
			{From: "net", Protocol: profiles.UDP, Ports: []profiles.PortRange{{First: 7000, Last: 7009}}, To: web6,
				ToPort: 7005, At: line(26)},
			// By the public address from inside: to another link, and back to the link it came by.
			{From: "inside", Protocol: profiles.TCP, Ports: ports(443), To: addr("10.2.0.11"), Address: addr("203.0.113.2"),
				At: line(27)},
			{From: "inside", Protocol: profiles.TCP, Ports: ports(8080), To: inside, At: line(28)},
			{From: "inside", Protocol: profiles.TCP, Ports: ports(8080), To: addr("fd00:1::10"),
				Address: addr("2001:db8:1::2"), At: line(29)},
		},
	}
}
