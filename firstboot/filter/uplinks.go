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
	for _, up := range c.profile.Links {
		out := Chain{Name: "apart/" + up.Name}
		for _, in := range c.profile.Links {
			if in.Name == up.Name {
				continue // whoever is there needs nobody to hand it on
			}
			ch := Chain{Name: out.Name + "/" + in.Name}
			for _, v6 := range families {
				if slices.Contains(c.uplinks(v6), up.Name) {
					c.keepLinkApart(&ch, in.Name, up.Name, v6)
				}
			}
			if len(ch.Rules) > 0 {
				*c.chain(ch.Name, nil) = ch
				out.add("", Match{IIfName, []Range{ifName(in.Name)}}, Verdict{VerdictJump, ch.Name})
			}
		}
		if len(out.Rules) > 0 {
			*c.chain(out.Name, nil) = out
			rules.add("known or not", Match{OIfName, []Range{ifName(up.Name)}}, Verdict{VerdictJump, out.Name})
		}
	}
}

// keepLinkApart adds what leads packets of a family from zones of a link to the chain of their pair, if they leave by
// an uplink for a zone that they may not talk to. Where that is each zone of the uplink, the way of new connections
// leads there.
func (c *compiler) keepLinkApart(ch *Chain, in, up string, v6 bool) {
	for _, from := range c.profile.Zones {
		var apart []profiles.Zone
		all := true
		for _, to := range c.profile.Zones {
			switch {
			case len(c.space.on(to.Name, up, v6)) == 0:
			case c.talks(from.Name, to.Name) || c.talks(to.Name, from.Name):
				all = false
			default:
				apart = append(apart, to)
			}
		}
		for _, src := range c.space.on(from.Name, in, v6) {
			source := Match{srcField(v6), []Range{addrRange(src)}}
			if all && len(apart) > 0 {
				ch.add("zone "+from.Name, source, Verdict{VerdictGoto, "to/" + from.Name + "." + up})
				continue
			}
			for _, to := range apart {
				for _, dst := range c.space.on(to.Name, up, v6) {
					ch.add("zones "+from.Name+" and "+to.Name, source, Match{dstField(v6), []Range{addrRange(dst)}},
						Verdict{VerdictGoto, "fwd/" + from.Name + "/" + to.Name})
				}
			}
		}
	}
}

// talks tells whether a line of the policy or a forward lets connections begin in one zone that lead to another.
func (c *compiler) talks(from, to string) bool {
	return slices.ContainsFunc(c.profile.Policy, func(r profiles.Rule) bool {
		return r.Action == profiles.Accept && covers(r.From, from) && covers(r.To, to)
	}) || slices.ContainsFunc(c.profile.Forwards, func(f profiles.Forward) bool {
		return f.From == from && slices.ContainsFunc(f.Targets(), func(a netip.Addr) bool {
			return slices.ContainsFunc(c.space.zones[to], func(sh share) bool {
				return sh.ranges[family(isV6(a))].contains(a)
			})
		})
	})
}
