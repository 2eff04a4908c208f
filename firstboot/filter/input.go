package filter

import (
	"net/netip"

	"rempart/profiles"
)

// Counters that belong to no pair of zones.
const (
	counterSpoofed = "spoofed"  // entered by a link its source address does not belong to
	counterInvalid = ".invalid" // fits no connection; after the name of the chain
	counterClosed  = "closed"   // stopped by the closed rules
	counterNoZone  = "nozone"   // from or to an address that is in no zone
)

// antispoof drops what enters by a link its source does not belong to. It stands before connection tracking:
// otherwise a forged packet of a known connection would pass as "established". It is a whitelist, so a link the
// profile does not know passes nothing.
func (c *compiler) antispoof() {
	base := &Base{Type: "filter", Hook: Prerouting, Priority: priorityRaw, Policy: VerdictDrop}
	rules := Chain{Name: "antispoof", Base: base}
	rules.add("this machine talks to itself", Match{IIfName, []Range{ifName("lo")}}, accept)
	c.unaddressed(&rules)
	c.delegatedElsewhere(&rules)
	c.byLink(&rules, "antispoof", IIfName, func(ch *Chain, link string) {
		for _, v6 := range families {
			space := c.space.links[link].source[family(v6)]
			if len(space) == 0 {
				continue
			}
			if l := c.space.links[link].link; v6 && delegatedOnly(l) {
				space = c.delegatedHere(ch, l)
			}
			if v6 {
				// A host that checks whether its address is free has none yet (RFC 4862, section 5.4.2).
				space = union(append(spans{prefixSpan(netip.MustParsePrefix("::/128"))}, space...)...)
			}
			for _, r := range space {
				ch.add("the source belongs to "+link, Match{srcField(v6), []Range{addrRange(r)}}, accept)
			}
		}
	})
	c.logDrop(&rules, "", "forged")
	rules.add("the source belongs elsewhere", c.counter(counterSpoofed), drop)
	*c.chain(rules.Name, nil) = rules
}

// fromItself drops what is to be handed on in the name of the guest itself: its own packets come by no link. The
// address is in its link's subnet, so antispoof lets it by; the kernel asks for nothing of IPv6, and of IPv4 only for
// the source of the first of several packets to one host that come at once (ip_route_use_hint of net/ipv4/route.c, as
// of Linux 6.1). The link alone is asked, as the gateway of another may well have the link-local address that the guest
// has here; and where packets are handed on and not where they enter, as the guest hears its own broadcasts by the link
// it sent them by. Known connections are asked too, as those of the guest itself are among them. It costs 120 ns a
// packet, 2 % of what the way between two namespaces takes; a comparison with each address of two links took 200.
func (c *compiler) fromItself(ch *Chain) {
	forged := c.chain("forward/own", nil)
	c.logDrop(forged, "", "forged")
	forged.add("the source is this machine's own", c.counter(counterSpoofed), drop)
	ch.add("the source is this machine's own", Match{SAddrTypeOnLink, []Range{local()}},
		Verdict{VerdictGoto, forged.Name})
}

// byLink makes for each link a chain, and adds the rules that lead there by the link a packet came by or leaves by.
// Jump, never goto: what those chains leave undecided comes back to the drop at the end of the base chain. Package
// filter says why this is no verdict map.
func (c *compiler) byLink(rules *Chain, name string, field Field, fill func(ch *Chain, link string)) {
	for _, l := range c.profile.Links {
		ch := Chain{Name: name + "." + l.Name}
		if fill(&ch, l.Name); len(ch.Rules) == 0 {
			continue
		}
		*c.chain(ch.Name, nil) = ch
		rules.add("", Match{field, []Range{ifName(l.Name)}}, Verdict{VerdictJump, ch.Name})
	}
}

// ends adds a rule for each range of a zone's share of each link that leads the packets whose source (by IIfName) or
// destination (by OIfName) is in the zone on to a chain.
func (c *compiler) ends(rules *Chain, comment string, link Field, zone string, v6 bool, chain string) {
	for _, sh := range c.space.zones[zone] {
		for _, r := range sh.ranges[family(v6)] {
			rules.add(comment, Match{link, []Range{ifName(sh.link)}}, Match{addrField(link, v6), []Range{addrRange(r)}},
				Verdict{VerdictJump, chain})
		}
	}
}

// addrField is the address that goes with a link: the source where a packet came by, the destination where it leaves.
func addrField(link Field, v6 bool) Field {
	if link == OIfName {
		return dstField(v6)
	}
	return srcField(v6)
}

// clamp keeps TCP working where a link has a smaller MTU than the others and the ICMP errors that would say so are
// lost on the way.
func (c *compiler) clamp() {
	ch := c.chain("clamp", &Base{Type: "filter", Hook: Forward, Priority: priorityMangle, Policy: VerdictAccept})
	ch.add("segments fit the smallest MTU of the way", Bits{Field: TCPFlags, Mask: tcpSYN}, ClampMSS{})
}

// known lets what belongs to a connection pass and drops what fits none. chainOf names the chain that judges what
// comes from a zone.
func (c *compiler) known(ch *Chain, chainOf func(zone string) string) {
	ch.add("answers, and errors about known connections", Bits{Field: CTState, Mask: ctEstablished | ctRelated}, accept)
	c.proxied(ch, chainOf)
	c.errorsOfUntracked(ch)
	ch.add("fits no connection", Bits{Field: CTState, Mask: ctInvalid}, c.counter(ch.Name+counterInvalid), drop)
}

// input is what may reach this machine.
func (c *compiler) input() {
	rules := Chain{Name: "input", Base: &Base{Type: "filter", Hook: Input, Priority: priorityFilter, Policy: VerdictDrop}}
	c.known(&rules, func(zone string) string { return "in/" + zone })
	rules.add("this machine talks to itself", Match{IIfName, []Range{ifName("lo")}}, accept)
	c.admin(&rules)
	c.neighbours(&rules)
	c.dhcpAnswers(&rules)
	c.tunnels(&rules)
	c.openings(&rules)
	c.dispatch(&rules, "in", IIfName, profiles.Any, func(zone string) string {
		return c.pairChain("in/"+zone, zone, profiles.Self)
	})
	c.logDrop(&rules, "", "in no zone")
	rules.add("default: in no zone", c.counter(counterNoZone), drop)
	*c.chain(rules.Name, nil) = rules
}

// closed is all of Closed.
func (c *compiler) closed() {
	rules := Chain{Name: "input", Base: &Base{Type: "filter", Hook: Input, Priority: priorityFilter, Policy: VerdictDrop}}
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
	forward := c.chain("forward", &Base{Type: "filter", Hook: Forward, Priority: priorityFilter, Policy: VerdictDrop})
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
			for _, sh := range c.space.zones[zone] {
				for _, r := range sh.ranges[family(v6)] {
					rules.add("admin: "+zone+at(a.At), Match{IIfName, []Range{ifName(sh.link)}},
						Match{srcField(v6), []Range{addrRange(r)}}, ssh, accept)
				}
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
// destination when it is OIfName. All packets come from one zone, from self, or from any. chainOf makes the chain of a
// zone and returns its name; empty: nothing is decided about that zone.
func (c *compiler) dispatch(rules *Chain, name string, field Field, from string, chainOf func(zone string) string) {
	chains := map[string]string{}
	for _, z := range c.profile.Zones {
		if len(c.space.zones[z.Name]) > 0 {
			chains[z.Name] = chainOf(z.Name)
		}
	}
	c.byLink(rules, name, field, func(ch *Chain, link string) {
		for _, z := range c.profile.Zones {
			for _, sh := range c.space.zones[z.Name] {
				if sh.link != link || chains[z.Name] == "" {
					continue
				}
				for _, v6 := range families {
					if from != profiles.Any && from != profiles.Self && !c.space.has(from, v6) {
						continue // nothing of this family comes from there
					}
					for _, r := range sh.ranges[family(v6)] {
						ch.add("zone "+z.Name, Match{addrField(field, v6), []Range{addrRange(r)}},
							Verdict{VerdictGoto, chains[z.Name]})
					}
				}
			}
		}
	})
}
