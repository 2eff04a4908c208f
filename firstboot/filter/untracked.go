package filter

import (
	"slices"

	"rempart/profiles"
)

// # Without connection tracking
//
// Two kinds of packets are kept from connection tracking, by chains of the same form that stand before it. Those of
// lines with notrack never have a connection: each packet is judged by the line, and what comes back is known by its
// addresses, protocol and source port alone. Those that begin a connection a SYN proxy stands before have none yet; see
// synproxy.go.
//
// Which line a packet is of depends on the link it will leave by, and that is asked of the routing table at the end of
// each rule, when everything else has matched.

// route is a direction between two zones, or self.
type route struct{ from, to string }

// checkUntracked checks what the rules without tracking rely on.
func checkUntracked(r *profiles.Rule, bad func(profiles.Pos, string, ...any)) {
	if r.Action != profiles.Accept && (settingsOf(r) != 0 || r.NoTrack || r.SynProxy != nil) {
		bad(r.At, "policy: dscp, ttl, notrack and synproxy are for what a line accepts")
	}
	if r.SynProxy != nil && (r.From == profiles.Self || r.NoTrack) {
		bad(r.At, "policy: a SYN proxy for %s, notrack %t", r.From, r.NoTrack)
	}
	if (r.NoTrack || r.SynProxy != nil) && (len(r.Matches) == 0 || r.Limit != nil || r.Connections > 0 || r.Helper != "") {
		bad(r.At, "policy: notrack and synproxy are for services, without limit, connections and helper")
	}
	for _, m := range r.Matches {
		if r.SynProxy != nil && (m.Protocol != profiles.TCP || len(m.Ports) == 0) {
			bad(r.At, "policy: synproxy is for ports of tcp")
		}
		_, known := m.Protocol.Number()
		if r.NoTrack && (!known || m.Protocol == profiles.ICMP || m.Protocol == profiles.ICMP6 ||
			m.Protocol.HasPorts() && len(m.Ports) == 0) {
			bad(r.At, "policy: notrack is for ports, and for protocols that have none but ICMP")
		}
	}
}

// untracked adds the chains that keep packets from connection tracking.
func (c *compiler) untracked() {
	rules := Chain{Name: "untracked",
		Base: &Base{Type: "filter", Hook: Prerouting, Priority: priorityFree, Policy: VerdictAccept}}
	begin := Chain{Name: "untracked.syn"}
	own := Chain{Name: "untracked.own",
		Base: &Base{Type: "filter", Hook: Output, Priority: priorityFree, Policy: VerdictAccept}}
	above := c.aboveProxied()
	for _, z := range c.profile.Zones {
		if len(c.space.zones[z.Name]) == 0 {
			continue
		}
		ch, syn := Chain{Name: "untracked/" + z.Name}, Chain{Name: "untracked.syn/" + z.Name}
		c.untrackedForwards(&syn, &z)
		for i := range c.profile.Policy {
			r := &c.profile.Policy[i]
			for _, other := range c.otherEnds(r, len(above[i]) > 0) {
				if covers(r.From, z.Name) && covers(r.To, other) {
					switch {
					case r.SynProxy != nil:
						c.keepOut(&syn, r.Matches, r, route{z.Name, other}, false, NoTrack{})
					case r.NoTrack:
						c.keepOut(&ch, r.Matches, r, route{z.Name, other}, false, NoTrack{})
					case slices.ContainsFunc(above[i], func(p *profiles.Rule) bool {
						return covers(p.From, z.Name) && covers(p.To, other)
					}):
						c.keepOut(&syn, begun(r), r, route{z.Name, other}, false, accept)
					}
				}
				if covers(r.To, z.Name) && covers(r.From, other) && r.NoTrack {
					c.keepOut(&ch, r.Matches, r, route{z.Name, other}, true, NoTrack{})
				}
			}
			if !r.NoTrack {
				continue
			}
			if r.From == profiles.Self && covers(r.To, z.Name) {
				c.keepOut(&own, r.Matches, r, route{profiles.Self, z.Name}, false, NoTrack{})
			}
			if r.To == profiles.Self && covers(r.From, z.Name) {
				c.keepOut(&own, r.Matches, r, route{profiles.Self, z.Name}, true, NoTrack{})
			}
		}
		c.fromZone(&rules, ch, z.Name)
		c.fromZone(&begin, syn, z.Name)
	}
	if len(begin.Rules) > 0 { // so that only they pay for proxies
		*c.chain(begin.Name, nil) = begin
		rules.add("connections that begin", Begins{}, Verdict{VerdictJump, begin.Name})
	}
	for _, ch := range []Chain{rules, own} {
		if len(ch.Rules) > 0 {
			*c.chain(ch.Name, nil) = ch
		}
	}
}

// aboveProxied are, by the place of a line, the lines with a proxy below it that what it accepts may meet too: what
// that line takes is tracked as ever, or the answers to it would fit no connection.
func (c *compiler) aboveProxied() map[int][]*profiles.Rule {
	out := map[int][]*profiles.Rule{}
	var below []*profiles.Rule
	for i := len(c.profile.Policy) - 1; i >= 0; i-- {
		r := &c.profile.Policy[i]
		if r.SynProxy != nil {
			below = append(below, r)
		}
		if r.SynProxy != nil || r.NoTrack || r.Action != profiles.Accept || len(below) == 0 {
			continue
		}
		mine := begun(r)
		for _, p := range below {
			if slices.ContainsFunc(mine, func(a profiles.Match) bool {
				return slices.ContainsFunc(p.Matches, func(b profiles.Match) bool {
					return len(a.Ports) == 0 || portsMeet(a.Ports, b.Ports)
				})
			}) {
				out[i] = append(out[i], p)
			}
		}
	}
	return out
}

// begun are the matches of a line that TCP connections may meet.
func begun(r *profiles.Rule) (out []profiles.Match) {
	if len(r.Matches) == 0 {
		return []profiles.Match{{}}
	}
	for _, m := range r.Matches {
		if m.Protocol == profiles.AnyProtocol || m.Protocol == profiles.TCP {
			out = append(out, m)
		}
	}
	return out
}

// otherEnds are all that a line with notrack or synproxy, or one above such, may go to or come from; none for other
// lines.
func (c *compiler) otherEnds(r *profiles.Rule, above bool) (all []string) {
	if !r.NoTrack && r.SynProxy == nil && !above {
		return nil
	}
	for _, z := range c.profile.Zones {
		if len(c.space.zones[z.Name]) > 0 {
			all = append(all, z.Name)
		}
	}
	return append(all, profiles.Self)
}

// keepOut adds the rules that keep the packets of matches of a line that go one way from connection tracking, or, with
// accept, in it; back: of its answers.
func (c *compiler) keepOut(ch *Chain, list []profiles.Match, r *profiles.Rule, way route, back bool, do Expr) {
	comment := lineComment(r)
	if back {
		comment = "answers: " + comment
	}
	for _, m := range list {
		for _, v6 := range families {
			if !c.speaks(way.from, way.to, v6) || !m.Protocol.Speaks(v6) {
				continue
			}
			for _, what := range c.oneWay(m, v6, back) {
				if way.from != profiles.Self {
					what = beforeRouting(what)
				}
				for _, end := range c.farEnd(way, v6) {
					ch.add(comment, slices.Concat(end[:1], what, end[1:], []Expr{do})...)
				}
			}
		}
	}
}

// oneWay are the alternatives of a match for the packets of one direction.
func (c *compiler) oneWay(m profiles.Match, v6, back bool) (out [][]Expr) {
	proto := protocol(m, v6)
	src, dst := srcField(v6), dstField(v6)
	if back {
		src, dst = dst, src
		if len(m.Ports) > 0 {
			proto = []Expr{Match{map[profiles.Protocol]Field{profiles.TCP: TCPSPort, profiles.UDP: UDPSPort,
				profiles.SCTP: SCTPSPort}[m.Protocol], portRanges(m.Ports)}}
		}
	}
	for _, from := range c.sources(m, src, v6) {
		for _, to := range c.destinations(m, dst, v6) {
			out = append(out, slices.Concat(from, to, proto))
		}
	}
	return out
}

// farEnd are the alternatives of where a packet of a direction goes, before it is routed: what is cheap to ask, and
// what is asked last.
func (c *compiler) farEnd(way route, v6 bool) (out [][]Expr) {
	if way.to == profiles.Self {
		return [][]Expr{{version(v6), Match{DAddrType, []Range{local()}}}}
	}
	for _, sh := range c.space.zones[way.to] {
		link := Match{DAddrOIfName, []Range{ifName(sh.link)}}
		if way.from == profiles.Self { // which is routed already
			link.Field = OIfName
		}
		for _, r := range sh.ranges[family(v6)] {
			out = append(out, []Expr{Match{dstField(v6), []Range{addrRange(r)}}, link})
		}
	}
	return out
}

// answers lets what comes back pass of lines without connection tracking, from one zone or self to another.
func (c *compiler) answers(ch *Chain, from, to string) {
	if c.table.Family != FamilyInet {
		return
	}
	for i := range c.profile.Policy {
		r := &c.profile.Policy[i]
		if !r.NoTrack || !covers(r.From, to) || !covers(r.To, from) {
			continue
		}
		for _, m := range r.Matches {
			for _, v6 := range families {
				if !c.speaks(from, to, v6) || !m.Protocol.Speaks(v6) {
					continue
				}
				for _, what := range c.oneWay(m, v6, true) {
					if !showsFamily(what) {
						what = append([]Expr{version(v6)}, what...)
					}
					ch.add("answers: "+lineComment(r), slices.Concat([]Expr{Bits{Field: CTState, Mask: ctUntracked}}, what,
						c.setting(r, v6), []Expr{accept})...)
				}
			}
		}
	}
}

// errorsOfUntracked lets the one kind of ICMP errors pass without which large packets are lost: about flows that are
// not tracked nobody knows that they are errors about something. RFC 1191, and RFC 4890, section 4.3.1.
func (c *compiler) errorsOfUntracked(ch *Chain) {
	if !slices.ContainsFunc(c.profile.Policy, func(r profiles.Rule) bool { return r.NoTrack }) {
		return
	}
	ch.add("path MTU of what is not tracked", Match{ICMPType, []Range{number(icmpUnreachable)}},
		Match{ICMPCode, []Range{number(icmpFragNeeded)}}, accept)
	ch.add("path MTU of what is not tracked", Match{ICMP6Type, []Range{number(icmp6PacketTooBig)}}, accept)
}

// lineComment names a line.
func lineComment(r *profiles.Rule) string { return "policy: " + r.From + " -> " + r.To + at(r.At) }

// NoTrack keeps a packet from connection tracking.
type NoTrack struct{}

func (NoTrack) text() string { return "notrack" }
