package profiles

import (
	"fmt"
	"net/netip"
	"slices"
)

// mappings checks what is known under other addresses.
func (v *validator) mappings() {
	all := v.p.NAT.Mappings
	if len(all) > maxPairs {
		v.reject(all[maxPairs].At, "", "nat.map: %d entries, expected at most %d", len(all), maxPairs)
		return
	}
	for i, m := range all {
		known := v.end("nat.map", m.Zone, v.places.find(m.At, "nat.mappings[%d].zone", i))
		out, in := v.places.find(m.At, "nat.mappings[%d].outside", i), v.places.find(m.At, "nat.mappings[%d].inside", i)
		if !v.mappedPair(m, out, in) {
			continue
		}
		if known {
			v.mappedOutside(m, out)
			v.mappedInside(m, in)
		}
		for _, f := range v.p.Forwards {
			if k := slices.IndexFunc(f.Targets(), m.Inside.Contains); k >= 0 {
				v.reject(in, "write a policy line for the port instead of the forward",
					"nat.map: %s is the target of the forward at %s too", f.Targets()[k], f.At)
				break
			}
		}
		for _, earlier := range all[:i] {
			if earlier.Outside.Overlaps(m.Outside) || earlier.Zone == m.Zone && earlier.Inside.Overlaps(m.Inside) {
				v.reject(m.At, "each address can stand for one host only", "nat.map: %s and %s overlap the entry at %s",
					m.Outside, m.Inside, earlier.At)
				break
			}
		}
	}
}

// mappedPair checks the two prefixes of an entry by themselves.
func (v *validator) mappedPair(m Mapping, out, in Pos) bool {
	for _, x := range []struct {
		p  netip.Prefix
		at Pos
	}{{m.Outside, out}, {m.Inside, in}} {
		if problem, hint := checkNetwork(x.p); problem != "" {
			v.reject(x.at, hint, "nat.map: %s", problem)
			return false
		}
	}
	switch {
	case m.Outside.Addr().Is4() != m.Inside.Addr().Is4():
		v.reject(in, "", "nat.map: %s and %s are of two address families", m.Outside, m.Inside)
	case m.Outside.Bits() != m.Inside.Bits():
		v.reject(in, fmt.Sprintf("write %s", netip.PrefixFrom(m.Inside.Addr(), m.Outside.Bits()).Masked()),
			"nat.map: %s and %s are of two lengths", m.Outside, m.Inside)
	case m.Outside.Bits() == 0 || m.Outside.Overlaps(m.Inside):
		v.reject(in, "", "nat.map: %s and %s overlap", m.Outside, m.Inside)
	default:
		return true
	}
	return false
}

// mappedOutside checks that what is sent to the outside addresses arrives at the guest, and that it keeps one itself.
func (v *validator) mappedOutside(m Mapping, at Pos) {
	if !v.hasFamily(m.Zone, m.Outside.Addr()) {
		v.reject(at, "", "nat.map: %s is %s, and the guest has no such address in zone %s", m.Outside,
			family(m.Outside.Addr()), clip(m.Zone))
		return
	}
	if !m.Outside.IsSingleIP() {
		for _, l := range v.p.Links {
			for _, own := range l.Addresses {
				if own.Masked().Overlaps(m.Outside) {
					v.reject(at, "take a prefix that is routed to the guest", "nat.map: %s overlaps the subnet of link %s, where "+
						"hosts would look for each of its addresses", m.Outside, clip(l.Name))
					return
				}
			}
		}
		return
	}
	a := m.Outside.Addr()
	v.answered("nat.map", AddrRange{a, a}, at)
	others, own := false, false
	for _, member := range v.zone(m.Zone).Members {
		l := v.link(member.Link)
		if l == nil || v.places.spoilt("links.%s.address", member.Link) {
			return
		}
		for _, x := range l.Addresses {
			own = own || x.Addr() == a
			others = others || x.Addr() != a && x.Addr().Is4() == a.Is4()
		}
	}
	if own && !others {
		v.reject(at, "give the link another one, or forward the ports", "nat.map: %s is the only address the guest has in "+
			"zone %s, which would reach nothing of the guest itself", a, clip(m.Zone))
	}
}

// mappedInside checks that the hosts behind the addresses are somewhere, and not in the zone itself.
func (v *validator) mappedInside(m Mapping, at Pos) {
	found := false
	for i := range v.p.Links {
		l := &v.p.Links[i]
		if v.places.spoilt("links.%s.address", l.Name) {
			return // where they are is not known
		}
		here := slices.ContainsFunc(l.Routes, func(r Route) bool { return r.To.Bits() > 0 && r.To.Overlaps(m.Inside) })
		for _, own := range l.Addresses {
			if m.Inside.IsSingleIP() && own.Addr() == m.Inside.Addr() {
				v.reject(at, fmt.Sprintf("to reach the guest itself write a policy line %s -> self", clip(m.Zone)),
					"nat.map: %s is the guest's own address", own.Addr())
				return
			}
			here = here || own.Masked().Overlaps(m.Inside)
		}
		if !here {
			continue
		}
		found = true
		if slices.ContainsFunc(v.zone(m.Zone).Members, func(x Member) bool { return x.Link == l.Name }) {
			v.reject(at, "forward the ports with `snat: self`", "nat.map: %s is on link %s, by which the traffic arrives: its "+
				"answers would bypass the guest", m.Inside, clip(l.Name))
			return
		}
	}
	if !found && (!v.places.spoilt("links") || len(v.p.Links) > 0) {
		v.reject(at, "name hosts on a subnet of a link", "nat.map: %s is in no subnet of a link", m.Inside)
	}
}
