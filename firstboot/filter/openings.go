package filter

import (
	"net/netip"
	"slices"

	"rempart/profiles"
)

// unspecified4 is what hosts send from that have no address yet (RFC 2131, section 4.1).
var unspecified4 = netip.MustParsePrefix("0.0.0.0/32")

// openings lets the clients of the guest's own services in: by exactly their links, from exactly the addresses and to
// exactly the ports that the profile's sections mean. They stand before the lines of the policy, for a service that a
// profile declares and a line then shuts out is a mistake that nobody would find.
func (c *compiler) openings(rules *Chain) {
	for _, o := range c.profile.Openings() {
		what := []Expr{Match{IIfName, []Range{ifName(o.Link)}}}
		for _, v6 := range families {
			if v6 && !o.IPv6 || !v6 && !o.IPv4 {
				continue
			}
			from := o.Sources
			if !v6 && o.Unaddressed {
				from = append([]netip.Prefix{unspecified4}, from...)
			}
			space := prefixSpans(from, v6)
			if len(from) > 0 && len(space) == 0 {
				continue // its sources are of the other family
			}
			do := slices.Clone(what)
			if len(space) > 0 {
				do = append(do, Match{srcField(v6), ranges(space)})
			} else if o.Protocol != profiles.ICMP6 {
				do = append(do, version(v6))
			}
			rules.add(openingComment(&o), append(do, arriving(&o), accept)...)
		}
	}
}

// arriving matches what an opening lets in.
func arriving(o *profiles.Opening) Expr {
	switch o.Protocol {
	case profiles.TCP:
		return Match{TCPDPort, portRanges(o.Ports)}
	case profiles.ICMP6:
		var types []Range
		for _, n := range slices.Sorted(slices.Values(o.Types)) {
			types = append(types, number(n))
		}
		return Match{ICMP6Type, types}
	}
	return Match{UDPDPort, portRanges(o.Ports)}
}

// unaddressed lets past the whitelist of sources, on the links that say so, what hosts without an address ask.
func (c *compiler) unaddressed(rules *Chain) {
	for _, o := range c.profile.Openings() {
		if o.Unaddressed {
			rules.add("who asks for an address has none"+at(o.At), Match{IIfName, []Range{ifName(o.Link)}},
				Match{IPSAddr, []Range{addrRange(prefixSpan(unspecified4))}}, arriving(&o), accept)
		}
	}
}

// openingComment names an opening.
func openingComment(o *profiles.Opening) string { return o.Service + " on " + o.Link + at(o.At) }

// openingAt is the opening that a flow to the guest comes in by.
func openingAt(p *profiles.Profile, f flow) *profiles.Opening {
	if f.to != profiles.Self || f.port == 0 {
		return nil
	}
	for _, o := range p.Openings() {
		family := o.IPv4
		if isV6(f.src) {
			family = o.IPv6
		}
		if family && o.Link == f.link && o.Protocol == f.protocol &&
			slices.ContainsFunc(o.Ports, func(r profiles.PortRange) bool { return inRange(r, f.port) }) &&
			(len(o.Sources) == 0 || slices.ContainsFunc(o.Sources, func(x netip.Prefix) bool { return x.Contains(f.src) })) {
			return &o
		}
	}
	return nil
}

// checkOpenings finds openings that are no rule.
func checkOpenings(p *profiles.Profile, links map[string]bool, bad func(profiles.Pos, string, ...any)) {
	for _, o := range p.Openings() {
		if !links[o.Link] {
			bad(o.At, "%s: there is no link %q", o.Service, o.Link)
		}
		whole := true
		switch o.Protocol {
		case profiles.TCP, profiles.UDP:
			whole = len(o.Ports) > 0 && (o.IPv4 || o.IPv6) &&
				!slices.ContainsFunc(o.Ports, func(r profiles.PortRange) bool { return r.First == 0 || r.First > r.Last })
		case profiles.ICMP6:
			whole = len(o.Types) > 0 && o.IPv6 && !o.IPv4
		default:
			whole = false
		}
		if o.Unaddressed && (o.Protocol != profiles.UDP || !o.IPv4) {
			whole = false
		}
		if !whole {
			bad(o.At, "%s on %s: %s with ports %v and types %v is nothing that can be opened", o.Service, o.Link, o.Protocol,
				o.Ports, o.Types)
		}
	}
}
