package filter

import (
	"cmp"
	"net/netip"
	"slices"

	"rempart/profiles"
)

// space is which addresses belong where. It is computed once from the links and zones and is what both the rules and
// the probes are made of.
type space struct {
	links map[string]*linkSpace
	// zones: zone -> its share of each link, in the order of its members.
	zones map[string][]share
}

// linkSpace is one link's addresses.
type linkSpace struct {
	link *profiles.Link
	// source[v]: what may come in by the link, and what is reached by it; v is 0 for IPv4, 1 for IPv6.
	source [2]spans
}

// share is a zone's part of one link.
type share struct {
	link   string
	ranges [2]spans
}

func family(v6 bool) int {
	if v6 {
		return 1
	}
	return 0
}

// everywhere is what a default route may lead to: in IPv4 all but "this network", loopback, multicast and reserved
// addresses (RFC 6890); in IPv6 what is assigned for unicast at all (RFC 4291, section 2.4), which is global
// addresses, unique local ones (RFC 4193) and those that stand for IPv4 hosts (RFC 6052).
func everywhere(v6 bool) spans {
	var out []span
	if v6 {
		for _, p := range []string{"64:ff9b::/96", "2000::/3", "fc00::/7"} {
			out = append(out, prefixSpan(netip.MustParsePrefix(p)))
		}
		return union(out...)
	}
	for _, p := range []string{"0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/3"} {
		out = append(out, prefixSpan(netip.MustParsePrefix(p)))
	}
	return union(prefixSpan(netip.MustParsePrefix("0.0.0.0/0"))).minus(union(out...))
}

// linkLocal6 is what hosts of a link call themselves among each other (RFC 4291, section 2.5.6).
var linkLocal6 = netip.MustParsePrefix("fe80::/10")

// hasFamily tells whether a link speaks a family at all.
func hasFamily(l *profiles.Link, v6 bool) bool {
	if l.Learns(v6) {
		return true
	}
	return slices.ContainsFunc(l.Addresses, func(a netip.Prefix) bool { return isV6(a.Addr()) == v6 })
}

// hasDefault tells whether a default route leads out by a link.
func hasDefault(l *profiles.Link, v6 bool) bool {
	if l.Learns(v6) {
		// Also without its default route: what subnet the link will be in nobody knows yet.
		return true
	}
	return slices.ContainsFunc(l.Gateways, func(g profiles.Gateway) bool { return isV6(g.Addr) == v6 }) ||
		slices.ContainsFunc(l.Routes, func(r profiles.Route) bool { return r.To.Bits() == 0 && isV6(r.To.Addr()) == v6 })
}

// claims are the prefixes that a link calls its own, by its addresses, its on-link gateways, its routes,
// its zones, and what routers on it are delegated.
func claims(p *profiles.Profile, l *profiles.Link, v6 bool) []netip.Prefix {
	var out []netip.Prefix
	for _, a := range l.Addresses {
		out = append(out, a.Masked())
	}
	for _, g := range l.Gateways {
		if g.OnLink {
			out = append(out, netip.PrefixFrom(g.Addr, g.Addr.BitLen()))
		}
	}
	for _, r := range l.Routes {
		if r.OnLink {
			out = append(out, netip.PrefixFrom(r.Via, r.Via.BitLen()))
		}
		if r.To.Bits() > 0 { // a default route claims what nobody else does
			out = append(out, r.To)
		}
	}
	if d := p.DHCP6Of(l.Name); d != nil && d.Delegate != nil && !d.Delegate.Delegated {
		out = append(out, d.Delegate.Prefix)
	}
	for _, z := range p.Zones {
		for _, m := range z.Members {
			if m.Link == l.Name {
				out = append(out, m.Prefixes...)
			}
		}
	}
	return slices.DeleteFunc(out, func(x netip.Prefix) bool {
		return isV6(x.Addr()) != v6 || x.Addr().IsLinkLocalUnicast() && v6
	})
}

func newSpace(p *profiles.Profile) *space {
	s := &space{links: map[string]*linkSpace{}, zones: map[string][]share{}}
	for i := range p.Links {
		l := &p.Links[i]
		ls := &linkSpace{link: l}
		for _, v6 := range families {
			ls.source[family(v6)] = sourceSpace(p, l, v6)
		}
		s.links[l.Name] = ls
	}
	for _, z := range p.Zones {
		for _, m := range z.Members {
			if master := p.MasterOf(m.Link); master != nil && master.Bridge != nil {
				continue // what it is about is not routed; see newBridgeSpace
			}
			sh := share{link: m.Link}
			for _, v6 := range families {
				f := family(v6)
				all := s.links[m.Link].source[f]
				switch {
				case m.Rest:
					sh.ranges[f] = all.minus(claimedByZones(p, m.Link, v6))
				case len(m.Prefixes) > 0:
					sh.ranges[f] = all.and(prefixSpans(m.Prefixes, v6))
				default:
					sh.ranges[f] = all
				}
			}
			s.join(z.Name, sh)
		}
	}
	return s
}

// join adds a share to a zone; of one link a zone has one share.
func (s *space) join(zone string, sh share) {
	for i := range s.zones[zone] {
		if have := &s.zones[zone][i]; have.link == sh.link {
			for f := range sh.ranges {
				have.ranges[f] = union(append(have.ranges[f], sh.ranges[f]...)...)
			}
			return
		}
	}
	s.zones[zone] = append(s.zones[zone], sh)
}

// sourceSpace is what belongs to a link: its own claims, and with a default route all that no other link claims. Of
// two claims on an address the longer prefix wins, as it does in routing.
func sourceSpace(p *profiles.Profile, l *profiles.Link, v6 bool) spans {
	if !hasFamily(l, v6) {
		return nil
	}
	if v6 && delegatedOnly(l) { // what of it is whose, the routing table knows
		return union(append(slices.Clip(delegable), prefixSpan(linkLocal6))...)
	}
	mine := claims(p, l, v6)
	var others []netip.Prefix
	for i := range p.Links {
		if o := &p.Links[i]; o.Name != l.Name {
			others = append(others, claims(p, o, v6)...)
		}
	}
	var out []span
	for _, c := range mine {
		var closer []netip.Prefix
		for _, o := range others {
			if o.Bits() > c.Bits() {
				closer = append(closer, o)
			}
		}
		out = append(out, union(prefixSpan(c)).minus(prefixSpans(closer, v6))...)
	}
	if hasDefault(l, v6) {
		out = append(out, everywhere(v6).minus(prefixSpans(others, v6))...)
	}
	if v6 {
		out = append(out, prefixSpan(linkLocal6))
	}
	return union(out...)
}

// claimedByZones is what zones by prefix have taken of a link.
func claimedByZones(p *profiles.Profile, link string, v6 bool) spans {
	var taken []netip.Prefix
	for _, z := range p.Zones {
		for _, m := range z.Members {
			if m.Link == link && !m.Rest {
				taken = append(taken, m.Prefixes...)
			}
		}
	}
	return prefixSpans(taken, v6)
}

// has tells whether a zone has addresses of a family.
func (s *space) has(zone string, v6 bool) bool {
	return slices.ContainsFunc(s.zones[zone], func(sh share) bool { return len(sh.ranges[family(v6)]) > 0 })
}

// on is a zone's part of a link in one family.
func (s *space) on(zone, link string, v6 bool) spans {
	for _, sh := range s.zones[zone] { // of one link it has one share
		if sh.link == link {
			return sh.ranges[family(v6)]
		}
	}
	return nil
}

// isOn tells whether a zone has a part of a link.
func (s *space) isOn(zone, link string) bool {
	return len(s.on(zone, link, false))+len(s.on(zone, link, true)) > 0
}

// zonesOf are the zones that an address is in, by whichever links.
func (s *space) zonesOf(a netip.Addr) (all []string) {
	for zone, shares := range s.zones {
		if slices.ContainsFunc(shares, func(sh share) bool { return sh.ranges[family(isV6(a))].contains(a) }) {
			all = append(all, zone)
		}
	}
	return all
}

// defaultMetric is how a link's default route of a family stands among those of other links, the lowest first, as
// package link orders them; false when it has none in the main table.
func defaultMetric(l *profiles.Link, v6 bool) (uint32, bool) {
	const static, dhcp, advertised = 100, 512, 1024
	best, ok := uint32(0), false
	take := func(metric uint32) {
		if !ok || metric < best {
			best, ok = metric, true
		}
	}
	for _, g := range l.Gateways {
		if isV6(g.Addr) == v6 {
			take(cmp.Or(g.Metric, static))
		}
	}
	if l.InstanceGateway && len(l.Gateways) == 0 {
		take(static)
	}
	if !l.Accept.NoDefault && l.DHCP && !v6 {
		take(cmp.Or(l.Accept.Metric, dhcp))
	}
	if !l.Accept.NoDefault && l.Auto && v6 {
		take(cmp.Or(l.Accept.Metric, advertised))
	}
	return best, ok
}

// leads tells whether what has no closer route leaves by a link; what leaves by none does so by any that may.
func leads(p *profiles.Profile, l *profiles.Link, v6 bool) bool {
	mine, ok := defaultMetric(l, v6)
	for i := range p.Links {
		if other, has := defaultMetric(&p.Links[i], v6); has && (!ok || other < mine) {
			return false
		}
	}
	return hasDefault(l, v6)
}

// linkTo is the link by which an address is reached: the one with the closest subnet, else the first with a default
// route of the family; nil when there is none.
func linkTo(p *profiles.Profile, a netip.Addr) (*profiles.Link, netip.Prefix) {
	var best *profiles.Link
	var subnet netip.Prefix
	for i := range p.Links {
		for _, own := range p.Links[i].Addresses {
			if own.Contains(a) && (best == nil || own.Bits() > subnet.Bits()) {
				best, subnet = &p.Links[i], own.Masked()
			}
		}
	}
	if best != nil {
		return best, subnet
	}
	for i := range p.Links {
		if leads(p, &p.Links[i], isV6(a)) {
			return &p.Links[i], netip.Prefix{}
		}
	}
	return nil, netip.Prefix{}
}
