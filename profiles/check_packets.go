package profiles

import (
	"net/netip"
	"slices"
)

// packets checks what a line does to packets and to connection tracking beyond deciding.
func (v *validator) packets(rule Rule) {
	if rule.DSCP == nil && rule.TTL == 0 && !rule.NoTrack && rule.SynProxy == nil {
		return
	}
	if rule.Action != Accept {
		v.reject(rule.At, "remove it, or accept", "policy: dscp, ttl, notrack and synproxy are for what a line accepts")
		return
	}
	for _, name := range []string{rule.From, rule.To} {
		if z := v.zone(name); z != nil && v.p.Bridged(z) {
			v.reject(rule.At, "name the zone of the bridge itself", "policy: dscp, ttl, notrack and synproxy are for what is "+
				"routed, and zone %s is on members of a bridge", clip(name))
			return
		}
	}
	if rule.DSCP != nil && *rule.DSCP > maxDSCP {
		v.reject(rule.At, "", "policy: dscp %d, expected 0 to %d", *rule.DSCP, maxDSCP)
	}
	if rule.NoTrack {
		v.untracked(rule)
	}
	if rule.SynProxy != nil {
		v.lineProxy(rule)
	}
}

// untracked checks a line without connection tracking: nothing on it may need what tracking knows.
func (v *validator) untracked(rule Rule) {
	switch {
	case rule.SynProxy != nil:
		v.reject(rule.At, "remove one", "policy: notrack and synproxy: the proxied connections are tracked")
	case rule.Limit != nil || rule.Connections > 0 || rule.Helper != "":
		v.reject(rule.At, "remove one", "policy: notrack: limit, connections and helper are about connections, which are "+
			"not known without tracking")
	}
	if len(rule.Matches) == 0 {
		v.reject(rule.At, "name the services, such as udp/53",
			"policy: notrack for everything would let everything come back")
		return
	}
	for _, m := range rule.Matches {
		switch {
		case m.Protocol == AnyProtocol || m.Protocol.HasPorts() && len(m.Ports) == 0:
			v.reject(rule.At, "name the ports, such as udp/53", "policy: notrack without ports would let everything come back")
			return
		case m.Protocol == Ping || m.Protocol == ICMP || m.Protocol == ICMP6:
			v.reject(rule.At, "write a line of its own for it",
				"policy: notrack is not for ICMP, whose answers are of other types")
			return
		}
		for i := range v.p.Bans {
			b := &v.p.Bans[i]
			if _, ports, both := portOverlap(m.Ports, b.Ports); both && m.Protocol == TCP {
				v.reject(rule.At, "remove one", "policy: notrack: the bans of %s at %s count connections to tcp port %s",
					clip(b.Service), b.At, ports)
				return
			}
		}
	}
	v.untranslated(rule, "notrack", true)
	for i := range v.p.Forwards {
		if f := &v.p.Forwards[i]; v.forwardMeets(rule, f) {
			v.reject(rule.At, notTranslated, "policy: notrack: the forward at %s translates such flows", f.At)
			return
		}
	}
}

// lineProxy checks the SYN proxy of a line.
func (v *validator) lineProxy(rule Rule) {
	v.proxy("policy", rule.SynProxy, rule.At)
	if rule.DSCP != nil || rule.TTL != 0 {
		v.reject(rule.At, "remove one", "policy: synproxy: dscp and ttl are not for proxied connections, which are the "+
			"guest's own doing")
		return
	}
	if rule.From == Self {
		v.reject(rule.At, "", "policy: synproxy: the guest does not flood anybody")
		return
	}
	for _, m := range rule.Matches {
		if m.Protocol != TCP || len(m.Ports) == 0 {
			v.reject(rule.At, "name the ports, such as tcp/443", "policy: synproxy is for ports of tcp")
			return
		}
		ssh := func(p PortRange) bool { return p.First <= sshPort && sshPort <= p.Last }
		if rule.To == Self && !v.p.Admin.None && slices.ContainsFunc(m.Ports, ssh) {
			v.reject(rule.At, "remove it: the guest answers floods of its own ports by cookies anyway",
				"policy: synproxy: tcp port %d of the guest is the admin's way in, which nothing may stand before", sshPort)
			return
		}
	}
	if len(rule.Matches) == 0 {
		v.reject(rule.At, "name the ports, such as tcp/443", "policy: synproxy is for ports of tcp")
		return
	}
	if rule.Limit != nil || rule.Connections > 0 || rule.Helper != "" {
		v.reject(rule.At, "remove one", "policy: synproxy: limit, connections and helper are not for proxied connections")
	}
	v.untranslated(rule, "synproxy", false)
}

// proxy checks the numbers of a SYN proxy.
func (v *validator) proxy(what string, s *SynProxy, at Pos) {
	if s.MSS != 0 && (s.MSS < minMSS || s.MSS > maxMSS) || s.WScale > maxWScale {
		v.reject(at, "", "%s: synproxy with mss %d and wscale %d, expected %d to %d and 0 to %d", what, s.MSS, s.WScale,
			minMSS, maxMSS, maxWScale)
	}
}

// notTranslated is what to do about a flow that would have to be translated and cannot be.
const notTranslated = "remove one: nothing is translated whose first packet is not tracked"

// untranslated looks for address translation of flows between the zones of a line, and of those the other way where
// that matters.
func (v *validator) untranslated(rule Rule, what string, back bool) {
	between := func(a, b string) bool {
		return coversEnd(rule.From, a) && coversEnd(rule.To, b) || back && coversEnd(rule.From, b) && coversEnd(rule.To, a)
	}
	refuse := func(by string, at Pos) {
		v.reject(rule.At, notTranslated, "policy: %s: %s at %s translates such flows", what, by, at)
	}
	for _, m := range v.p.Masquerade {
		if between(m.From, m.To) && v.shareFamilyOf(rule, m.Families) {
			refuse("masquerade", m.At)
			return
		}
	}
	for _, s := range v.p.NAT.Sources {
		if between(s.From, s.To) && v.lineSpeaks(rule, s.First) {
			refuse("nat.source", s.At)
			return
		}
	}
	for _, m := range v.p.NAT.Mappings {
		other := rule.From
		if coversEnd(rule.From, m.Zone) {
			other = rule.To
		}
		z := v.zone(other)
		if (coversEnd(rule.From, m.Zone) || coversEnd(rule.To, m.Zone)) && v.lineSpeaks(rule, m.Inside.Addr()) &&
			(other == Any || z != nil && v.mayHold(z, m.Inside)) {
			refuse("nat.map", m.At)
			return
		}
	}
}

// forwardProxy checks the SYN proxy of a forward. The connection to the target is the guest's own doing, so what is
// translated by the link a packet came by does not hold for it.
func (v *validator) forwardProxy(f *Forward) {
	v.proxy("forwards", f.SynProxy, f.At)
	if f.Protocol != TCP || f.Helper != "" {
		v.reject(f.At, "write a forward of its own for tcp", "forwards: synproxy is for tcp ports without a helper")
	}
	holds := func(zone string) bool {
		z := v.zone(zone)
		return z != nil && slices.ContainsFunc(f.Targets(), func(a netip.Addr) bool {
			return v.mayHold(z, netip.PrefixFrom(a, a.BitLen()))
		})
	}
	refuse := func(by string, at Pos) {
		v.reject(f.At, "add snat: self, or remove one",
			"forwards: synproxy: %s at %s would give its connections another source", by, at)
	}
	if f.SNAT {
		return
	}
	for _, m := range v.p.Masquerade {
		if m.From == f.From && m.Families.Has(f.To.Is6()) && holds(m.To) {
			refuse("masquerade", m.At)
			return
		}
	}
	for _, s := range v.p.NAT.Sources {
		if s.From == f.From && s.First.Is4() == f.To.Is4() && holds(s.To) {
			refuse("nat.source", s.At)
			return
		}
	}
}

// forwardMeets tells whether answers of a forward's target look like answers of a line.
func (v *validator) forwardMeets(rule Rule, f *Forward) bool {
	if !coversEnd(rule.From, f.From) || rule.To == Self || !v.lineSpeaks(rule, f.To) {
		return false
	}
	z := v.zone(rule.To)
	reaches := func(a netip.Addr) bool {
		return rule.To == Any || z != nil && v.mayHold(z, netip.PrefixFrom(a, a.BitLen()))
	}
	if !slices.ContainsFunc(f.Targets(), reaches) {
		return false
	}
	return slices.ContainsFunc(rule.Matches, func(m Match) bool {
		if m.Protocol != f.Protocol {
			return false
		}
		arrive := f.Ports
		if f.ToPort != 0 && len(f.Ports) == 1 {
			arrive = []PortRange{{f.ToPort, f.ToPort + (f.Ports[0].Last - f.Ports[0].First)}}
		}
		_, _, both := portOverlap(m.Ports, arrive)
		return both
	})
}

// shareFamilyOf tells whether a line can be about one of some families.
func (v *validator) shareFamilyOf(rule Rule, families Families) bool {
	return slices.ContainsFunc([]netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}, func(a netip.Addr) bool {
		return families.Has(a.Is6()) && v.lineSpeaks(rule, a)
	})
}

// lineSpeaks tells whether a line can be about the family of a: its zones and the addresses it is narrowed to.
func (v *validator) lineSpeaks(rule Rule, a netip.Addr) bool {
	for _, name := range []string{rule.From, rule.To} {
		if name != Self && name != Any && !v.hasFamily(name, a) {
			return false
		}
	}
	same := func(p netip.Prefix) bool { return p.Addr().Is4() == a.Is4() }
	leaves := func(list []netip.Prefix, sets []string, hosts []Delegated) bool {
		return len(list)+len(hosts) == 0 || len(sets) > 0 || slices.ContainsFunc(list, same) || len(hosts) > 0 && a.Is6()
	}
	return len(rule.Matches) == 0 || slices.ContainsFunc(rule.Matches, func(m Match) bool {
		return m.Protocol.Speaks(a.Is6()) && leaves(m.Sources, m.SourceSets, m.DelegatedSources) &&
			leaves(m.Destinations, m.DestinationSets, m.DelegatedDestinations)
	})
}
