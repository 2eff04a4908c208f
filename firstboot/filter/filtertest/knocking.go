package filtertest

import "rempart/profiles"

// Knocking is a firewall whose lines fill sets: who knocks at one port is let in at another for a while, and who tries
// what nobody offers is shut out.
func Knocking() *profiles.Profile {
	tcp := func(port uint16) profiles.Match { return profiles.Match{Protocol: profiles.TCP, Ports: ports(port)} }
	asking := func(m profiles.Match, set string) profiles.Match { m.SourceSets = []string{set}; return m }
	p := OneArmed()
	p.Name = "knocking"
	p.DynamicSets = []profiles.DynamicSet{{Name: "knockers", Timeout: 3, At: line(7)},
		{Name: "scanners", Timeout: 3600, At: line(8)}}
	p.Policy = []profiles.Rule{
		{From: "dmz", To: "internet", Action: profiles.Drop, At: line(20),
			Matches: []profiles.Match{{SourceSets: []string{"scanners"}}}},
		{From: "dmz", To: "internet", Action: profiles.Drop, At: line(21), Add: "scanners",
			Matches: []profiles.Match{tcp(23)}},
		allow(22, "dmz", "internet"),
		{From: profiles.Any, To: profiles.Self, Action: profiles.Drop, At: line(23), Add: "knockers",
			Matches: []profiles.Match{{Protocol: profiles.UDP, Ports: ports(7001)}}},
		allow(24, profiles.Any, profiles.Self, asking(tcp(8006), "knockers")),
		allow(25, "home", profiles.Self, profiles.Match{Protocol: profiles.Ping}),
	}
	return p
}
