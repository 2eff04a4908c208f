package filter

import (
	"fmt"
	"net/netip"
	"slices"

	"rempart/profiles"
)

// flow is a connection's first packet as a person would describe it. It is judged here straight from the profile, by
// the words of the profile's documentation and without the rules Compile makes: two ways to the same answer, so that
// the probes test the rules and do not repeat them.
type flow struct {
	from, to string // zones, or profiles.Self for to
	src, dst netip.Addr
	protocol profiles.Protocol
	port     uint16 // 0 for ping
	link     string // it comes in by; only matters to self
}

// ruling is what becomes of a flow and which words of the profile say so.
type ruling struct {
	pass bool
	why  string
	// notes is set where the source is noted in a dynamic set: whoever tries such a flow changes what becomes of others.
	notes bool
}

// decide judges a flow that did not meet a forward.
func decide(p *profiles.Profile, f flow) ruling {
	if f.to == profiles.Self && f.protocol == profiles.TCP && f.port == PortSSH && isAdmin(p, f) {
		return ruling{pass: true, why: "admin: " + f.from + " -> self" + at(p.Admin.At)}
	}
	if l := tunnelAt(p, f); l != nil {
		return ruling{pass: true, why: "the tunnel " + l.Name + ": " + f.from + " -> self" + at(l.At)}
	}
	if o := openingAt(p, f); o != nil {
		return ruling{pass: true, why: openingComment(o)}
	}
	for i := range p.Policy {
		r := &p.Policy[i]
		if !covers(r.From, f.from) || !covers(r.To, f.to) {
			continue
		}
		if len(r.Matches) == 0 || slices.ContainsFunc(r.Matches, func(m profiles.Match) bool { return matches(p, m, f) }) {
			why := fmt.Sprintf("%s -> %s: %s%s%s", r.From, r.To, r.Action, limited(r), at(r.At))
			return ruling{pass: r.Action == profiles.Accept, why: why, notes: r.Add != ""}
		}
	}
	return ruling{pass: f.from == profiles.Self, why: "default: " + f.from + " -> " + f.to}
}

// limited is what a line demands of a source beyond what it matches, and what it does to its packets.
func limited(r *profiles.Rule) string {
	var text string
	if r.Limit != nil {
		text += ", limit " + r.Limit.String()
	}
	if r.Connections > 0 {
		text += fmt.Sprintf(", connections %d", r.Connections)
	}
	if r.DSCP != nil {
		text += ", dscp " + profiles.DSCPName(*r.DSCP)
	}
	if r.TTL > 0 {
		text += fmt.Sprintf(", ttl %d", r.TTL)
	}
	if r.NoTrack {
		text += ", notrack"
	}
	if r.SynProxy != nil {
		text += ", synproxy"
	}
	if r.Add != "" {
		text += ", add " + r.Add
	}
	return text
}

func isAdmin(p *profiles.Profile, f flow) bool {
	if p.Admin.None {
		return false
	}
	return slices.Contains(p.Admin.Zones, f.from) ||
		slices.ContainsFunc(p.Admin.Prefixes, func(x netip.Prefix) bool { return x.Contains(f.src) })
}

func matches(p *profiles.Profile, m profiles.Match, f flow) bool {
	return speaksOf(m, f) &&
		(len(m.Ports) == 0 || slices.ContainsFunc(m.Ports, func(r profiles.PortRange) bool { return inRange(r, f.port) })) &&
		within(p, m.Sources, m.SourceSets, f.src) && within(p, m.Destinations, m.DestinationSets, f.dst)
}

// within tells whether an address is as a list and sets say, which say nothing when both are empty.
func within(p *profiles.Profile, list []netip.Prefix, sets []string, a netip.Addr) bool {
	return len(list) == 0 && len(sets) == 0 || inSets(p, sets, a) ||
		slices.ContainsFunc(list, func(x netip.Prefix) bool { return x.Contains(a) })
}

// speaksOf tells whether a match names the protocol of a flow. An echo request is ping and one of the ICMP types.
func speaksOf(m profiles.Match, f flow) bool {
	echo, icmp := uint16(icmpEchoRequest), profiles.ICMP
	if isV6(f.src) {
		echo, icmp = icmp6EchoRequest, profiles.ICMP6
	}
	if f.protocol == profiles.Ping && m.Protocol == icmp {
		return len(m.Types) == 0 || slices.Contains(m.Types, echo)
	}
	return m.Protocol == profiles.AnyProtocol || m.Protocol == f.protocol
}

func inRange(r profiles.PortRange, port uint16) bool { return r.First <= port && port <= r.Last }

// forwardOf is the first forward that takes a flow to one of the machine's own addresses elsewhere, and the port it
// goes to there: first of those that name the address, then, unless it stands for a host, of the others. The address
// may be unknown, one got by DHCP.
func forwardOf(p *profiles.Profile, f flow) (*profiles.Forward, uint16) {
	if fw, port := forwardAt(p, f, true); fw != nil {
		return fw, port
	}
	if m, _ := mappingOf(p, f.from, f.dst); m != nil {
		return nil, 0
	}
	return forwardAt(p, f, false)
}

func forwardAt(p *profiles.Profile, f flow, addressed bool) (*profiles.Forward, uint16) {
	for i := range p.Forwards {
		fw := &p.Forwards[i]
		if fw.Address.IsValid() != addressed || fw.From != f.from || fw.Protocol != f.protocol ||
			isV6(fw.To) != isV6(f.src) || fw.Address.IsValid() && fw.Address != f.dst ||
			!within(p, fw.Sources, fw.SourceSets, f.src) {
			continue
		}
		for _, r := range fw.Ports {
			if inRange(r, f.port) {
				return targetFor(fw, f.src), mapped(fw, r).First + (f.port - r.First)
			}
		}
	}
	return nil, 0
}
