package filter

import (
	"net/netip"
	"slices"

	"rempart/profiles"
)

// special are the prefixes that the profile singles out as sources of a zone: a host inside each shows the line, the
// zone's ordinary hosts show its limit.
func (b *prober) special(zone string) []netip.Prefix {
	list := slices.Clone(b.p.Admin.Prefixes)
	for _, r := range b.p.Policy {
		if covers(r.From, zone) {
			for _, m := range r.Matches {
				list = append(append(list, m.Sources...), setPrefixes(b.p, m.SourceSets)...)
			}
		}
	}
	for _, f := range b.p.Forwards {
		if f.From == zone {
			list = append(append(list, f.Sources...), setPrefixes(b.p, f.SourceSets)...)
		}
	}
	for _, o := range b.p.Openings() {
		list = append(list, o.Sources...)
	}
	list = append(list, b.sharers(zone)...)
	for _, s := range b.p.NAT.Sources {
		if s.From == zone {
			list = append(list, s.Clients...)
		}
	}
	for _, m := range b.p.NAT.Mappings {
		list = append(list, m.Inside)
	}
	return list
}

// targets are the prefixes that the profile singles out as destinations in a zone.
func (b *prober) targets(from, zone string) []netip.Prefix {
	var list []netip.Prefix
	for _, r := range b.p.Policy {
		if covers(r.From, from) && covers(r.To, zone) {
			for _, m := range r.Matches {
				list = append(append(list, m.Destinations...), setPrefixes(b.p, m.DestinationSets)...)
			}
		}
	}
	return list
}

// hosts are a zone's: one for each link it has a share of, and one for each singled out prefix in it.
func (b *prober) hosts(zone string, v6 bool, singled []netip.Prefix) []host {
	var out []host
	add := func(link string, ranges spans, avoid spans) {
		if a := b.pick(link, ranges.minus(avoid)); a.IsValid() {
			if h := (host{zone, link, a}); !slices.Contains(out, h) {
				out = append(out, h)
			}
		}
	}
	for _, sh := range b.space.zones[zone] {
		ranges := sh.ranges[family(v6)]
		add(sh.link, ranges, prefixSpans(singled, v6))
	}
	for _, x := range singled {
		if isV6(x.Addr()) != v6 {
			continue
		}
		for _, sh := range b.space.zones[zone] {
			add(sh.link, sh.ranges[family(v6)].and(union(prefixSpan(x))), nil)
		}
	}
	return out
}

// pick chooses a host address out of ranges of a link: a documentation address where a default route leads to it,
// else one in the link's subnets, else any.
func (b *prober) pick(link string, ranges spans) netip.Addr {
	if b.ports != nil {
		return b.pickNeighbour(link, ranges)
	}
	l := b.space.links[link].link
	if l.Dummy {
		return netip.Addr{} // nobody is on it
	}
	ranges = ranges.minus(union(prefixSpan(linkLocal6)))
	var wanted []spans
	for _, d := range documentation {
		if leads(b.p, l, isV6(d.Addr())) {
			wanted = append(wanted, ranges.and(union(prefixSpan(d))).minus(b.subnets(l)))
		}
	}
	for _, a := range l.Addresses {
		wanted = append(wanted, ranges.and(union(prefixSpan(a))))
	}
	// Behind the gateway of a link that is not the way out, hosts are reached by other links.
	elsewhere := func(v6 bool) bool {
		_, ok := defaultMetric(l, v6)
		return ok && !leads(b.p, l, v6)
	}
	rest := slices.DeleteFunc(slices.Clone(ranges), func(s span) bool { return elsewhere(isV6(s.first)) })
	for _, list := range append(wanted, rest) {
		// Of two addresses one may be a network's own, which in IPv6 is every router's on it: the last choice.
		for _, two := range []bool{false, true} {
			for _, s := range list {
				if a := b.free(s); a.IsValid() && (s.first.Next() == s.last) == two {
					return a
				}
			}
		}
	}
	return netip.Addr{}
}

// subnets are a link's own.
func (b *prober) subnets(l *profiles.Link) spans {
	var out []span
	for _, a := range l.Addresses {
		out = append(out, prefixSpan(a))
	}
	return union(out...)
}

// free is an address of a span that nobody in the profile has: its hostNumber-th if it can be, and neither the first
// nor the last, which may be a network's own and its broadcast address.
func (b *prober) free(s span) netip.Addr {
	if s.first == s.last {
		if b.machines(s.first) {
			return netip.Addr{}
		}
		return s.first // also a forward's target: somebody who is singled out by his address is there to be asked
	}
	a := s.first
	for range hostNumber {
		if next := a.Next(); next.IsValid() && next.Less(s.last) {
			a = next
		}
	}
	const tries = 4096 // more than the addresses any profile holds in one place
	for i := 0; i < tries && a.IsValid() && a.Less(s.last); i++ {
		if !b.taken(a) {
			return a
		}
		a = a.Next()
	}
	return netip.Addr{}
}

// taken tells whether the profile gives an address to something: the guest, a gateway, a forward's target.
func (b *prober) taken(a netip.Addr) bool {
	return b.machines(a) ||
		slices.ContainsFunc(b.p.Forwards, func(f profiles.Forward) bool { return slices.Contains(f.Targets(), a) })
}

// machines tells whether an address is the guest's or a gateway's.
func (b *prober) machines(a netip.Addr) bool {
	for _, l := range b.p.Links {
		if slices.ContainsFunc(l.Addresses, func(x netip.Prefix) bool { return x.Addr() == a }) ||
			slices.ContainsFunc(l.Gateways, func(g profiles.Gateway) bool { return g.Addr == a }) {
			return true
		}
	}
	return false
}
