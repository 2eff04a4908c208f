package filter

import (
	"net/netip"
	"reflect"
	"slices"
	"strconv"

	"rempart/profiles"
)

// sourceNAT gives connections another source. First come forwards that ask for this machine's own, and those whose
// client sits in the same subnet as the server and would get its answers directly; then hosts that are mapped, the
// lines of the profile in their order, and at last the masqueraded pairs.
func (c *compiler) sourceNAT() {
	rules := Chain{Name: "srcnat",
		Base: &Base{Type: "nat", Hook: Postrouting, Priority: prioritySrcNAT, Policy: VerdictAccept}}
	for _, z := range c.profile.Zones {
		ch, proxied := Chain{Name: "srcnat/" + z.Name}, Chain{Name: "srcnat.proxied/" + z.Name}
		for i := range c.profile.Forwards {
			f := &c.profile.Forwards[i]
			if f.From != z.Name || !c.space.has(z.Name, isV6(f.To)) {
				continue
			}
			for _, one := range f.Single() {
				if f.SNAT {
					ch.add(forwardComment(&one), append(exactly(&one), Masquerade{})...)
					ch.Rules[len(ch.Rules)-1].At = f.At
				} else {
					c.hairpin(&ch, &one, true)
				}
				switch {
				case f.SynProxy == nil:
				case f.SNAT:
					proxied.add(forwardComment(&one), append(exactly(&one), Masquerade{})...)
				default:
					c.hairpin(&proxied, &one, false)
				}
			}
		}
		c.bundle(&ch)
		c.merge(&ch)
		c.fromZone(&rules, ch, z.Name)
		if len(proxied.Rules) > 0 {
			*c.chain(proxied.Name, nil) = proxied
			c.clients(&rules, z.Name, Verdict{VerdictJump, proxied.Name})
		}
	}
	for i := range c.profile.NAT.Mappings {
		c.mapOutwards(&rules, i)
	}
	for i := range c.profile.NAT.Sources {
		c.source(&rules, i)
	}
	for _, m := range c.profile.Masquerade {
		c.masquerade(&rules, m)
	}
	if len(rules.Rules) > 0 {
		*c.chain(rules.Name, nil) = rules
	}
}

// hairpin adds rules for the clients of a forward that share the server's subnet. What a SYN proxy sends in their name
// came by no link.
func (c *compiler) hairpin(ch *Chain, f *profiles.Forward, came bool) {
	l, subnet := linkTo(c.profile, f.To)
	if l == nil || !subnet.IsValid() {
		return
	}
	v6 := isV6(f.To)
	for _, sh := range c.space.zones[f.From] {
		if sh.link != l.Name {
			continue
		}
		for _, near := range sh.ranges[family(v6)].and(union(prefixSpan(subnet))) {
			way := []Expr{Match{IIfName, []Range{ifName(l.Name)}}, Match{OIfName, []Range{ifName(l.Name)}}}
			if !came {
				way = way[1:]
			}
			ch.add(forwardComment(f)+" hairpin", slices.Concat(way, []Expr{Match{srcField(v6), []Range{addrRange(near)}}},
				exactly(f), []Expr{Masquerade{}})...)
			ch.Rules[len(ch.Rules)-1].At = f.At
		}
	}
}

// bundle moves hairpin rules that ask for the same links and clients to a chain of their own, where there are many; all
// rules of the chain do the same, so their order means nothing.
func (c *compiler) bundle(ch *Chain) {
	way := func(r *Rule) int { // how many expressions are about links and clients
		return slices.IndexFunc(r.Do, func(e Expr) bool { return isAddr(e, false) || isAddr(e, true) })
	}
	same := func(a, b *Rule) bool {
		n := way(a)
		return n > 0 && n == way(b) && reflect.DeepEqual(a.Do[:n], b.Do[:n])
	}
	var out []Rule
	for len(ch.Rules) > 0 {
		first := ch.Rules[0]
		var alike, others []Rule
		for _, r := range ch.Rules[1:] {
			if same(&first, &r) {
				alike = append(alike, r)
			} else {
				others = append(others, r)
			}
		}
		if len(alike)+1 < mergeFrom {
			out, ch.Rules = append(out, first), ch.Rules[1:]
			continue
		}
		n := way(&first)
		into := Chain{Name: ch.Name + "/" + strconv.Itoa(len(out)+1)}
		for _, r := range append([]Rule{first}, alike...) {
			r.Do = r.Do[n:]
			into.Rules = append(into.Rules, r)
		}
		c.merge(&into)
		*c.chain(into.Name, nil) = into
		out = append(out, Rule{Do: append(slices.Clone(first.Do[:n]), Verdict{VerdictJump, into.Name}), Comment: "hairpin"})
		ch.Rules = others
	}
	ch.Rules = out
}

// masquerade adds what leaves under the address of its link.
func (c *compiler) masquerade(rules *Chain, m profiles.Pair) {
	ch := Chain{Name: "masquerade/" + m.From + "/" + m.To}
	if c.table.find(ch.Name) != nil {
		return // written twice
	}
	for _, v6 := range families {
		if m.Families.Has(v6) && c.speaks(m.From, m.To, v6) {
			c.leaving(&ch, "masquerade: "+m.From+" -> "+m.To+at(m.At), m.To, v6, Masquerade{})
		}
	}
	c.fromZone(rules, ch, m.From)
}

// leaving adds a rule for each range of a zone's share of each link that translates what goes there.
func (c *compiler) leaving(ch *Chain, comment, zone string, v6 bool, do Expr) {
	for _, sh := range c.space.zones[zone] {
		for _, r := range sh.ranges[family(v6)] {
			ch.add(comment, Match{OIfName, []Range{ifName(sh.link)}}, Match{dstField(v6), []Range{addrRange(r)}}, do)
		}
	}
}

// source adds the n-th line of addresses that traffic leaves under.
func (c *compiler) source(rules *Chain, n int) {
	s := &c.profile.NAT.Sources[n]
	v6 := isV6(s.First)
	if !c.speaks(s.From, s.To, v6) {
		return
	}
	ch := Chain{Name: "source/" + strconv.Itoa(n+1)}
	c.leaving(&ch, sourceComment(s), s.To, v6, SourceNAT{addrRange(span{s.First, s.Last}), v6})
	if len(s.Clients) == 0 {
		c.fromZone(rules, ch, s.From)
		return
	}
	*c.chain(ch.Name, nil) = ch
	clients := prefixSpans(s.Clients, v6)
	for _, sh := range c.space.zones[s.From] {
		for _, r := range sh.ranges[family(v6)].and(clients) {
			rules.add("from "+s.From, Match{IIfName, []Range{ifName(sh.link)}}, Match{srcField(v6), []Range{addrRange(r)}},
				Verdict{VerdictJump, ch.Name})
		}
	}
}

// mapInwards adds what comes from a zone for addresses that stand for others.
func (c *compiler) mapInwards(ch *Chain, z *profiles.Zone) {
	for i := range c.profile.NAT.Mappings {
		m := &c.profile.NAT.Mappings[i]
		v6 := isV6(m.Inside.Addr())
		if mapsFor(m, z) && c.space.has(z.Name, v6) {
			ch.add(mapComment(m), Match{dstField(v6), []Range{addrRange(prefixSpan(m.Outside))}}, toPrefix(m.Inside, false))
		}
	}
}

// mapsFor tells whether a mapping holds for what comes from a zone: its own, and those that are not external.
func mapsFor(m *profiles.Mapping, z *profiles.Zone) bool { return m.Zone == z.Name || !z.External }

// toPrefix translates to a prefix, or to the one address it is.
func toPrefix(p netip.Prefix, source bool) Expr {
	to, v6 := addrRange(prefixSpan(p)), isV6(p.Addr())
	switch {
	case !p.IsSingleIP():
		return MapPrefix{To: to, IPv6: v6, Source: source}
	case source:
		return SourceNAT{To: to, IPv6: v6}
	}
	return DestinationNAT{To: to, IPv6: v6}
}

// mapOutwards adds what the hosts of the n-th mapping send to its zone; and what is sent to them from their own
// subnet by their outside address, which they would answer directly.
func (c *compiler) mapOutwards(rules *Chain, n int) {
	m := &c.profile.NAT.Mappings[n]
	v6 := isV6(m.Inside.Addr())
	ch := Chain{Name: "map/" + strconv.Itoa(n+1)}
	c.leaving(&ch, mapComment(m), m.Zone, v6, toPrefix(m.Outside, true))
	*c.chain(ch.Name, nil) = ch
	inside := Match{srcField(v6), []Range{addrRange(prefixSpan(m.Inside))}}
	rules.add(mapComment(m), inside, Verdict{VerdictJump, ch.Name})
	for _, l := range c.profile.Links {
		for _, own := range l.Addresses {
			if !own.Masked().Overlaps(m.Inside) {
				continue
			}
			hosts := union(prefixSpan(own)).and(union(prefixSpan(m.Inside)))
			rules.add(mapComment(m)+" hairpin", Match{IIfName, []Range{ifName(l.Name)}}, Match{OIfName, []Range{ifName(l.Name)}},
				Match{srcField(v6), []Range{addrRange(prefixSpan(own))}}, Match{dstField(v6), ranges(hosts)},
				Bits{Field: CTStatus, Mask: ctDestNAT}, Masquerade{})
		}
	}
}

// sourceComment names a line of addresses that traffic leaves under.
func sourceComment(s *profiles.SourceNAT) string {
	return "source: " + s.From + " -> " + s.To + " as " + span{s.First, s.Last}.String() + at(s.At)
}

// mapComment names a mapping.
func mapComment(m *profiles.Mapping) string {
	return "map: " + span{m.Outside.Addr(), prefixSpan(m.Outside).last}.String() + " = " +
		span{m.Inside.Addr(), prefixSpan(m.Inside).last}.String() + at(m.At)
}
