package filtertest

import (
	"slices"

	"rempart/firstboot/filter"
	"rempart/profiles"
)

// Bridged filters between the members of one bridge, routes by it, and has another that is a switch: every kind of line
// between such zones, members in two zones and in none.
func Bridged() *profiles.Profile {
	bridge := func(name string, n int, addresses []string, members ...string) profiles.Link {
		return profiles.Link{Name: name, Bridge: &profiles.Bridge{Members: members}, Addresses: prefixes(addresses...),
			At: line(n)}
	}
	limited := allow(27, "servers", "clients", profiles.Match{Protocol: profiles.TCP, Ports: ports(9000)})
	limited.Limit, limited.Connections = &profiles.Limit{Count: 10, Per: "s", Burst: 5}, 4
	logged := allow(28, "clients", "cams", profiles.Match{Protocol: profiles.TCP, Ports: ports(554)})
	logged.Log = "camera"
	return &profiles.Profile{
		Name:  "bridged",
		Admin: profiles.Admin{Zones: []string{"lan"}, At: line(3)},
		Links: []profiles.Link{
			{Name: "e1", At: line(5)}, {Name: "e2", At: line(6)}, {Name: "e3", At: line(7)}, {Name: "e4", At: line(8)},
			{Name: "e5", At: line(9)}, {Name: "w1", At: line(10)}, {Name: "w2", At: line(11)},
			{Name: "wan", Addresses: prefixes("203.0.113.2/24", "2001:db8:1::2/64"),
				Gateways: gateways("203.0.113.1", "2001:db8:1::1"), At: line(12)},
			bridge("br", 13, []string{"10.3.0.1/24", "fd00:3::1/64"}, "e1", "e2", "e3", "e4", "e5"),
			bridge("sw", 14, []string{"10.4.0.1/24", "fd00:4::1/64"}, "w1", "w2"),
		},
		Zones: []profiles.Zone{
			{Name: "lan", Members: on("br")}, {Name: "open", Members: on("sw")},
			{Name: "internet", Members: on("wan"), External: true},
			{Name: "clients", Members: append(on("e1"), on("e2")...)},
			{Name: "servers", Members: on("e3")}, {Name: "cams", Members: on("e4")}, // and e5 in none
		},
		Policy: []profiles.Rule{
			allow(22, "lan", "internet"),
			allow(23, "lan", profiles.Self, profiles.Match{Protocol: profiles.Ping}),
			allow(24, "clients", "servers", profiles.Match{Protocol: profiles.TCP, Ports: ports(80)},
				profiles.Match{Protocol: profiles.Ping}),
			allow(25, "clients", "servers", profiles.Match{Protocol: profiles.UDP,
				Ports:        []profiles.PortRange{{First: 5000, Last: 5010}},
				Destinations: prefixes("10.3.0.50/32", "fd00:3::50/128")}),
			allow(26, "clients", "clients", profiles.Match{Protocol: profiles.TCP, Ports: ports(445),
				Sources: prefixes("10.3.0.0/25")}),
			limited, logged,
			{From: "cams", To: profiles.Any, Action: profiles.Reject, At: line(29),
				Matches: []profiles.Match{{Protocol: profiles.UDP, Ports: ports(123)}}},
			allow(30, "servers", "cams", profiles.Match{Protocol: profiles.ICMP6}),
		},
		Masquerade: []profiles.Pair{{From: "lan", To: "internet", At: line(33)}},
	}
}

// WithoutBridgeConntrack is a Ruleset without the rules that ask conntrack in the bridge family, for kernels without
// nf_conntrack_bridge, which refuse a table that has one. The same expressions are in the inet table too.
func WithoutBridgeConntrack(rs filter.Ruleset) filter.Ruleset {
	out := filter.Ruleset{Tables: slices.Clone(rs.Tables)}
	for i := range out.Tables {
		t := &out.Tables[i]
		if t.Family != filter.FamilyBridge {
			continue
		}
		t.Chains = slices.Clone(t.Chains)
		for k := range t.Chains {
			t.Chains[k].Rules = slices.DeleteFunc(slices.Clone(t.Chains[k].Rules), asksConntrack)
		}
	}
	return out
}

func asksConntrack(r filter.Rule) bool {
	return slices.ContainsFunc(r.Do, func(e filter.Expr) bool {
		b, bits := e.(filter.Bits)
		_, counts := e.(filter.CountSource)
		return counts || bits && b.Field == filter.CTState
	})
}
