package filtertest

import (
	"net/netip"

	"rempart/profiles"
)

// Fast is a firewall whose known flows take the short way, but for those that must not. It is not among Profiles: the
// kernels of build machines rarely have flow tables.
func Fast() *profiles.Profile {
	class := uint8(46) // ef
	return &profiles.Profile{
		Name:      "fast",
		Admin:     profiles.Admin{Zones: []string{"inside"}, At: line(3)},
		FlowTable: true,
		Links: []profiles.Link{
			{Name: "up0", Addresses: prefixes("203.0.113.2/24", "2001:db8:1::2/64"),
				Gateways: gateways("203.0.113.1", "2001:db8:1::1"), At: line(5)},
			{Name: "in0", Addresses: prefixes("10.1.0.1/24", "fd00:1::1/64"), At: line(6)},
			{Name: "spare", Dummy: true, Addresses: prefixes("10.9.0.1/32"), At: line(7)},
		},
		Zones: []profiles.Zone{
			{Name: "net", Members: on("up0"), External: true},
			{Name: "inside", Members: append(on("in0"), on("spare")...)},
		},
		Policy: []profiles.Rule{
			{From: "inside", To: "net", Action: profiles.Accept, At: line(10), DSCP: &class,
				Matches: []profiles.Match{{Protocol: profiles.UDP, Ports: ports(5060)}}},
			allow(11, "inside", "net"),
		},
		Masquerade: []profiles.Pair{{From: "inside", To: "net", At: line(13)}},
		Forwards: []profiles.Forward{{From: "net", Protocol: profiles.TCP, Ports: ports(80),
			To: netip.MustParseAddr("10.1.0.7"), At: line(15)}},
		Bans: []profiles.Ban{{Service: "http", Ports: ports(80), Attempts: 3, Window: 60, For: 3600, At: line(17)}},
	}
}
