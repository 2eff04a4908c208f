package filter

import (
	"net/netip"
	"slices"

	"rempart/profiles"
)

// # Several uplinks
//
// Where more than one link has a default route, a connection that is known may be routed out by another link than the
// one it began by: its uplink goes down, a route is withdrawn, a rule of the routing changes. Masqueraded connections
// die of it (nf_nat_oif_changed of net/netfilter/nf_nat_core.c); others would go on, as connection tracking knows no
// links, and what was meant for a tunnel leaves in the clear. So before known connections pass, what would leave by an
// uplink for a zone that nobody there may talk to, in either direction, is led to the chain of its pair, which accepts
// nothing. Between zones with a line for some ports known connections of other ports do go on: what was decided for the
// first packet cannot be decided again for one in the middle.
//
// Of all other destinations the route says by which link, or that there is none (package link: unreachable).

// uplinks are the links with a default route of a family, where there are several.
func (c *compiler) uplinks(v6 bool) (all []string) {
	for i := range c.profile.Links {
		if l := &c.profile.Links[i]; hasDefault(l, v6) {
			all = append(all, l.Name)
		}
	}
	if len(all) < 2 {
		return nil
	}
	return all
}

// keepApart adds what keeps known connections off uplinks where they may not be. One comparison for each uplink is all
// that packets to elsewhere pay, and one for each link that zones are kept apart on those that leave by it.
func (c *compiler) keepApart(rules *Chain) {
	uplinks := [2][]string{c.uplinks(false), c.uplinks(true)}
	if len(uplinks[0])+len(uplinks[1]) == 0 {
		return
	}
	apart, ways := c.apart(), map[string]string{}
	for _, up := range c.profile.Links {
		out := Chain{Name: "apart/" + up.Name}
		for _, in := range c.profile.Links {
			if in.Name == up.Name {
				continue // whoever is there needs nobody to hand it on
			}
			ch := Chain{Name: out.Name + "/" + in.Name}
			for _, v6 := range families {
				if slices.Contains(uplinks[family(v6)], up.Name) {
					c.keepLinkApart(&ch, apart, ways, in.Name, up.Name, v6)
				}
			}
			way := Match{IIfName, []Range{ifName(in.Name)}}
			switch {
			case len(ch.Rules) == 0:
			case c.allApart(apart, in.Name, up.Name): // the way of new connections leads to the chains of the pairs
				out.add("", way, Verdict{VerdictJump, "from." + in.Name})
			default:
				*c.chain(ch.Name, nil) = ch
				out.add("", way, Verdict{VerdictJump, ch.Name})
			}
		}
		if len(out.Rules) > 0 {
			*c.chain(out.Name, nil) = out
			rules.add("known or not", Match{OIfName, []Range{ifName(up.Name)}}, Verdict{VerdictJump, out.Name})
		}
	}
}

// keepLinkApart adds what leads packets of a family from zones of a link to the chains of their pairs, if they leave by
// an uplink for a zone that they may not talk to. Ways are the chains that lead there so far, as zones may be on many
// links.
func (c *compiler) keepLinkApart(ch *Chain, apart pairs, ways map[string]string, in, up string, v6 bool) {
	for _, from := range c.profile.Zones {
		sources := c.space.on(from.Name, in, v6)
		if len(sources) == 0 {
			continue
		}
		name := "apart/" + up + "/to/" + from.Name + map[bool]string{false: ".4", true: ".6"}[v6]
		if _, known := ways[name]; !known {
			ways[name] = c.strangers(name, apart, from.Name, up, v6)
		}
		if strangers := ways[name]; strangers != "" {
			for _, src := range sources {
				ch.add("zone "+from.Name, Match{srcField(v6), []Range{addrRange(src)}}, Verdict{VerdictJump, strangers})
			}
		}
	}
}

// strangers is the chain that leads packets of a family from a zone to the chain of their pair, if they are for a zone
// of an uplink that it may not talk to; empty: there is none of these. Where it is each zone of the uplink, that is the
// way of new connections.
func (c *compiler) strangers(name string, apart pairs, from, up string, v6 bool) string {
	ch := Chain{Name: name}
	all := true
	for _, to := range c.profile.Zones {
		there := c.space.on(to.Name, up, v6)
		if all = all && (len(there) == 0 || apart[pair{from, to.Name}]); !apart[pair{from, to.Name}] {
			continue
		}
		for _, dst := range there {
			ch.add("zone "+to.Name, Match{dstField(v6), []Range{addrRange(dst)}},
				Verdict{VerdictGoto, "fwd/" + from + "/" + to.Name})
		}
	}
	switch {
	case len(ch.Rules) == 0:
		return ""
	case all:
		return "to/" + from + "." + up
	}
	*c.chain(ch.Name, nil) = ch
	return ch.Name
}

// pair is two zones, and pairs is a set of them.
type (
	pair  struct{ from, to string }
	pairs map[pair]bool
)

// allApart tells whether no zone of a link has any business with one of another.
func (c *compiler) allApart(apart pairs, in, up string) bool {
	for _, from := range c.profile.Zones {
		if !c.space.isOn(from.Name, in) {
			continue
		}
		for _, to := range c.profile.Zones {
			if c.space.isOn(to.Name, up) && !apart[pair{from.Name, to.Name}] {
				return false
			}
		}
	}
	return true
}

// apart are the zones that no line of the policy and no forward lets begin connections to each other, in either
// direction.
func (c *compiler) apart() pairs {
	talks := pairs{}
	for i := range c.profile.Policy {
		if r := &c.profile.Policy[i]; r.Action == profiles.Accept {
			talks[pair{r.From, r.To}] = true
		}
	}
	targets := map[netip.Addr][]string{} // their zones
	for i := range c.profile.Forwards {
		f := &c.profile.Forwards[i]
		for _, a := range f.Targets() {
			if _, known := targets[a]; !known {
				targets[a] = c.space.zonesOf(a)
			}
			for _, to := range targets[a] {
				talks[pair{f.From, to}] = true
			}
		}
	}
	lets := func(from, to string) bool {
		const each = profiles.Any
		return talks[pair{from, to}] || talks[pair{each, to}] || talks[pair{from, each}] || talks[pair{each, each}]
	}
	out := pairs{}
	for _, a := range c.profile.Zones {
		for _, b := range c.profile.Zones {
			if !lets(a.Name, b.Name) && !lets(b.Name, a.Name) {
				out[pair{a.Name, b.Name}] = true
			}
		}
	}
	return out
}
