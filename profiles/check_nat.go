package profiles

import (
	"fmt"
	"net/netip"
	"slices"
)

func (v *validator) masquerade() {
	if n := len(v.p.Masquerade); n > maxPairs {
		v.reject(v.p.Masquerade[maxPairs].At, "", "masquerade: %d directions, expected at most %d", n, maxPairs)
		return
	}
	seen := map[Pair]Pos{}
	for i, pair := range v.p.Masquerade {
		good := v.direction("masquerade", pair.From, pair.To, pair.At, "masquerade", i)
		if !slices.Contains([]Families{OnlyIPv4, OnlyIPv6, BothFamilies}, pair.Families) {
			v.reject(pair.At, "", "masquerade: %s are no address families", quote(string(pair.Families)))
			continue
		}
		key := Pair{From: pair.From, To: pair.To}
		if first, twice := seen[key]; twice {
			v.reject(pair.At, "remove one, or write `both` for IPv4 and IPv6", "masquerade: %s -> %s comes twice, first at %s",
				clip(pair.From), clip(pair.To), first)
		}
		seen[key] = pair.At
		if !good {
			continue
		}
		for _, a := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
			if pair.Families.Has(a.Is6()) {
				v.masked(pair, a, v.places.find(pair.At, "masquerade[%d].to", i))
			}
		}
	}
}

// helper checks a helper by what is said of the flows it is for.
func (v *validator) helper(what string, h Helper, at Pos, protocols ...Protocol) {
	wanted, known := h.Protocol()
	if !known {
		v.reject(at, "", "%s: there is no helper %s", what, quote(string(h)))
		return
	}
	if len(protocols) == 0 {
		protocols = []Protocol{AnyProtocol}
	}
	for _, p := range protocols {
		if p != wanted {
			v.reject(at, fmt.Sprintf("name the port, such as %s/21", wanted), "%s: the helper %s is for ports of %s",
				what, h, wanted)
			return
		}
	}
}

// ruleHelper checks the helper of a line.
func (v *validator) ruleHelper(rule Rule) {
	if rule.Helper == "" {
		return
	}
	if rule.Action != Accept || rule.From == Self || rule.To == Self {
		v.reject(rule.At, "", "policy: a helper is for what a line accepts between zones")
		return
	}
	var protocols []Protocol
	for _, m := range rule.Matches {
		if len(m.Ports) == 0 {
			m.Protocol = AnyProtocol
		}
		protocols = append(protocols, m.Protocol)
	}
	v.helper("policy", rule.Helper, rule.At, protocols...)
}

// direction checks the two zones of a translation, the i-th of a list of the profile.
func (v *validator) direction(what, from, to string, at Pos, list string, i int) bool {
	good := v.end(what, from, v.places.find(at, "%s[%d].from", list, i))
	good = v.end(what, to, v.places.find(at, "%s[%d].to", list, i)) && good
	if good && from == to {
		v.reject(at, "", "%s: from zone %s to itself", what, clip(from))
		return false
	}
	return good
}

// masked checks masquerading of one family, that of a.
func (v *validator) masked(pair Pair, a netip.Addr, at Pos) {
	if !v.hasFamily(pair.To, a) {
		hint := "masquerading is for IPv4 unless the line says `ipv6` or `both`"
		if a.Is6() {
			hint = "write `ipv4`, or nothing"
		}
		v.reject(at, hint, "masquerade: the guest has no %s address in zone %s", family(a), clip(pair.To))
		return
	}
	for _, s := range v.p.NAT.Sources {
		if s.From == pair.From && s.To == pair.To && s.First.Is4() == a.Is4() && len(s.Clients) == 0 {
			v.reject(pair.At, "remove one", "masquerade: %s -> %s leaves under %s already, see %s",
				clip(pair.From), clip(pair.To), s.First, s.At)
			return
		}
	}
}

// maxClients bounds the prefixes of all lines of nat.source: each line is compared with those before it.
const maxClients = 4096

// sourceNAT checks the addresses that traffic leaves under.
func (v *validator) sourceNAT() {
	all := v.p.NAT.Sources
	if len(all) > maxPairs {
		v.reject(all[maxPairs].At, "", "nat.source: %d lines, expected at most %d", len(all), maxPairs)
		return
	}
	clients := 0
	for i, s := range all {
		const what = "nat.sources"
		if clients += len(s.Clients); clients > maxClients {
			v.reject(s.At, "", "nat.source: more than %d prefixes in all", maxClients)
			return
		}
		good := v.direction("nat.source", s.From, s.To, s.At, what, i)
		at := v.places.find(s.At, what+"[%d].first", i)
		if !s.First.IsValid() || s.First.BitLen() != s.Last.BitLen() || s.Last.Less(s.First) || s.First.Is4In6() ||
			s.First.Zone()+s.Last.Zone() != "" {
			v.reject(at, "", "nat.source: %s to %s is no range of addresses", s.First, s.Last)
			continue
		}
		for _, a := range []netip.Addr{s.First, s.Last} {
			if problem := checkUnicast(a); problem != "" {
				v.reject(at, "", "nat.source: %s", problem)
				good = false
				break
			}
		}
		if good && !v.hasFamily(s.To, s.First) {
			v.reject(at, "", "nat.source: %s is %s, and the guest has no such address in zone %s", s.First, family(s.First),
				clip(s.To))
			good = false
		}
		if good {
			v.answered("nat.source", AddrRange{s.First, s.Last}, at)
		}
		v.clients(s, i)
		for _, earlier := range all[:i] {
			if earlier.From == s.From && earlier.To == s.To && earlier.First.Is4() == s.First.Is4() &&
				coversAddresses(earlier.Clients, s.Clients) {
				v.reject(s.At, "remove one, or give the first a narrower from",
					"nat.source: %s -> %s leaves under %s already, see %s", clip(s.From), clip(s.To), earlier.First, earlier.At)
				break
			}
		}
	}
}

func (v *validator) clients(s SourceNAT, i int) {
	for j, p := range s.Clients {
		at := v.places.find(s.At, "nat.sources[%d].clients[%d]", i, j)
		problem, hint := checkNetwork(p)
		switch {
		case problem != "":
			v.reject(at, hint, "nat.source: %s", problem)
		case p.Addr().Is4() != s.First.Is4():
			v.reject(at, "", "nat.source: %s cannot leave under %s, of another family", p, s.First)
		default:
			if _, yes := v.zonesTooLarge(); yes {
				continue // told by zones
			}
			if z := v.zone(s.From); z != nil && !v.mayHold(z, p) {
				v.warn(at, "the line never matches it", "nat.source: nothing in %s can be in zone %s", p, clip(s.From))
			}
		}
	}
}

// answered checks that somebody answers for addresses that traffic comes back to: on a link's own subnet the guest must
// have them, elsewhere they are routed to it.
func (v *validator) answered(what string, s AddrRange, at Pos) {
	for i := range v.p.Links {
		l := &v.p.Links[i]
		if v.places.spoilt("links.%s.address", l.Name) {
			return // which addresses there are is not known
		}
		for _, own := range l.Addresses {
			if own.Addr().Is4() != s.First.Is4() {
				continue
			}
			a, last := s.First, s.Last
			if subnet := own.Masked(); a.Less(subnet.Addr()) {
				a = subnet.Addr()
			}
			if end := lastAddress(own); end.Less(last) {
				last = end
			}
			// At most as many steps as the link has addresses, and one.
			for ; a.IsValid() && !last.Less(a); a = a.Next() {
				if !slices.ContainsFunc(l.Addresses, func(x netip.Prefix) bool { return x.Addr() == a }) {
					v.reject(at, fmt.Sprintf("add it to links.%s.address, or take addresses that are routed to the guest",
						clip(l.Name)), "%s: %s is on the subnet of link %s, where nobody answers for it", what, a, clip(l.Name))
					return
				}
			}
		}
	}
}
