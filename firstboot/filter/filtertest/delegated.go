package filtertest

import (
	"net/netip"

	"rempart/profiles"
)

// Delegated has links inside whose IPv6 subnets are delegated, and lines about hosts in them: open to the Internet, of
// one zone to another, forbidden, and without connection tracking.
func Delegated() *profiles.Profile {
	host := func(subnet uint32, end string) profiles.Delegated {
		return profiles.Delegated{Subnet: subnet, Host: netip.MustParseAddr(end)}
	}
	web, name, nas := host(1, "::205"), host(0xff, "::53"), host(1, "::10")
	return &profiles.Profile{
		Name:  "delegated",
		Admin: profiles.Admin{Zones: []string{"inside"}, At: line(3)},
		Links: []profiles.Link{
			{Name: "wan", Addresses: prefixes("203.0.113.2/24", "2001:db8:1::2/64"),
				Gateways: gateways("203.0.113.1", "2001:db8:1::1"), Delegation: &profiles.Delegation{Length: 56}, At: line(5)},
			{Name: "lan", Addresses: prefixes("10.1.0.1/16", "fd00:1::1/64"),
				Delegated: []profiles.Delegated{host(1, "::1")}, At: line(6)},
			{Name: "dmz", Delegated: []profiles.Delegated{host(0xff, "::1")}, At: line(7)},
		},
		Zones: []profiles.Zone{
			{Name: "internet", Members: on("wan"), External: true},
			{Name: "inside", Members: on("lan")},
			{Name: "dmz", Members: on("dmz")},
		},
		Policy: []profiles.Rule{
			allow(10, "inside", profiles.Self, profiles.Match{Protocol: profiles.Ping}),
			allow(11, "internet", "inside", profiles.Match{Protocol: profiles.TCP, Ports: ports(80, 443),
				DelegatedDestinations: []profiles.Delegated{web}},
				profiles.Match{Protocol: profiles.TCP, Ports: ports(8080), Destinations: prefixes("10.1.10.205/32"),
					DelegatedDestinations: []profiles.Delegated{web, nas}}),
			allow(12, "inside", "dmz", profiles.Match{Protocol: profiles.TCP, Ports: ports(53),
				DelegatedDestinations: []profiles.Delegated{name}}),
			{From: "dmz", To: "internet", Action: profiles.Drop, At: line(13), Matches: []profiles.Match{{Protocol: profiles.TCP,
				Ports: ports(25), DelegatedSources: []profiles.Delegated{name}}}},
			allow(14, "dmz", "internet", profiles.Match{Protocol: profiles.TCP}),
			{From: "internet", To: "dmz", Action: profiles.Accept, NoTrack: true, At: line(15),
				Matches: []profiles.Match{{Protocol: profiles.UDP, Ports: ports(53),
					DelegatedDestinations: []profiles.Delegated{name}}}},
			{From: "inside", To: "internet", Action: profiles.Reject, At: line(16), Matches: []profiles.Match{
				{Protocol: profiles.TCP, Ports: ports(25), DelegatedSources: []profiles.Delegated{nas}}}},
			allow(17, "inside", "internet"),
		},
	}
}
