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
	c.byLink(&rules, "antispoof", IIfName, func(ch *Chain, link string) {
		for _, v6 := range families {
			space := c.space.links[link].source[family(v6)]
			if len(space) == 0 {
				continue
			}
			if v6 {
				// A host that checks whether its address is free has none yet (RFC 4862, section 5.4.2).
				space = union(append(spans{prefixSpan(netip.MustParsePrefix("::/128"))}, space...)...)
			}
			ch.add("the source belongs to "+link, c.within(srcField(v6), space, "link/"+link+"/"+version(v6)), accept)
		}
	})
	rules.add("the source belongs elsewhere", c.counter(counterSpoofed), drop)
	*c.chain(rules.Name, nil) = rules
}

// byLink adds a lookup of the link a packet came by or leaves by, and makes for each link the chain it leads to.
// Jump, never goto: what those chains leave undecided comes back to the drop at the end of the base chain.
func (c *compiler) byLink(rules *Chain, name string, field Field, fill func(ch *Chain, link string)) {
	links := Set{Name: name, Key: []Type{TypeIfName}, Map: MapVerdict}
	for _, l := range c.profile.Links {
		ch := Chain{Name: name + "." + l.Name}
		if fill(&ch, l.Name); len(ch.Rules) == 0 {
			continue
		}
		*c.chain(ch.Name, nil) = ch
		links.Elements = append(links.Elements,
			Element{Key: []Range{ifName(l.Name)}, Verdict: Verdict{VerdictJump, ch.Name}})
	}
	if len(links.Elements) > 0 {
		c.set(links)
		rules.add("", Lookup{Fields: []Field{field}, Set: name, Map: MapVerdict})
	}
}

// within matches a field against addresses: directly when they are one range, else by a named set that is made when
// first asked for.
func (c *compiler) within(field Field, list spans, set string) Expr {
	if len(list) == 1 {
		return Match{field, ranges(list)}
	}
	if c.table.Set(set) == nil {
		s := Set{Name: set, Key: []Type{field.Type()}, Interval: true}
		for _, r := range ranges(list) {
			s.Elements = append(s.Elements, Element{Key: []Range{r}})
		}
		c.set(s)
	}
	return Lookup{Fields: []Field{field}, Set: set}
}

// end matches the packets whose source (by IIfName) or destination (by OIfName) is in a zone: one list of
// expressions for each link the zone has a share of.
func (c *compiler) end(link Field, zone string, v6 bool) [][]Expr {
	addr := srcField(v6)
	if link == OIfName {
		addr = dstField(v6)
	}
	var out [][]Expr
	for _, sh := range c.space.zones[zone] {
		if list := sh.ranges[family(v6)]; len(list) > 0 {
			out = append(out, []Expr{Match{link, []Range{ifName(sh.link)}},
				c.within(addr, list, "zone/"+zone+"."+sh.link+"/"+version(v6))})
		}
	}
	return out
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
			for _, from := range c.end(IIfName, zone, v6) {
				rules.add("admin: "+zone+at(a.At), append(from, ssh, accept)...)
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

// dispatch adds the lookups that lead a packet to the chain of its zone: by source when field is IIfName, by
// destination when it is OIfName. chainOf makes the chain of a zone and returns its name.
func (c *compiler) dispatch(rules *Chain, name string, field Field, chainOf func(zone string) string) {
	chains := map[string]string{}
	for _, z := range c.profile.Zones {
		chains[z.Name] = chainOf(z.Name)
	}
	c.byLink(rules, name, field, func(ch *Chain, link string) {
		for _, z := range c.profile.Zones {
			for _, sh := range c.space.zones[z.Name] {
				if sh.link != link {
					continue
				}
				for _, v6 := range families {
					addr := srcField(v6)
					if field == OIfName {
						addr = dstField(v6)
					}
					if list := sh.ranges[family(v6)]; len(list) > 0 {
						ch.add("zone "+z.Name, c.within(addr, list, "zone/"+z.Name+"."+link+"/"+version(v6)),
							Verdict{VerdictGoto, chains[z.Name]})
					}
				}
			}
		}
	})
}
