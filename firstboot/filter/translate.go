package filter

import (
	"net/netip"
	"slices"

	"rempart/profiles"
)

// mappingOf is the mapping that stands for an address to a zone, and the inside address; judged, like decide, by the
// words of the profile.
func mappingOf(p *profiles.Profile, zone string, dst netip.Addr) (*profiles.Mapping, netip.Addr) {
	i := slices.IndexFunc(p.Zones, func(z profiles.Zone) bool { return z.Name == zone })
	for k := range p.NAT.Mappings {
		m := &p.NAT.Mappings[k]
		if i >= 0 && mapsFor(m, &p.Zones[i]) && m.Outside.Contains(dst) {
			return m, profiles.Translate(dst, m.Inside)
		}
	}
	return nil, netip.Addr{}
}

// leavesAs are the addresses a host may have as the source of what it sends to another. The zero Addr is the address of
// the link, known to it only.
func (b *prober) leavesAs(src, dst host) (first, last netip.Addr) {
	v6 := isV6(src.addr)
	for _, m := range b.p.NAT.Mappings {
		if m.Zone == dst.zone && m.Inside.Contains(src.addr) {
			return profiles.Translate(src.addr, m.Outside), netip.Addr{}
		}
	}
	for _, s := range b.p.NAT.Sources {
		if s.From != src.zone || s.To != dst.zone || isV6(s.First) != v6 || !within(b.p, s.Clients, nil, src.addr) {
			continue
		}
		if s.First == s.Last {
			return s.First, netip.Addr{}
		}
		return s.First, s.Last
	}
	for _, m := range b.p.Masquerade {
		if m.From == src.zone && m.To == dst.zone && m.Families.Has(v6) {
			return masked(b.space.links[dst.link].link, b.nextHop(dst))
		}
	}
	return src.addr, netip.Addr{}
}

// masked are the addresses a link may give to what it masquerades towards a next hop. Of several IPv6 addresses the
// kernel chooses by rules of its own (RFC 6724), so any will do.
func masked(l *profiles.Link, to netip.Addr) (first, last netip.Addr) {
	first, _ = ownAddress(l, to)
	if !isV6(to) {
		return first, netip.Addr{}
	}
	last = first
	for _, a := range l.Addresses {
		if isV6(a.Addr()) && a.Addr().Less(first) {
			first = a.Addr()
		}
		if isV6(a.Addr()) && last.Less(a.Addr()) {
			last = a.Addr()
		}
	}
	if first == last {
		last = netip.Addr{}
	}
	return first, last
}

// standIns are the addresses under which a host of a zone may know others: of each mapping one.
func (b *prober) standIns(src host) []netip.Addr {
	var out []netip.Addr
	for _, m := range b.p.NAT.Mappings {
		if isV6(m.Inside.Addr()) != isV6(src.addr) {
			continue
		}
		if known, _ := mappingOf(b.p, src.zone, m.Outside.Addr()); known == nil {
			continue
		}
		to, ok := b.mapped(m.Inside, src.addr)
		if ok {
			out = append(out, profiles.Translate(to.addr, m.Outside))
		}
	}
	return out
}

// mapped is a host behind a mapping, other than one that there is already.
func (b *prober) mapped(inside netip.Prefix, but netip.Addr) (host, bool) {
	v6 := isV6(inside.Addr())
	for _, z := range b.p.Zones {
		for _, sh := range b.space.zones[z.Name] {
			near := sh.ranges[family(v6)].and(union(prefixSpan(inside))).minus(spans{{but, but}})
			if a := b.pick(sh.link, near); a.IsValid() {
				return host{z.Name, sh.link, a}, true
			}
		}
	}
	return host{}, false
}

// byMapping is the probe of a flow to an address that stands for another; false where that cannot be tried.
func (b *prober) byMapping(probe Probe, src host, inside netip.Addr) (Probe, bool) {
	out, subnet := linkTo(b.p, inside)
	if out == nil || inside == src.addr {
		return probe, false
	}
	zone := b.zoneOf(out.Name, inside)
	if zone == "" {
		return probe, false
	}
	r := decide(b.p, flow{src.zone, zone, src.addr, inside, probe.Protocol, probe.Port, src.link})
	if r.notes && !b.explains {
		return probe, false
	}
	probe.To, probe.OutLink, probe.SeenDst, probe.Pass, probe.Proves = zone, out.Name, inside, r.pass, r.why
	if src.link == out.Name && subnet.IsValid() && subnet.Contains(src.addr) {
		probe.SeenSrc, probe.SeenLast = masked(out, inside)
	} else {
		probe.SeenSrc, probe.SeenLast = b.leavesAs(src, host{zone, out.Name, inside})
	}
	return probe, true
}
