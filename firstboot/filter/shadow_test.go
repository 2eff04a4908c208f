package filter_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"rempart/firstboot/filter"
	"rempart/profiles"
)

// What rules of random policies are made of: few things, so that they often meet.
var (
	shadowPrefixes = []string{"0.0.0.0/0", "10.0.0.0/8", "10.0.0.0/24", "10.0.0.128/25", "10.0.0.7/32", "10.0.1.0/24",
		"::/0", "fd00::/64", "fd00::8/125", "fd00::9/128"}
	shadowAddrs = []string{"10.0.0.1", "10.0.0.7", "10.0.0.70", "10.0.0.130", "10.0.0.255", "10.0.1.1", "10.0.1.200",
		"10.9.9.9", "192.0.2.1", "fd00::1", "fd00::9", "fd00::f", "fd00:0:0:1::1"}
	shadowSets  = []string{"a", "b", "c", "listed"}
	shadowPorts = []profiles.PortRange{{First: 80, Last: 80}, {First: 80, Last: 90}, {First: 1, Last: 100},
		{First: 91, Last: 443}, {First: 443, Last: 443}}
	shadowProtocols = []profiles.Protocol{profiles.AnyProtocol, profiles.TCP, profiles.TCP, profiles.UDP, profiles.Ping,
		profiles.ICMP, profiles.ICMP6}
)

// randomPolicy is a profile with so many random rules, each at the line of its number.
func randomPolicy(t *testing.T, random *rand.Rand, rules int) *profiles.Profile {
	t.Helper()
	list := func(text string) profiles.Ranges {
		r, _, err := profiles.ReadList(strings.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	p := &profiles.Profile{Name: "random", Sets: []profiles.Set{
		{Name: "a", Ranges: list("10.0.0.0/25\n10.0.1.0/25\n")}, {Name: "b", Ranges: list("10.0.0.0/26\n")},
		{Name: "c", Ranges: list("10.0.0.0/24\nfd00::/120\n")},
		{Name: "listed", Ranges: list("10.0.0.1\n"), Source: &profiles.ListSource{}}}}
	some := func(of []string) (out []string) {
		for _, s := range of {
			if random.IntN(len(of)) == 0 {
				out = append(out, s)
			}
		}
		return out
	}
	addresses := func() (prefixes []netip.Prefix, sets []string) {
		if random.IntN(2) == 0 {
			return nil, nil
		}
		for _, s := range some(shadowPrefixes) {
			prefixes = append(prefixes, netip.MustParsePrefix(s))
		}
		if random.IntN(2) == 0 {
			sets = some(shadowSets)
		}
		return prefixes, sets
	}
	zones := []string{"net", "lan", profiles.Any, profiles.Self}
	for i := range rules {
		r := profiles.Rule{From: zones[random.IntN(4)], To: zones[random.IntN(4)], Action: profiles.Drop,
			At: profiles.Pos{Line: i + 1, Column: 1}}
		for range random.IntN(3) {
			m := profiles.Match{Protocol: shadowProtocols[random.IntN(len(shadowProtocols))]}
			if m.Protocol.HasPorts() {
				for range random.IntN(3) {
					m.Ports = append(m.Ports, shadowPorts[random.IntN(len(shadowPorts))])
				}
			}
			if (m.Protocol == profiles.ICMP || m.Protocol == profiles.ICMP6) && random.IntN(2) == 0 {
				m.Types = []uint16{8, 128}[random.IntN(2):]
			}
			m.Sources, m.SourceSets = addresses()
			m.Destinations, m.DestinationSets = addresses()
			r.Matches = append(r.Matches, m)
		}
		p.Policy = append(p.Policy, r)
	}
	return p
}

// A rule that is said never to decide decides no flow of any kind.
func TestShadowedNeverDecide(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 1))
	found, flows := 0, 0
	for range 300 {
		p := randomPolicy(t, random, 12)
		shadowed := map[int]bool{}
		for _, s := range p.Shadowed() {
			if s.By >= s.Rule {
				t.Fatalf("rule %d is said to be hidden by %d, which comes later", s.Rule, s.By)
			}
			shadowed[s.Rule+1] = true
			found++
		}
		if len(shadowed) == 0 {
			continue
		}
		try := func(from, to string, src, dst netip.Addr, protocol profiles.Protocol, port uint16) {
			flows++
			why := filter.DecidedBy(p, from, to, src, dst, protocol, port)
			_, place, _ := strings.Cut(why, " (")
			var line, column int
			if n, _ := fmt.Sscanf(place, "%d:%d)", &line, &column); n == 2 && shadowed[line] {
				t.Fatalf("%s -> %s %s %d from %v to %v is decided by rule %d, which is said never to decide: %s\n%+v", from, to,
					protocol, port, src, dst, line, why, p.Policy)
			}
		}
		for _, from := range []string{"net", "lan", profiles.Self} {
			for _, to := range []string{"net", "lan", profiles.Self} {
				for _, a := range shadowAddrs {
					for _, b := range shadowAddrs {
						src, dst := netip.MustParseAddr(a), netip.MustParseAddr(b)
						if src.Is4() != dst.Is4() || random.IntN(4) > 0 {
							continue
						}
						for _, port := range []uint16{79, 80, 85, 91, 100, 443} {
							try(from, to, src, dst, profiles.TCP, port)
							try(from, to, src, dst, profiles.UDP, port)
						}
						try(from, to, src, dst, profiles.Ping, 0)
					}
				}
			}
		}
	}
	if found < 300 {
		t.Errorf("%d rules never decide; want more for the test to mean something", found)
	}
	t.Logf("%d rules never decide, shown by %d flows", found, flows)
}
