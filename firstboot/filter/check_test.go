package filter_test

import (
	"net/netip"
	"strings"
	"testing"

	"rempart/firstboot/filter"
	"rempart/firstboot/filter/filtertest"
	"rempart/profiles"
)

// Compile relies on nobody: each thing it cannot compile is refused with what and where.
func TestCompileRefuses(t *testing.T) {
	pos := profiles.Pos{Line: 9, Column: 3}
	for _, test := range []struct {
		name string
		harm func(*profiles.Profile)
		want string
	}{
		{"link name too long", func(p *profiles.Profile) { p.Links[0].Name = "sixteen-bytes-xx" }, `link "sixteen-bytes-xx"`},
		{"link name with a quote", func(p *profiles.Profile) { p.Links[0].Name = `a";drop` }, `link "a\";drop"`},
		{"link named lo", func(p *profiles.Profile) { p.Links[0].Name = "lo" }, "is not lo"},
		{"link twice", func(p *profiles.Profile) { p.Links[1].Name = p.Links[0].Name }, "declared twice"},
		{"zone name with a slash", func(p *profiles.Profile) { p.Zones[2].Name = "a/b" }, `zone "a/b"`},
		{"zone named any", func(p *profiles.Profile) { p.Zones[2].Name = "any" }, "not self or any"},
		{"zone on no link", func(p *profiles.Profile) { p.Zones[2].Members[0].Link = "gone" }, `there is no link "gone"`},
		{"zones overlap", func(p *profiles.Profile) { p.Zones[1].Members = []profiles.Member{{Link: "lan0"}} },
			"192.168.0.0/24 on link lan0 is in zone \"home\" too"},
		{"admin from an external zone", func(p *profiles.Profile) { p.Admin.Zones = []string{"internet"} },
			"must not be given the admin path"},
		{"admin from nowhere", func(p *profiles.Profile) { p.Admin.Zones = []string{"gone"} },
			`admin: there is no zone "gone"`},
		{"rule from nowhere", func(p *profiles.Profile) { p.Policy[0].From = "gone"; p.Policy[0].At = pos },
			`no zone "gone" (9:3)`},
		{"rule without action", func(p *profiles.Profile) { p.Policy[0].Action = ""; p.Policy[0].At = pos },
			"want accept, drop or reject (9:3)"},
		{"zone on members of a bridge and elsewhere", func(p *profiles.Profile) {
			p.Links = append(p.Links, profiles.Link{Name: "e1"}, profiles.Link{Name: "br",
				Bridge: &profiles.Bridge{Members: []string{"e1"}}})
			p.Zones[2].Members = append(p.Zones[2].Members, profiles.Member{Link: "e1"})
		}, "on members of bridges and on other links at once"},
		{"prefix on a member of a bridge", func(p *profiles.Profile) {
			p.Links = append(p.Links, profiles.Link{Name: "e1"}, profiles.Link{Name: "br",
				Bridge: &profiles.Bridge{Members: []string{"e1"}}})
			p.Zones[2].Members = []profiles.Member{{Link: "e1", Rest: true}}
		}, "it cannot have prefixes"},
		{"two zones on a member of a bridge", func(p *profiles.Profile) {
			p.Links = append(p.Links, profiles.Link{Name: "e1"}, profiles.Link{Name: "br",
				Bridge: &profiles.Bridge{Members: []string{"e1"}}})
			p.Zones = append(p.Zones, profiles.Zone{Name: "x", Members: []profiles.Member{{Link: "e1"}}},
				profiles.Zone{Name: "y", Members: []profiles.Member{{Link: "e1"}}})
		}, `link e1 is in zone "x" too`},
		{"self to self", func(p *profiles.Profile) { p.Policy[0].From = "self" }, "self -> self"},
		{"ports of ping", func(p *profiles.Profile) {
			p.Policy[0].Matches[0].Ports = []profiles.PortRange{{First: 1, Last: 1}}
		}, "ports can be given for tcp, udp and sctp only"},
		{"unknown protocol", func(p *profiles.Profile) {
			p.Policy[0].Matches[0].Protocol = "proto/47"
		}, `protocol "proto/47"`},
		{"type of a protocol without types", func(p *profiles.Profile) { p.Policy[0].Matches[0].Types = []uint16{8} },
			"8 is no ICMP type"},
		{"limit of a drop", func(p *profiles.Profile) {
			p.Policy[0].Action, p.Policy[0].Connections = profiles.Drop, 1
		}, "can be limited"},
		{"no rate", func(p *profiles.Profile) { p.Policy[0].Limit = &profiles.Limit{Count: 1, Per: "week", Burst: 1} },
			"is no rate"},
		{"accept with an error", func(p *profiles.Profile) { p.Policy[0].With = profiles.NoRoute }, "means nothing"},
		{"log text with a quote", func(p *profiles.Profile) { p.Policy[0].Log = `a"b` }, "the log text"},
		{"ports upside down", func(p *profiles.Profile) { p.Forwards[0].Ports[0] = profiles.PortRange{First: 9, Last: 8} },
			"ports 9-8"},
		{"forward of port 0", func(p *profiles.Profile) { p.Forwards[0].Ports[0] = profiles.PortRange{} }, "want 1 to 65535"},
		{"forward above the last port", func(p *profiles.Profile) {
			p.Forwards[0].Ports[0], p.Forwards[0].ToPort = profiles.PortRange{First: 1, Last: 100}, 65500
		}, "would end above 65535"},
		{"forward to itself", func(p *profiles.Profile) { p.Forwards[0].To = netip.MustParseAddr("10.9.0.1") },
			"this machine's own address"},
		{"forward of a foreign address", func(p *profiles.Profile) {
			p.Forwards[0].Address = netip.MustParseAddr("10.9.0.2")
		}, "10.9.0.2 is no address of this machine"},
		{"forward of another family", func(p *profiles.Profile) {
			p.Forwards[0].Address = netip.MustParseAddr("fd00:10:9::1")
		}, "in the family of 192.168.0.102"},
		{"forward for nobody", func(p *profiles.Profile) { p.Forwards[0].SourceSets = []string{"gone"} },
			`there is no set "gone"`},
		{"forward for no prefix", func(p *profiles.Profile) { p.Forwards[0].Sources = []netip.Prefix{{}} },
			"is not a prefix"},
		{"source from nowhere", func(p *profiles.Profile) {
			p.NAT.Sources = []profiles.SourceNAT{{From: "gone", To: "internet", First: netip.MustParseAddr("192.0.2.1"),
				Last: netip.MustParseAddr("192.0.2.1")}}
		}, `nat: there is no zone "gone"`},
		{"source upside down", func(p *profiles.Profile) {
			p.NAT.Sources = []profiles.SourceNAT{{From: "dmz", To: "internet", First: netip.MustParseAddr("192.0.2.2"),
				Last: netip.MustParseAddr("192.0.2.1")}}
		}, "192.0.2.2 to 192.0.2.1 is no range"},
		{"source of another family", func(p *profiles.Profile) {
			p.NAT.Sources = []profiles.SourceNAT{{From: "dmz", To: "internet", First: netip.MustParseAddr("192.0.2.2"),
				Last: netip.MustParseAddr("192.0.2.2"), Clients: []netip.Prefix{netip.MustParsePrefix("fd00::/8")}}}
		}, "fd00::/8 is no prefix that can leave under 192.0.2.2"},
		{"mapping of nothing", func(p *profiles.Profile) { p.NAT.Mappings = []profiles.Mapping{{Zone: "internet"}} },
			"is no prefix that can be mapped"},
		{"mapping of two lengths", func(p *profiles.Profile) {
			p.NAT.Mappings = []profiles.Mapping{{Zone: "internet", Outside: netip.MustParsePrefix("100.64.0.0/28"),
				Inside: netip.MustParsePrefix("10.9.0.0/29")}}
		}, "100.64.0.0/28 and 10.9.0.0/29 cannot be mapped"},
		{"mapping of a forward's target", func(p *profiles.Profile) {
			p.NAT.Mappings = []profiles.Mapping{{Zone: "internet", Outside: netip.MustParsePrefix("100.64.0.2/32"),
				Inside: netip.MustParsePrefix("192.168.0.102/32")}}
		}, "has the target of a forward too"},
		{"too many translations", func(p *profiles.Profile) { p.NAT.Mappings = make([]profiles.Mapping, 5000) },
			"the profile is too large"},
		{"forward to loopback", func(p *profiles.Profile) { p.Forwards[0].To = netip.MustParseAddr("127.0.0.1") },
			"no address a connection"},
		{"forward of ping", func(p *profiles.Profile) { p.Forwards[0].Protocol = profiles.Ping }, `protocol "ping"`},
		{"forward with and without snat", func(p *profiles.Profile) {
			f := p.Forwards[0]
			f.SNAT = false
			p.Forwards = append(p.Forwards, f)
		}, "with and without snat"},
		{"too many rules", func(p *profiles.Profile) { p.Policy = make([]profiles.Rule, 20_001) }, "too large"},
		{"too many moved ports", func(p *profiles.Profile) {
			p.Forwards[0].Ports, p.Forwards[0].ToPort = []profiles.PortRange{{First: 1, Last: 60000}}, 2
			p.Forwards = append(p.Forwards, p.Forwards[0])
		}, "at most 65536"},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := filtertest.OneArmed()
			test.harm(p)
			_, err := filter.Compile(p)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("Compile = %v; want an error with %q", err, test.want)
			}
		})
	}
	if _, err := filter.Compile(nil); err == nil {
		t.Error("Compile(nil) = no error; want one")
	}
}

// Bans relies on nobody either; and bans that cannot be compiled leave the policy as it is.
func TestBansRefuses(t *testing.T) {
	for _, test := range []struct {
		harm func(*profiles.Ban)
		want string
	}{
		{func(b *profiles.Ban) { b.Service = "a b" }, `"a b" is no name of a service (30:5)`},
		{func(b *profiles.Ban) { b.Ports = nil }, `"ssh" has no ports`},
		{func(b *profiles.Ban) { b.Ports = []profiles.PortRange{{First: 2, Last: 1}} }, "ports 2-1: want"},
		{func(b *profiles.Ban) { b.Attempts = 0 }, "0 attempts in 10 s for 12 s"},
		{func(b *profiles.Ban) { b.Window = 0 }, "3 attempts in 0 s"},
		{func(b *profiles.Ban) { b.For = 1 << 40 }, "for 1099511627776 s"},
	} {
		p := filtertest.Banning()
		test.harm(&p.Bans[0])
		if _, err := filter.Bans(p); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("Bans = %v; want an error with %q", err, test.want)
		}
		if _, err := filter.Compile(p); err != nil {
			t.Errorf("Compile = %v; want no error", err)
		}
	}
}

// With no admin at all, or an admin by address only, the closed rules open no more than that.
func TestClosedOpensTheAdminPathOnly(t *testing.T) {
	for _, test := range []struct {
		admin profiles.Admin
		want  int
	}{
		{profiles.Admin{None: true, Zones: []string{"home"}}, 0},
		{profiles.Admin{}, 0},
		{profiles.Admin{Prefixes: []netip.Prefix{netip.MustParsePrefix("203.0.113.7/32")}}, 1},
		{profiles.Admin{Zones: []string{"home"}}, 2}, // IPv4 and IPv6
	} {
		p := filtertest.OneArmed()
		p.Admin = test.admin
		rs, err := filter.Closed(p)
		if err != nil {
			t.Fatal(err)
		}
		text := rs.Text()
		if got := strings.Count(text, "tcp dport 22 accept"); got != test.want {
			t.Errorf("Closed with admin %+v opens port 22 %d times; want %d\n%s", test.admin, got, test.want, text)
		}
		if test.want == 0 && strings.Count(text, " accept ") != 1 {
			t.Errorf("Closed without admin accepts more than loopback:\n%s", text)
		}
	}
}
