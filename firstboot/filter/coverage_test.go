package filter_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"rempart/firstboot/filter"
	"rempart/profiles"
)

// Nothing is left unproven: for every pair of zones that packets can go between, and for every zone and the guest,
// there are probes by TCP, UDP and ping in every family that both speak, between all their links; and every line that
// accepts one of these protocols, and every forward, has one that passes by it.
func TestProbesCover(t *testing.T) {
	for _, p := range everyProfile(t) {
		have := map[string]bool{}
		proven := map[string]bool{}
		speaks := map[string]bool{} // link and family
		for _, probe := range filter.Probes(p) {
			v6 := probe.Src.Is6()
			have[fmt.Sprint(probe.Link, ">", probe.OutLink, " ", v6, " ", probe.Protocol)] = true
			speaks[fmt.Sprint(probe.Link, v6)] = true
			if probe.Pass {
				proven[probe.Proves[strings.LastIndex(probe.Proves, "(")+1:]] = true
			}
		}
		want := func(what, from, to string, v6 bool) {
			for _, proto := range []profiles.Protocol{profiles.TCP, profiles.UDP, profiles.Ping} {
				if !have[fmt.Sprint(from, ">", to, " ", v6, " ", proto)] {
					t.Errorf("%s: no probe by %s from link %s to %s, IPv6 %t: %s", p.Name, proto, from, to, v6, what)
				}
			}
		}
		pairs := 0
		for _, from := range p.Zones {
			for _, to := range p.Zones {
				for _, x := range from.Members {
					for _, y := range to.Members {
						bridged := p.Bridged(&from) && p.Bridged(&to) && p.MasterOf(x.Link) == p.MasterOf(y.Link)
						routed := !p.Bridged(&from) && !p.Bridged(&to)
						for _, v6 := range []bool{false, true} {
							both := speaks[fmt.Sprint(x.Link, v6)] && speaks[fmt.Sprint(y.Link, v6)]
							if x.Link != y.Link && (bridged || routed) && both {
								want(from.Name+" -> "+to.Name, x.Link, y.Link, v6)
								pairs++
							}
						}
					}
				}
			}
			for _, x := range from.Members {
				for _, v6 := range []bool{false, true} {
					if speaks[fmt.Sprint(x.Link, v6)] && !p.Bridged(&from) {
						want(from.Name+" -> self", x.Link, "", v6)
						pairs++
					}
				}
			}
		}
		if pairs == 0 {
			t.Errorf("%s: no pair was looked at", p.Name)
		}
		// Every subnet of a link of a zone is spoken for.
		for _, z := range p.Zones {
			for _, m := range z.Members {
				for _, l := range p.Links {
					for _, a := range l.Addresses {
						if l.Name == m.Link && !l.Dummy && !a.IsSingleIP() && len(m.Prefixes) == 0 &&
							!speaks[fmt.Sprint(l.Name, a.Addr().Is6())] {
							t.Errorf("%s: nobody on link %s sends anything in the family of %v", p.Name, l.Name, a)
						}
					}
				}
			}
		}
		for _, r := range p.Policy {
			usual := len(r.Matches) == 0 || slices.ContainsFunc(r.Matches, func(m profiles.Match) bool {
				return m.Protocol == profiles.AnyProtocol || m.Protocol == profiles.TCP || m.Protocol == profiles.UDP ||
					m.Protocol == profiles.Ping
			})
			if r.Action == profiles.Accept && usual && r.From != profiles.Self && !proven[r.At.String()+")"] {
				t.Errorf("%s: no probe passes by the line %s -> %s at %s", p.Name, r.From, r.To, r.At)
			}
		}
		for _, f := range p.Forwards {
			if !proven[f.At.String()+")"] {
				t.Errorf("%s: no probe passes by the forward to %s at %s", p.Name, f.To, f.At)
			}
		}
	}
}
