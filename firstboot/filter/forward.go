package filter

import (
	"fmt"
	"slices"

	"rempart/profiles"
)

// forward is what may pass through this machine.
func (c *compiler) forward() {
	rules := Chain{Name: "forward",
		Base: &Base{Type: "filter", Hook: Forward, Priority: priorityFilter, Policy: VerdictDrop}}
	c.fromItself(&rules)
	c.keepApart(&rules)
	c.offload(&rules)
	c.known(&rules, func(zone string) string { return "from/" + zone })
	c.dispatch(&rules, "from", IIfName, profiles.Any, func(from string) string {
		ch := Chain{Name: "from/" + from}
		for i := range c.profile.Forwards {
			if f := &c.profile.Forwards[i]; f.From == from {
				c.acceptForward(&ch, f)
			}
		}
		c.merge(&ch)
		c.dispatch(&ch, "to/"+from, OIfName, from, func(to string) string {
			return c.pairChain("fwd/"+from+"/"+to, from, to)
		})
		*c.chain(ch.Name, nil) = ch
		return ch.Name
	})
	c.logDrop(&rules, "", "in no zone")
	rules.add("default: in no zone", c.counter(counterNoZone), drop)
	*c.chain(rules.Name, nil) = rules
}

// output is what this machine may send. It may send everything but what lines from self forbid.
func (c *compiler) output() {
	if !slices.ContainsFunc(c.profile.Policy, func(r profiles.Rule) bool { return r.From == profiles.Self }) {
		return
	}
	rules := Chain{Name: "output",
		Base: &Base{Type: "filter", Hook: Output, Priority: priorityFilter, Policy: VerdictAccept}}
	rules.add("answers, and errors about known connections", Bits{Field: CTState, Mask: ctEstablished | ctRelated}, accept)
	c.proxyAnswers(&rules)
	c.neighbours(&rules)
	c.dispatch(&rules, "out", OIfName, profiles.Self, func(zone string) string {
		if !slices.ContainsFunc(c.profile.Policy, func(r profiles.Rule) bool {
			return r.From == profiles.Self && covers(r.To, zone)
		}) {
			return ""
		}
		return c.pairChain("out/"+zone, profiles.Self, zone)
	})
	*c.chain(rules.Name, nil) = rules
}

// covers tells whether the From or To of a policy line speaks of a zone or of self.
func covers(name, zone string) bool {
	return name == zone || name == profiles.Any && zone != profiles.Self
}

// pairChain makes the chain of what goes from one zone to another, or to or from self, and returns its name. It ends
// with the default: a drop that is counted under the chain's name; from self there is none.
func (c *compiler) pairChain(name, from, to string) string {
	ch := Chain{Name: name}
	final := false
	c.answers(&ch, from, to)
	for i := range c.profile.Policy {
		r := &c.profile.Policy[i]
		if covers(r.From, from) && covers(r.To, to) {
			if final = c.policyLine(&ch, i, from, to); final {
				break // the lines below it decide nothing more
			}
		}
	}
	c.merge(&ch)
	if !final && from != profiles.Self {
		c.logDrop(&ch, from, from+" -> "+to)
		ch.add("default: "+from+" -> "+to, c.counter(name), drop)
	}
	*c.chain(ch.Name, nil) = ch
	return name
}

// speaks tells whether a packet of a family can go from one end to the other.
func (c *compiler) speaks(from, to string, v6 bool) bool {
	return (from == profiles.Self || c.space.has(from, v6)) && (to == profiles.Self || c.space.has(to, v6))
}

// portRanges sorts and joins port ranges, as the kernel wants the elements of a set.
func portRanges(list []profiles.PortRange) []Range {
	list = slices.Clone(list)
	slices.SortFunc(list, func(a, b profiles.PortRange) int { return int(a.First) - int(b.First) })
	joined := list[:1]
	for _, p := range list[1:] {
		last := &joined[len(joined)-1]
		if int(p.First) <= int(last.Last)+1 {
			last.Last = max(last.Last, p.Last)
			continue
		}
		joined = append(joined, p)
	}
	var out []Range
	for _, p := range joined {
		out = append(out, portRange(p.First, p.Last))
	}
	return out
}

// forwardComment names a forward.
func forwardComment(f *profiles.Forward) string {
	return fmt.Sprintf("forward: %s -> %s%s", f.From, f.To, at(f.At))
}

// portOf is the destination port field of a forward.
func portOf(f *profiles.Forward) Field {
	if f.Protocol == profiles.UDP {
		return UDPDPort
	}
	return TCPDPort
}

// mapped is where the ports of one range of a forward go.
func mapped(f *profiles.Forward, p profiles.PortRange) profiles.PortRange {
	if f.ToPort == 0 {
		return p
	}
	return profiles.PortRange{First: f.ToPort, Last: f.ToPort + (p.Last - p.First)}
}

// exactly matches connections that a forward has translated, and no others: their destination was translated, and this
// is where they go now. The caller adds the zone they come from; check made sure that forwards from one zone to one
// port of one host do not differ.
func exactly(f *profiles.Forward) []Expr {
	var ports []profiles.PortRange
	for _, p := range f.Ports {
		ports = append(ports, mapped(f, p))
	}
	return []Expr{
		Match{dstField(isV6(f.To)), []Range{addrRange(span{f.To, f.To})}},
		Match{portOf(f), portRanges(ports)},
		Bits{Field: CTStatus, Mask: ctDestNAT},
	}
}

// acceptForward lets the connections of a forward through.
func (c *compiler) acceptForward(ch *Chain, f *profiles.Forward) {
	if !c.space.has(f.From, isV6(f.To)) {
		return
	}
	for _, one := range f.Single() {
		ch.add(forwardComment(&one), slices.Concat(exactly(&one), c.helper(f.Helper), []Expr{accept})...)
		ch.Rules[len(ch.Rules)-1].At = f.At
	}
}
