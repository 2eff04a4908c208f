package profiles

import (
	"fmt"
	"net/netip"
	"slices"
)

// targets checks where a forward leads to.
func (v *validator) targets(f Forward, i int, known bool) {
	at := v.places.find(f.At, "forwards[%d].to", i)
	if n := len(f.Others) + 1; n > maxTargets {
		v.reject(at, "", "forwards: %d targets, expected at most %d", n, maxTargets)
		return
	}
	for k, one := range f.Single() {
		if slices.Contains(f.Targets()[:k], one.To) {
			v.reject(at, "remove one", "forwards: %s comes twice", one.To)
		}
		if one.To.Is4() != f.To.Is4() {
			v.reject(at, "", "forwards: %s and %s are of two address families", f.To, one.To)
			continue
		}
		v.target(one, i, known)
	}
}

func shareTarget(f, g Forward) bool {
	return slices.ContainsFunc(f.Targets(), func(a netip.Addr) bool { return slices.Contains(g.Targets(), a) })
}

// target checks one host that a forward leads to.
func (v *validator) target(f Forward, i int, known bool) {
	at := v.places.find(f.At, "forwards[%d].to", i)
	if problem, hint := v.checkNeighbour(f.To); problem != "" {
		v.reject(at, hint, "forwards: %s", problem)
		return
	}
	var by *Link
	for k := range v.p.Links {
		l := &v.p.Links[k]
		if v.places.spoilt("links.%s.address", l.Name) {
			return // where it is is not known
		}
		for _, own := range l.Addresses {
			if own.Addr() == f.To {
				v.reject(at, fmt.Sprintf("to reach the guest itself write a policy line %s -> self",
					clip(f.From)), "forwards: %s is the guest's own address", f.To)
				return
			}
		}
		if _, inside := l.subnetOf(f.To); inside {
			by = l
		}
	}
	if by == nil {
		if !v.places.spoilt("links") || len(v.p.Links) > 0 {
			v.reject(at, "name a host on a subnet of a link", "forwards: %s is in no subnet of a link", f.To)
		}
		return
	}
	if !known {
		return
	}
	if !v.hasFamily(f.From, f.To) {
		v.reject(at, "forwards do not translate between address families",
			"forwards: %s is %s, and the guest has no such address in zone %s", f.To, family(f.To), clip(f.From))
		return
	}
	if f.SNAT {
		return
	}
	for _, m := range v.zone(f.From).Members {
		if m.Link == by.Name && !besides(by, m, f.To) {
			v.reject(at, "add `snat: self`", "forwards: %s is on link %s, by which the traffic arrives: its answers would "+
				"go straight to the sender, bypass the guest and be dropped as unknown", f.To, clip(by.Name))
			return
		}
	}
}

// besides tells whether all of a zone's share of a link is in the subnet of an address on it. Then the guest stands for
// the sender by itself, and the answers come back to it.
func besides(l *Link, m Member, a netip.Addr) bool {
	subnet, _ := l.subnetOf(a)
	if len(m.Prefixes) > 0 {
		return !slices.ContainsFunc(m.Prefixes, func(p netip.Prefix) bool {
			return p.Addr().Is4() == a.Is4() && !(subnet.Bits() <= p.Bits() && subnet.Contains(p.Addr()))
		})
	}
	return !l.leadsOut() && len(l.Routes) == 0 && !slices.ContainsFunc(l.Addresses, func(own netip.Prefix) bool {
		return own.Addr().Is4() == a.Is4() && own.Masked() != subnet
	})
}

// arrival checks which of the guest's addresses a forward is about, and who may use it.
func (v *validator) arrival(f Forward, i int, known bool) {
	if at := v.places.find(f.At, "forwards[%d].address", i); f.Address.IsValid() {
		switch {
		case f.Address.Is4() != f.To.Is4():
			v.reject(at, "forwards do not translate between address families",
				"forwards: the address %s is %s and the target %s is %s", f.Address, family(f.Address), f.To, family(f.To))
		case known:
			v.ownAddress(f, at)
		}
	}
	if f.Helper != "" {
		v.helper("forwards", f.Helper, f.At, f.Protocol)
	}
	if f.SynProxy != nil {
		v.forwardProxy(&f)
	}
	for j, p := range f.Sources {
		at := v.places.find(f.At, "forwards[%d].sources[%d]", i, j)
		if problem, hint := checkNetwork(p); problem != "" {
			v.reject(at, hint, "forwards.source: %s", problem)
			continue
		}
		if _, yes := v.zonesTooLarge(); yes {
			continue // told by zones
		}
		if z := v.zone(f.From); z != nil && !v.mayHold(z, p) {
			v.warn(at, "the forward never matches it", "forwards.source: nothing in %s can be in zone %s", p, clip(f.From))
		}
	}
	if len(f.Sources) > 0 && len(f.SourceSets) == 0 && !shareFamily(f.Sources, []netip.Prefix{singleHost(f.To)}) {
		v.reject(v.places.find(f.At, "forwards[%d].sources[0]", i), "forwards do not translate between address families",
			"forwards: no source has the family of %s", f.To)
	}
	for _, name := range f.SourceSets {
		if !v.p.HasSet(name) {
			v.reject(f.At, "", "forwards.source: unknown set %s", quote(name))
		}
	}
}

// ownAddress checks that a forward's address is one at which traffic from its zone may arrive.
func (v *validator) ownAddress(f Forward, at Pos) {
	zone := v.zone(f.From)
	for i := range v.p.Links {
		l := &v.p.Links[i]
		if v.places.spoilt("links.%s.address", l.Name) {
			return // which addresses there are is not known
		}
		if !slices.ContainsFunc(l.Addresses, func(own netip.Prefix) bool { return own.Addr() == f.Address }) {
			continue
		}
		if zone.External && !slices.ContainsFunc(zone.Members, func(m Member) bool { return m.Link == l.Name }) {
			v.reject(at, "name an address of a link of that zone", "forwards: %s is on link %s, where nothing from the "+
				"external zone %s arrives", f.Address, clip(l.Name), clip(f.From))
		}
		return
	}
	hint := "add it to the addresses of a link"
	if len(zone.Members) > 0 {
		hint = fmt.Sprintf("add it to links.%s.address", clip(zone.Members[0].Link))
	}
	v.reject(at, hint, "forwards: %s is no address of the guest", f.Address)
}

// leavesAddress tells whether the guest has another address for the zone of a forward that is about one.
func (v *validator) leavesAddress(f Forward) bool {
	z := v.zone(f.From)
	return f.Address.IsValid() && z != nil && slices.ContainsFunc(z.Members, func(m Member) bool {
		l := v.link(m.Link)
		return l != nil && slices.ContainsFunc(l.Addresses, func(own netip.Prefix) bool {
			return own.Addr() != f.Address && own.Addr().Is4() == f.Address.Is4()
		})
	})
}

// takesAll tells whether what a later forward takes at a port is taken by this one.
func (f *Forward) takesAll(later *Forward) bool {
	if f.Address != later.Address { // forwards that name an address come first
		return false
	}
	return len(f.Sources)+len(f.SourceSets) == 0 || len(later.Sources)+len(later.SourceSets) > 0 &&
		coversSets(f.SourceSets, later.SourceSets, len(f.Sources) > 0, len(later.Sources) > 0) &&
		coversEither(f.Sources, later.Sources, f.SourceSets, later.SourceSets)
}

// singleHost is the prefix of one address.
func singleHost(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }
