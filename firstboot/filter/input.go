package filter

import (
	"net/netip"

	"rempart/profiles"
)

// Counters that belong to no pair of zones.
const (
	counterSpoofed = "spoofed" // entered by a link its source address does not belong to
	counterInvalid = "invalid" // fits no connection
	counterClosed  = "closed"  // stopped by the closed rules
	counterNoZone  = "nozone"  // from or to an address that is in no zone
)

// antispoof drops what enters by a link its source does not belong to. It stands before connection tracking:
// otherwise a forged packet of a known connection would pass as "established". It is a whitelist, so a link the
// profile does not know passes nothing.
func (c *compiler) antispoof() {
	base := &Base{Type: "filter", Hook: Prerouting, Priority: priorityRaw, Policy: VerdictAccept}
	rules := Chain{Name: "antispoof", Base: base}
	rules.add("this machine talks to itself", Match{IIfName, []Range{ifName("lo")}}, accept)
	for _, v6 := range families {
		s := Set{Name: "sources" + version(v6), Key: []Type{TypeIfName, addrType(v6)}, Interval: true}
		for _, l := range c.profile.Links {
			ranges := c.space.links[l.Name].source[family(v6)]
			if v6 && len(ranges) > 0 {
				// A host that checks whether its address is free has none yet (RFC 4862, section 5.4.2).
				ranges = union(append([]span{prefixSpan(netip.MustParsePrefix("::/128"))}, ranges...)...)
			}
			for _, r := range ranges {
				s.Elements = append(s.Elements, Element{Key: []Range{ifName(l.Name), addrRange(r)}})
			}
		}
		if len(s.Elements) == 0 {
			continue
		}
		c.set(s)
		rules.add("the source belongs to the link it came by",
			Lookup{Fields: []Field{IIfName, srcField(v6)}, Set: s.Name}, accept)
	}
	rules.add("the source belongs elsewhere", c.counter(counterSpoofed), drop)
	*c.chain(rules.Name, nil) = rules
}

// clamp keeps TCP working where a link has a smaller MTU than the others and the ICMP errors that would say so are
// lost on the way.
func (c *compiler) clamp() {
	ch := c.chain("clamp", &Base{Type: "filter", Hook: Forward, Priority: priorityMangle, Policy: VerdictAccept})
	ch.add("segments fit the smallest MTU of the way", Bits{TCPFlags, tcpSYN}, ClampMSS{})
}

// known lets what belongs to a connection pass and drops what fits none.
func (c *compiler) known(ch *Chain) {
	ch.add("answers, and errors about known connections", Bits{CTState, ctEstablished | ctRelated}, accept)
	ch.add("fits no connection", Bits{CTState, ctInvalid}, c.counter(counterInvalid), drop)
}

// input is what may reach this machine.
func (c *compiler) input() {
	rules := Chain{Name: "input", Base: &Base{Type: "filter", Hook: Input, Priority: priorityFilter, Policy: VerdictAccept}}
	c.known(&rules)
	rules.add("this machine talks to itself", Match{IIfName, []Range{ifName("lo")}}, accept)
	c.admin(&rules)
	c.neighbours(&rules)
	c.dhcpAnswers(&rules)
	c.dispatch(&rules, "in", IIfName, func(zone string) string { return c.pairChain("in/"+zone, zone, profiles.Self) })
	rules.add("default: in no zone", c.counter(counterNoZone), drop)
	*c.chain(rules.Name, nil) = rules
}

// closed is all of Closed.
func (c *compiler) closed() {
	rules := Chain{Name: "input", Base: &Base{Type: "filter", Hook: Input, Priority: priorityFilter, Policy: VerdictAccept}}
	rules.add("this machine talks to itself", Match{IIfName, []Range{ifName("lo")}}, accept)
	if c.admin(&rules) {
		c.neighbours(&rules)
		c.dhcpAnswers(&rules)
		// Without connection tracking there is no "related": these two keep large answers flowing.
		rules.add("path MTU", Match{ICMPType, []Range{number(icmpUnreachable)}},
			Match{ICMPCode, []Range{number(icmpFragNeeded)}}, accept)
		rules.add("path MTU", Match{ICMP6Type, []Range{number(icmp6PacketTooBig)}}, accept)
	}
	rules.add("default: closed", c.counter(counterClosed), drop)
	*c.chain(rules.Name, nil) = rules

	c.counter(counterClosed)
	forward := c.chain("forward", &Base{Type: "filter", Hook: Forward, Priority: priorityFilter, Policy: VerdictAccept})
	forward.add("default: closed", Count{counterClosed}, drop)
}

// admin adds the way in that stands above the policy, and tells whether there is one.
func (c *compiler) admin(rules *Chain) bool {
	a := c.profile.Admin
	if a.None {
		return false
	}
	ssh := Match{TCPDPort, []Range{portRange(PortSSH, PortSSH)}}
	before := len(rules.Rules)
	for _, v6 := range families {
		if from := prefixSpans(a.Prefixes, v6); len(from) > 0 {
			rules.add("admin"+at(a.At), Match{srcField(v6), ranges(from)}, ssh, accept)
		}
		for _, zone := range a.Zones {
			if c.space.has(zone, v6) {
				rules.add("admin: "+zone+at(a.At),
					Lookup{Fields: []Field{IIfName, srcField(v6)}, Set: c.zoneSet(zone, v6)}, ssh, accept)
			}
		}
	}
	return len(rules.Rules) > before
}

// neighbours adds what a host on an IPv6 link cannot live without (RFC 4890, section 4.4.1). Router advertisements
// and redirects are not among it: addresses and gateways are the profile's.
func (c *compiler) neighbours(rules *Chain) {
	if !c.anyIPv6() {
		return
	}
	rules.add("IPv6 neighbour discovery",
		Match{ICMP6Type, []Range{number(icmp6NeighborSolicit), number(icmp6NeighborAdvert)}},
		Match{IP6HopLimit, []Range{number(neighborDiscoveryHopsLeft)}}, accept)
	rules.add("IPv6 multicast listener discovery",
		Match{ICMP6Type, []Range{{First: []byte{icmp6ListenerQuery}, Last: []byte{icmp6ListenerDone}},
			number(icmp6ListenerReport2)}},
		Match{IP6SAddr, []Range{addrRange(prefixSpan(linkLocal6))}}, accept)
}

// dhcpAnswers lets the answers of DHCP servers in where this machine asks: they may be broadcast, which connection
// tracking does not know as an answer.
func (c *compiler) dhcpAnswers(rules *Chain) {
	for _, l := range c.profile.Links {
		if l.DHCP {
			rules.add("DHCP answers on "+l.Name+at(l.At), Match{IIfName, []Range{ifName(l.Name)}},
				Match{UDPSPort, []Range{portRange(portDHCPServer, portDHCPServer)}},
				Match{UDPDPort, []Range{portRange(portDHCPClient, portDHCPClient)}}, accept)
		}
	}
}

// anyIPv6 tells whether any link speaks IPv6.
func (c *compiler) anyIPv6() bool {
	for i := range c.profile.Links {
		if hasFamily(&c.profile.Links[i], true) {
			return true
		}
	}
	return false
}

// ranges turns spans into what a Match takes.
func ranges(list spans) []Range {
	var out []Range
	for _, s := range list {
		out = append(out, addrRange(s))
	}
	return out
}

// zoneSet is the name of the set of a zone's (link, address) pairs of one family; it is made when first asked for.
func (c *compiler) zoneSet(zone string, v6 bool) string {
	name := "zone/" + zone + "/" + version(v6)
	if c.table.Set(name) == nil {
		c.set(Set{Name: name, Key: []Type{TypeIfName, addrType(v6)}, Interval: true,
			Elements: c.space.elements(zone, v6, Verdict{})})
	}
	return name
}

// dispatch adds the lookup that leads a packet to the chain of its zone: by source when link is IIfName, by
// destination when it is OIfName. chainOf makes the chain of a zone and returns its name.
func (c *compiler) dispatch(rules *Chain, name string, link Field, chainOf func(zone string) string) {
	chains := map[string]string{}
	for _, z := range c.profile.Zones {
		chains[z.Name] = chainOf(z.Name)
	}
	for _, v6 := range families {
		s := Set{Name: name + "/" + version(v6), Key: []Type{TypeIfName, addrType(v6)}, Map: MapVerdict, Interval: true}
		for _, z := range c.profile.Zones {
			// Jump, never goto: what a chain leaves undecided comes back to the drop at the end of the base chain.
			s.Elements = append(s.Elements, c.space.elements(z.Name, v6, Verdict{VerdictJump, chains[z.Name]})...)
		}
		if len(s.Elements) == 0 {
			continue
		}
		c.set(s)
		addr := srcField(v6)
		if link == OIfName {
			addr = dstField(v6)
		}
		rules.add("", Lookup{Fields: []Field{link, addr}, Set: s.Name, Map: MapVerdict})
	}
}
