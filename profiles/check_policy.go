package profiles

import (
	"fmt"
	"net/netip"
	"slices"
)

// end checks a name in a policy line, masquerade or forward: a zone, or one of the words allowed there.
func (v *validator) end(what, name string, at Pos, words ...string) bool {
	if v.zone(name) != nil || slices.Contains(words, name) {
		return true
	}
	if v.places.spoilt("zones") && len(v.p.Zones) == 0 {
		return false // there is nothing to compare with
	}
	if name == Self || name == Any {
		v.reject(at, "name a zone", "%s: %s cannot stand here", what, name)
		return false
	}
	hint := suggest(name, append(v.zoneNames(), words...))
	if v.link(name) != nil {
		hint = fmt.Sprintf("that is a link; declare a zone on it, such as zones: {%s: %s}", clip(name), clip(name))
	}
	v.reject(at, hint, "%s: unknown zone %s", what, quote(name))
	return false
}

// policy checks each rule by itself.
func (v *validator) policy() {
	if at, yes := v.policyTooLarge(); yes {
		v.reject(at, "name zones in place of any", "policy: more than %d rules, or %d services and addresses, or %d services"+
			" for each pair of zones, in all", maxPolicy, maxMatches, maxPairMatches)
		return
	}
	for i, rule := range v.p.Policy {
		from := v.places.find(rule.At, "policy[%d].from", i)
		to := v.places.find(rule.At, "policy[%d].to", i)
		good := v.end("policy", rule.From, from, Self, Any)
		good = v.end("policy", rule.To, to, Self, Any) && good
		if rule.From == Self && rule.To == Self {
			v.reject(rule.At, "", "policy: self -> self: the guest always reaches itself")
		}
		switch rule.Action {
		case Accept, Drop, Reject:
		default:
			v.reject(rule.At, "", "policy: expected accept, drop or reject, found %s", quote(string(rule.Action)))
		}
		for _, m := range rule.Matches {
			v.match(rule, m, i)
		}
		v.extras(rule)
		v.ruleHelper(rule)
		v.packets(rule)
		v.dynamicLine(rule)
		if good && rule.Action == Accept && len(rule.Matches) == 0 && rule.To != Any && rule.From != Self {
			v.wideOpen(rule)
		}
	}
}

// Bounds of a whole policy: package filter compiles as many rules in seconds, and the kernel takes them.
const (
	maxPolicy      = 20_000  // lines of several services in the long form are several rules
	maxMatches     = 40_000  // services and addresses
	maxPairMatches = 1 << 18 // services, each as often as there are pairs of zones it is about
)

// policyTooLarge is the place of the first rule too many.
func (v *validator) policyTooLarge() (Pos, bool) {
	matches, pairs := 0, 0
	zones := func(name string) int {
		if name == Any {
			return len(v.p.Zones)
		}
		return 1
	}
	for i, rule := range v.p.Policy {
		for _, m := range rule.Matches {
			matches += 1 + len(m.Sources) + len(m.Destinations) + len(m.DelegatedSources) + len(m.DelegatedDestinations)
		}
		pairs += zones(rule.From) * zones(rule.To) * max(1, len(rule.Matches))
		if matches > maxMatches || i >= maxPolicy || pairs > maxPairMatches {
			return rule.At, true
		}
	}
	return Pos{}, false
}

// wideOpen warns of a line that lets strangers do anything.
func (v *validator) wideOpen(rule Rule) {
	for _, z := range v.p.Zones {
		if z.External && (rule.From == z.Name || rule.From == Any) && rule.To != z.Name {
			v.warn(rule.At, "name the services meant", "policy: everything from the external zone %s is let through to %s",
				clip(z.Name), clip(rule.To))
			return
		}
	}
}

func (v *validator) match(rule Rule, m Match, i int) {
	if _, ok := m.Protocol.Number(); !ok && m.Protocol != AnyProtocol && m.Protocol != Ping {
		v.reject(rule.At, "", "policy: unknown protocol %s", quote(string(m.Protocol)))
	}
	if len(m.Ports) > 0 && !m.Protocol.HasPorts() {
		v.reject(rule.At, "", "policy: ports without tcp, udp or sctp")
	}
	if len(m.Types) > 0 && m.Protocol != ICMP && m.Protocol != ICMP6 {
		v.reject(rule.At, "", "policy: ICMP types without icmp or icmpv6")
	}
	for _, n := range m.Types {
		if n > maxICMPType {
			v.reject(rule.At, "", "policy: %d is no ICMP type", n)
		}
	}
	for _, p := range m.Ports {
		if p.First == 0 || p.First > p.Last {
			v.reject(rule.At, "", "policy: %s is no range of ports", p)
		}
	}
	good := len(m.SourceSets)+len(m.DestinationSets) == 0
	for _, name := range slices.Concat(m.SourceSets, m.DestinationSets) {
		if !v.p.HasSet(name) {
			v.reject(rule.At, "", "policy: unknown set %s", quote(name))
		}
	}
	for j, p := range m.Sources {
		good = v.narrowed(p, rule.From, v.places.find(rule.At, "policy[%d].sources[%d]", i, j)) && good
	}
	for j, p := range m.Destinations {
		good = v.narrowed(p, rule.To, v.places.find(rule.At, "policy[%d].destinations[%d]", i, j)) && good
	}
	for j, d := range m.DelegatedSources {
		v.delegatedHost(d, rule.From, v.places.find(rule.At, "policy[%d].delegated_sources[%d]", i, j))
		good = false // of one family, which others told of
	}
	for j, d := range m.DelegatedDestinations {
		v.delegatedHost(d, rule.To, v.places.find(rule.At, "policy[%d].delegated_destinations[%d]", i, j))
		good = false
	}
	if good && len(m.Sources) > 0 && len(m.Destinations) > 0 && !shareFamily(m.Sources, m.Destinations) {
		v.reject(v.places.find(rule.At, "policy[%d].destinations[0]", i), "", "policy: from and to share no address family")
	}
}

// narrowed checks addresses that a line is limited to, on its side of a zone.
func (v *validator) narrowed(p netip.Prefix, zone string, at Pos) bool {
	if problem, hint := checkNetwork(p); problem != "" {
		v.reject(at, hint, "policy: %s", problem)
		return false
	}
	if _, yes := v.zonesTooLarge(); yes {
		return true // told by zones
	}
	if z := v.zone(zone); z != nil && !v.mayHold(z, p) {
		v.warn(at, "the line never matches it", "policy: nothing in %s can be in zone %s", p, clip(zone))
	}
	return true
}

func shareFamily(a, b []netip.Prefix) bool {
	for _, p := range a {
		for _, q := range b {
			if p.Addr().Is4() == q.Addr().Is4() {
				return true
			}
		}
	}
	return false
}

func coversAddresses(wide, narrow []netip.Prefix) bool {
	if len(wide) == 0 {
		return true
	}
	if len(narrow) == 0 {
		return false
	}
	for _, p := range narrow {
		if !slices.ContainsFunc(wide, func(w netip.Prefix) bool { return w.Bits() <= p.Bits() && w.Contains(p.Addr()) }) {
			return false
		}
	}
	return true
}

// hasFamily tells whether the guest has an address of the family of a on a link of the zone, or may have: a link that
// could not be read counts.
func (v *validator) hasFamily(zone string, a netip.Addr) bool {
	z := v.zone(zone)
	if z == nil || len(z.Members) == 0 {
		return true
	}
	for _, m := range z.Members {
		l := v.link(m.Link)
		if l == nil || l.has(a) || v.places.spoilt("links.%s.address", m.Link) {
			return true
		}
	}
	return false
}

// coversEnd tells whether the zone of a line is another's, or any that the other is among.
func coversEnd(wide, narrow string) bool { return wide == narrow || wide == Any && narrow != Self }
