package filtertest

import (
	"net/netip"

	"rempart/profiles"
)

// Homed is a firewall with two uplinks that are zones of their own, and a link that two zones share: who may leave by
// either, and who by one only. It is not among Profiles: those have one way to everywhere.
func Homed() *profiles.Profile {
	first, second := gateways("203.0.113.1", "2001:db8:1::1"), gateways("192.0.2.1", "2001:db8:2::1")
	for i := range first {
		first[i].Metric, second[i].Metric = 100, 200
	}
	return &profiles.Profile{
		Name:  "homed",
		Admin: profiles.Admin{Zones: []string{"staff"}, At: line(3)},
		Links: []profiles.Link{
			{Name: "up1", Addresses: prefixes("203.0.113.2/24", "2001:db8:1::2/64"), Gateways: first, At: line(5)},
			{Name: "up2", Addresses: prefixes("192.0.2.2/24", "2001:db8:2::2/64"), Gateways: second, At: line(6)},
			{Name: "in0", Addresses: prefixes("10.1.0.1/16", "fd00:1::1/64"), At: line(7)},
			{Name: "srv0", Addresses: prefixes("10.2.0.1/24", "fd00:2::1/64"), At: line(8)},
		},
		Zones: []profiles.Zone{
			{Name: "one", Members: on("up1"), External: true},
			{Name: "two", Members: []profiles.Member{{Link: "up2", Rest: true}}, External: true},
			{Name: "office", Members: []profiles.Member{{Link: "up2",
				Prefixes: prefixes("192.0.2.128/25", "2001:db8:2:0:f::/80")}}},
			{Name: "staff", Members: []profiles.Member{{Link: "in0", Prefixes: prefixes("10.1.1.0/24", "fd00:1::1:0/112")}}},
			{Name: "guests", Members: []profiles.Member{{Link: "in0", Rest: true}}},
			{Name: "servers", Members: on("srv0")},
		},
		Policy: []profiles.Rule{
			allow(10, "staff", "one"),
			allow(11, "staff", "two"),
			allow(12, "guests", "one"),
			allow(13, "servers", "office", profiles.Match{Protocol: profiles.UDP}),
			allow(14, "one", "servers", profiles.Match{Protocol: profiles.UDP}),
			{From: "staff", To: "office", Action: profiles.Reject, At: line(15)},
		},
		Forwards: []profiles.Forward{{From: "office", Protocol: profiles.UDP, Ports: ports(7001),
			To: netip.MustParseAddr("10.1.2.9"), At: line(20)}},
	}
}
