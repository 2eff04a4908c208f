// Package filtertest holds profiles for the tests of the packet filter: one small machine of each kind, and one that
// uses everything a policy can say.
package filtertest

import (
	"net/netip"

	"rempart/profiles"
)

// Profiles are all of them, by name. Each call makes new values.
func Profiles() []*profiles.Profile {
	return []*profiles.Profile{OneArmed(), Uplink(), Wide(), Guarded(), Merged(), Translated(), Serving(), Packets(),
		Delegated()}
}

func prefixes(list ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func gateways(list ...string) []profiles.Gateway {
	var out []profiles.Gateway
	for _, s := range list {
		out = append(out, profiles.Gateway{Addr: netip.MustParseAddr(s)})
	}
	return out
}

func on(link string) []profiles.Member { return []profiles.Member{{Link: link}} }

func ports(list ...uint16) []profiles.PortRange {
	var out []profiles.PortRange
	for _, p := range list {
		out = append(out, profiles.PortRange{First: p, Last: p})
	}
	return out
}

func line(n int) profiles.Pos { return profiles.Pos{Line: n, Column: 5} }

func allow(n int, from, to string, matches ...profiles.Match) profiles.Rule {
	return profiles.Rule{From: from, To: to, Action: profiles.Accept, Matches: matches, At: line(n)}
}

// OneArmed is a home server's firewall: one link on the home network that is also the way to the Internet, and a
// network behind it (scenario A).
func OneArmed() *profiles.Profile {
	return &profiles.Profile{
		Name:  "one-armed",
		Admin: profiles.Admin{Zones: []string{"home"}, At: line(3)},
		Links: []profiles.Link{
			{Name: "lan0", Addresses: prefixes("192.168.0.101/24", "fd00:192:168::101/64"),
				Gateways: gateways("192.168.0.1", "fd00:192:168::1"), At: line(5)},
			{Name: "dmz0", Addresses: prefixes("10.9.0.1/24", "fd00:10:9::1/64"), At: line(6)},
		},
		Zones: []profiles.Zone{
			{Name: "home", Members: []profiles.Member{{Link: "lan0",
				Prefixes: prefixes("192.168.0.0/24", "fd00:192:168::/64")}}},
			{Name: "internet", Members: []profiles.Member{{Link: "lan0", Rest: true}}, External: true},
			{Name: "dmz", Members: on("dmz0")},
		},
		Policy: []profiles.Rule{
			allow(12, "home", profiles.Self, profiles.Match{Protocol: profiles.Ping}),
			allow(13, "dmz", "internet"),
		},
		Masquerade: []profiles.Pair{{From: "dmz", To: "internet", At: line(15)}},
		Forwards: []profiles.Forward{{From: "internet", Protocol: profiles.TCP, Ports: ports(80, 443),
			To: netip.MustParseAddr("192.168.0.102"), SNAT: true, At: line(17)}},
	}
}

// Uplink is a firewall with two legs whose outer address comes by DHCP.
func Uplink() *profiles.Profile {
	return &profiles.Profile{
		Name:  "uplink",
		Admin: profiles.Admin{Zones: []string{"inside"}, At: line(3)},
		Links: []profiles.Link{
			{Name: "wan", DHCP: true, At: line(5)},
			{Name: "lan", Addresses: prefixes("10.10.10.1/24", "fd00:10:10::1/64"), At: line(6)},
		},
		Zones: []profiles.Zone{
			{Name: "internet", Members: on("wan"), External: true},
			{Name: "inside", Members: on("lan")},
		},
		Policy: []profiles.Rule{
			allow(10, "inside", profiles.Self, profiles.Match{Protocol: profiles.Ping}),
			allow(11, "inside", "internet"),
		},
		Masquerade: []profiles.Pair{{From: "inside", To: "internet", At: line(13)}},
		Forwards: []profiles.Forward{{From: "internet", Protocol: profiles.TCP, Ports: ports(80, 443),
			To: netip.MustParseAddr("10.10.10.10"), At: line(15)}},
	}
}

// Wide uses every kind of line, in IPv4 and IPv6: three links, admin by address and by zone, prefixes inside a link,
// sources and destinations, port lists and ranges, drop and reject, lines from self, from any and inside a zone,
// forwards that change ports, move ranges, stay inside a subnet, and lead to IPv6.
func Wide() *profiles.Profile {
	server := netip.MustParseAddr("10.2.0.10")
	server6 := netip.MustParseAddr("fd00:2::10")
	return &profiles.Profile{
		Name:  "wide",
		Admin: profiles.Admin{Zones: []string{"staff"}, Prefixes: prefixes("203.0.113.7/32", "2001:db8:a::/64"), At: line(3)},
		Links: []profiles.Link{
			{Name: "up0", Addresses: prefixes("203.0.113.2/24", "2001:db8:1::2/64"),
				Gateways: gateways("203.0.113.1", "2001:db8:1::1"), MTU: 1400, At: line(5)},
			{Name: "in.1", Addresses: prefixes("10.1.0.1/16", "fd00:1::1/64"), At: line(6)},
			{Name: "srv-0", Addresses: prefixes("10.2.0.1/24", "fd00:2::1/64"), At: line(7)},
			{Name: "lab", Addresses: prefixes("10.3.0.1/24", "fd00:3::1/64"), At: line(8)},
		},
		Zones: []profiles.Zone{
			{Name: "net", Members: on("up0"), External: true},
			{Name: "staff", Members: []profiles.Member{{Link: "in.1",
				Prefixes: prefixes("10.1.1.0/24", "10.1.3.0/24", "fd00:1::1:0/112")}, {Link: "lab"}}},
			{Name: "guests", Members: []profiles.Member{{Link: "in.1", Rest: true}}},
			{Name: "servers", Members: on("srv-0")},
		},
		Policy: []profiles.Rule{
			{From: "guests", To: profiles.Any, Action: profiles.Reject, At: line(20),
				Matches: []profiles.Match{{Protocol: profiles.TCP, Ports: ports(25)}}},
			{From: "servers", To: "net", Action: profiles.Drop, At: line(21),
				Matches: []profiles.Match{{Protocol: profiles.UDP, Ports: []profiles.PortRange{{First: 6000, Last: 6100}}}}},
			allow(22, profiles.Any, profiles.Self, profiles.Match{Protocol: profiles.Ping}),
			allow(23, "net", "servers",
				profiles.Match{Protocol: profiles.TCP, Ports: append(ports(8443), profiles.PortRange{First: 9000, Last: 9010}),
					Sources: prefixes("198.51.100.0/25", "192.0.2.9/32", "2001:db8:9::/48")},
				profiles.Match{Protocol: profiles.UDP, Destinations: prefixes("10.2.0.20/32", "fd00:2::20/128")}),
			allow(24, "staff", "servers", profiles.Match{Protocol: profiles.TCP, Ports: ports(22, 80, 443)},
				profiles.Match{Protocol: profiles.Ping}),
			allow(25, "staff", "staff", profiles.Match{Protocol: profiles.TCP}),
			allow(26, "staff", "net"),
			allow(27, "guests", "net", profiles.Match{Protocol: profiles.TCP, Ports: ports(80, 443)},
				profiles.Match{Protocol: profiles.UDP}),
			{From: "guests", To: "net", Action: profiles.Reject, At: line(28)},
			allow(30, "servers", "net", profiles.Match{Protocol: profiles.UDP}),
			{From: profiles.Self, To: "guests", Action: profiles.Drop, At: line(31),
				Matches: []profiles.Match{{Protocol: profiles.TCP}}},
		},
		Masquerade: []profiles.Pair{{From: "staff", To: "net", At: line(33)}, {From: "guests", To: "net", At: line(34)}},
		Forwards: []profiles.Forward{
			{From: "net", Protocol: profiles.TCP, Ports: ports(80, 443), To: server, At: line(36)},
			{From: "net", Protocol: profiles.TCP, Ports: ports(2222), To: server, ToPort: 22, At: line(37)},
			{From: "net", Protocol: profiles.UDP, Ports: []profiles.PortRange{{First: 7000, Last: 7009}}, To: server,
				ToPort: 17000, At: line(38)},
			{From: "net", Protocol: profiles.TCP, Ports: ports(80), To: server6, ToPort: 8080, At: line(39)},
			{From: "staff", Protocol: profiles.TCP, Ports: ports(8080), To: netip.MustParseAddr("10.1.1.40"), At: line(40)},
			{From: "servers", Protocol: profiles.TCP, Ports: ports(80), To: server, At: line(41)},
		},
	}
}
