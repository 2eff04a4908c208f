package filtertest

import (
	"net/netip"

	"rempart/profiles"
)

// Stewarded is a gateway whose one admin is a host that a forward leads to: who is singled out by an address that
// something else stands for is asked all the same.
func Stewarded() *profiles.Profile {
	steward := netip.MustParseAddr("10.2.0.10")
	return &profiles.Profile{
		Name:  "stewarded",
		Admin: profiles.Admin{Prefixes: []netip.Prefix{netip.PrefixFrom(steward, steward.BitLen())}, At: line(3)},
		Links: []profiles.Link{
			{Name: "up0", Addresses: prefixes("203.0.113.2/24"), Gateways: gateways("203.0.113.1"), At: line(5)},
			{Name: "srv0", Addresses: prefixes("10.2.0.1/24"), At: line(6)},
		},
		Zones: []profiles.Zone{
			{Name: "net", Members: on("up0"), External: true},
			{Name: "servers", Members: on("srv0")},
		},
		Forwards: []profiles.Forward{{From: "net", Protocol: profiles.TCP, Ports: ports(443), To: steward, At: line(9)}},
	}
}
