package filter

import (
	"fmt"
	"net/netip"
	"slices"

	"rempart/profiles"
)

// # Between the members of a bridge
//
// Zones on members of a bridge are about what the bridge passes from one member to another; what is routed, by the
// bridge as by any link, belongs to the zones on the bridge itself. The rules are in a table of the bridge family, with
// the name of the other one and in the same transaction. A bridge none of whose members is in a zone is a switch.
//
// Which zone a frame is of is decided by the member it came by alone, not by addresses: on one segment everybody can
// have any. Frames with a VLAN tag pass none of these bridges, and neither does what is neither IP nor ARP. ARP and
// IPv6 neighbour discovery pass between two members when a line lets anything of that family pass between their zones,
// in either direction; so members whose zones have no dealings with each other do not even learn of each other.
//
// The bridge family cannot refuse what it forwards (nft_reject_bridge_validate in the kernel's
// net/bridge/netfilter/nft_reject_bridge.c allows it on the way in only), so reject is drop here.

// Ethernet types, from the IEEE registry.
const (
	etherIPv4   = 0x0800
	etherARP    = 0x0806
	ether8021Q  = 0x8100
	etherIPv6   = 0x86dd
	ether8021AD = 0x88a8
)

// Counters of the table of bridges.
const (
	counterTagged = "tagged" // frames with a VLAN tag
	counterOther  = "other"  // neither IP nor ARP
)

// bridgePort is a member of a bridge that filters.
type bridgePort struct {
	link   *profiles.Link
	bridge string
	zone   string // empty: in none, nothing passes
}

// bridgePorts are the members of bridges in the order of the links, those of bridges that filter and the others.
func bridgePorts(p *profiles.Profile) (filtered []bridgePort, open []string) {
	zone := map[string]string{}
	for _, z := range p.Zones {
		for _, m := range z.Members {
			zone[m.Link] = z.Name
		}
	}
	for i := range p.Links {
		l := &p.Links[i]
		master := p.MasterOf(l.Name)
		switch {
		case master == nil || master.Bridge == nil:
		case p.Filters(master):
			filtered = append(filtered, bridgePort{l, master.Name, zone[l.Name]})
		default:
			open = append(open, l.Name)
		}
	}
	return filtered, open
}

// newBridgeSpace is the space of the members of bridges: anybody can be behind each.
func newBridgeSpace(p *profiles.Profile) *space {
	s := &space{links: map[string]*linkSpace{}, zones: map[string][]share{}}
	ports, _ := bridgePorts(p)
	for _, port := range ports {
		ls := &linkSpace{link: port.link}
		for _, v6 := range families {
			ls.source[family(v6)] = everywhere(v6)
		}
		s.links[port.link.Name] = ls
		if port.zone != "" {
			s.zones[port.zone] = append(s.zones[port.zone], share{link: port.link.Name, ranges: ls.source})
		}
	}
	return s
}

// bridged returns the table of bridges; false when no bridge filters.
func (c *compiler) bridged(closed bool) (Table, bool) {
	ports, open := bridgePorts(c.profile)
	if len(ports) == 0 {
		return Table{}, false
	}
	b := &compiler{profile: c.profile, space: newBridgeSpace(c.profile),
		table: Table{Family: FamilyBridge, Name: TableName}}
	rules := Chain{Name: "forward",
		Base: &Base{Type: "filter", Hook: Forward, Priority: priorityFilter, Policy: VerdictDrop}}
	for _, name := range open {
		rules.add(name+" is of a bridge that does not filter", Match{IIfName, []Range{ifName(name)}}, accept)
	}
	if closed {
		rules.add("default: closed", b.counter(counterClosed), drop)
	} else {
		b.bridgeRules(&rules, ports)
	}
	*b.chain(rules.Name, nil) = rules
	b.forBridge()
	b.table.Chains = append(b.table.Chains, Chain{Name: fingerprint(&b.table)})
	return b.table, true
}

func (c *compiler) bridgeRules(rules *Chain, ports []bridgePort) {
	rules.add("with a VLAN tag", Match{EtherType, []Range{etherRange(ether8021Q), etherRange(ether8021AD)}},
		c.counter(counterTagged), drop)
	c.bridgeNeighbours(rules, ports)
	for _, protocol := range []uint16{etherIPv4, etherIPv6} {
		rules.add("", Match{LinkProtocol, []Range{etherRange(protocol)}}, Verdict{VerdictJump, "members"})
	}
	rules.add("neither IP nor ARP", c.counter(counterOther), drop)

	ip := Chain{Name: "members"}
	ip.add("fits no connection", Bits{Field: CTState, Mask: ctInvalid}, c.counter(ip.Name+counterInvalid), drop)
	for _, from := range ports {
		ch := Chain{Name: "from." + from.link.Name}
		for _, to := range ports {
			if !meet(from, to) {
				continue
			}
			pair := "bridge/" + from.zone + "/" + to.zone
			if c.table.find(pair) == nil {
				c.bridgePair(pair, from.zone, to.zone)
			}
			ch.add("", Match{OIfName, []Range{ifName(to.link.Name)}}, Verdict{VerdictGoto, pair})
		}
		if len(ch.Rules) > 0 {
			*c.chain(ch.Name, nil) = ch
			ip.add("", Match{IIfName, []Range{ifName(from.link.Name)}}, Verdict{VerdictJump, ch.Name})
		}
	}
	ip.add("default: in no zone", c.counter(counterNoZone), drop)
	*c.chain(ip.Name, nil) = ip
}

// bridgePair is pairChain for zones on members of a bridge. Answers pass only between zones that have dealings at all:
// a connection that is routed, or of another pair, makes none of what is sent past it an answer.
func (c *compiler) bridgePair(name, from, to string) {
	c.pairChain(name, from, to)
	for _, v6 := range families {
		if c.dealings(from, to, v6) || c.dealings(to, from, v6) {
			ch := c.table.find(name)
			ch.Rules = slices.Insert(ch.Rules, 0, Rule{Comment: "answers, and errors about known connections",
				Do: []Expr{Bits{Field: CTState, Mask: ctEstablished | ctRelated}, accept}})
			return
		}
	}
}

// meet tells whether frames can pass from one member to the other at all.
func meet(from, to bridgePort) bool {
	return from.bridge == to.bridge && from.link != to.link && from.zone != "" && to.zone != ""
}

// bridgeNeighbours adds what hosts need to find each other: ARP, and neighbour discovery (RFC 4861; forged from afar it
// would not have all its hops left).
func (c *compiler) bridgeNeighbours(rules *Chain, ports []bridgePort) {
	for _, v6 := range families {
		ch := Chain{Name: "neighbours.v4"}
		what := []Expr{Match{LinkProtocol, []Range{etherRange(etherARP)}}}
		if v6 {
			ch.Name = "neighbours.v6"
			what = []Expr{Match{ICMP6Type, []Range{number(icmp6NeighborSolicit), number(icmp6NeighborAdvert)}},
				Match{IP6HopLimit, []Range{number(neighborDiscoveryHopsLeft)}}}
		}
		for _, from := range ports {
			for _, to := range ports {
				if meet(from, to) && (c.dealings(from.zone, to.zone, v6) || c.dealings(to.zone, from.zone, v6)) {
					ch.add(from.zone+" and "+to.zone, Match{IIfName, []Range{ifName(from.link.Name)}},
						Match{OIfName, []Range{ifName(to.link.Name)}}, accept)
				}
			}
		}
		ch.add("no line lets anything pass", c.counter(ch.Name), drop)
		*c.chain(ch.Name, nil) = ch
		rules.add("", append(what, Verdict{VerdictGoto, ch.Name})...)
	}
}

// dealings tells whether a line may let a packet of a family pass from one zone to another.
func (c *compiler) dealings(from, to string, v6 bool) bool {
	return slices.ContainsFunc(c.profile.Policy, func(r profiles.Rule) bool {
		return r.Action == profiles.Accept && covers(r.From, from) && covers(r.To, to) && (len(r.Matches) == 0 ||
			slices.ContainsFunc(r.Matches, func(m profiles.Match) bool { return m.Protocol.Speaks(v6) }))
	})
}

// forBridge turns rules as the inet family has them into those of the bridge family: an IP version is an Ethernet type
// there, and has to be asked for by itself before ICMP; and reject is drop.
func (c *compiler) forBridge() {
	for i := range c.table.Chains {
		ch := &c.table.Chains[i]
		for k := range ch.Rules {
			var do []Expr
			known := false // the IP version
			for _, e := range ch.Rules[k].Do {
				m, ok := e.(Match)
				version := uint8(0)
				if ok {
					version, _ = m.Field.Needs()
				}
				switch {
				case ok && m.Field == Version:
					known = true
					e = Match{LinkProtocol, []Range{etherOf(m.Ranges[0].First[0] == VersionIPv6)}}
				case ok && version != 0 && !known:
					known = true
					if m.Field == ICMPType || m.Field == ICMP6Type {
						do = append(do, Match{LinkProtocol, []Range{etherOf(version == 6)}})
					}
				}
				if _, ok := e.(Reject); ok {
					do = append(do, c.counter(ch.Name))
					e = drop
				}
				do = append(do, e)
			}
			ch.Rules[k].Do = do
		}
	}
}

func etherOf(v6 bool) Range {
	if v6 {
		return etherRange(etherIPv6)
	}
	return etherRange(etherIPv4)
}

// checkBridged finds what a policy cannot say of zones on members of bridges.
func checkBridged(p *profiles.Profile, bad func(profiles.Pos, string, ...any)) {
	for _, z := range p.Zones {
		in := 0
		for _, m := range z.Members {
			if master := p.MasterOf(m.Link); master != nil && master.Bridge != nil {
				in++
				if len(m.Prefixes) > 0 || m.Rest || len(master.Bridge.Ports) > 0 {
					bad(z.At, "zone %q: on member %s of a bridge it cannot have prefixes, nor the bridge VLANs", z.Name, m.Link)
				}
			}
		}
		if in > 0 && in < len(z.Members) {
			bad(z.At, "zone %q: on members of bridges and on other links at once", z.Name)
		}
	}
	filtered, _ := bridgePorts(p)
	seen := map[string]string{}
	for _, port := range filtered {
		for _, z := range p.Zones {
			for _, m := range z.Members {
				if m.Link == port.link.Name {
					if other := seen[m.Link]; other != "" && other != z.Name {
						bad(z.At, "zone %q: link %s is in zone %q too", z.Name, m.Link, other)
					}
					seen[m.Link] = z.Name
				}
			}
		}
	}
}

// bridgedProber gathers the probes of what passes by bridges.
func (b *prober) bridgedProber() *prober {
	ports, _ := bridgePorts(b.p)
	out := &prober{p: b.p, space: newBridgeSpace(b.p), seen: b.seen, ports: ports, at: map[netip.Addr]string{}}
	return out
}

// bridged adds what hosts behind one member of a bridge may ask of those behind another.
func (b *prober) bridged() {
	bb := b.bridgedProber()
	for _, from := range b.p.Zones {
		for _, to := range b.p.Zones {
			for _, v6 := range families {
				for _, k := range bb.knocks(from.Name, to.Name) {
					bb.across(from.Name, to.Name, v6, k, netip.Addr{}, netip.Addr{}, bb.add)
				}
			}
		}
	}
	b.out = append(b.out, bb.out...)
}

// across adds the probes of one knock between all members of two zones that meet; src and dst, where they are valid,
// are the only hosts.
func (b *prober) across(from, to string, v6 bool, k knock, src, dst netip.Addr, add func(Probe)) {
	ends := func(zone string, named netip.Addr, singled []netip.Prefix) []host {
		if !named.IsValid() {
			return b.hosts(zone, v6, singled)
		}
		var all []host
		for _, sh := range b.space.zones[zone] {
			all = append(all, host{zone, sh.link, named})
		}
		return all
	}
	for _, s := range ends(from, src, b.special(from)) {
		for _, d := range ends(to, dst, b.targets(from, to)) {
			x, y := b.port(s.link), b.port(d.link)
			if !meet(x, y) || s.addr == d.addr {
				continue
			}
			probe := b.between(s, d, k, decide(b.p, flow{from: from, to: to, src: s.addr, dst: d.addr, protocol: k.protocol,
				port: k.port}))
			probe.Bridge = x.bridge
			add(probe)
		}
	}
}

func (b *prober) port(link string) bridgePort {
	return b.ports[slices.IndexFunc(b.ports, func(p bridgePort) bool { return p.link.Name == link })]
}

// pickNeighbour chooses the address of a host behind a member: in a subnet of the bridge or, where it has none, in a
// documentation prefix, and another for each member, for all are on one segment.
func (b *prober) pickNeighbour(link string, ranges spans) netip.Addr {
	port := b.port(link)
	n := slices.Index(b.ports, port) + 1
	var bridge *profiles.Link
	for i := range b.p.Links {
		if b.p.Links[i].Name == port.bridge {
			bridge = &b.p.Links[i]
		}
	}
	var wanted []spans
	for _, a := range bridge.Addresses {
		wanted = append(wanted, ranges.and(union(prefixSpan(a))))
	}
	for _, d := range []string{"192.0.2.0/24", "2001:db8::/64"} {
		wanted = append(wanted, ranges.and(union(prefixSpan(netip.MustParsePrefix(d)))))
	}
	for _, list := range append(wanted, ranges) {
		for _, s := range list {
			const stride = 2
			for range n * stride {
				if next := s.first.Next(); next.Less(s.last) {
					s.first = next
				}
			}
			if a := b.free(s); a.IsValid() && (b.at[a] == "" || b.at[a] == link) {
				b.at[a] = link
				return a
			}
		}
	}
	return netip.Addr{}
}

// explainBridged answers a question about two zones of which one at least is on members of a bridge.
func (b *prober) explainBridged(q Question) error {
	bb := b.bridgedProber()
	for _, end := range []string{q.From, q.To} {
		if len(bb.space.zones[end]) == 0 {
			return fmt.Errorf("one of %s and %s is on members of a bridge, the other is not: what is routed belongs to the "+
				"zone of the bridge itself", q.From, q.To)
		}
	}
	for _, v6 := range families {
		if q.Src.IsValid() && isV6(q.Src) != v6 || q.Dst.IsValid() && isV6(q.Dst) != v6 {
			continue
		}
		bb.across(q.From, q.To, v6, knock{q.Protocol, q.Port}, q.Src, q.Dst, b.distinct)
	}
	if len(b.out) == 0 {
		return fmt.Errorf("no bridge has a member in %s and another in %s", q.From, q.To)
	}
	return nil
}
