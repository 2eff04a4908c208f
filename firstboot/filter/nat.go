package filter

import (
	"slices"
	"strconv"

	"rempart/profiles"
)

// destinationNAT sends what arrives at this machine's own addresses to where the forwards say. From an external zone
// only an address of the very link it arrives by counts, so that no private address of this machine can be used
// from outside; from the other zones any own address does, so that hosts inside can use the public one.
func (c *compiler) destinationNAT() {
	if len(c.profile.Forwards) == 0 {
		return
	}
	rules := Chain{Name: "dstnat", Base: &Base{Type: "nat", Hook: Prerouting, Priority: priorityDstNAT, Policy: VerdictAccept}}
	for i := range c.profile.Forwards {
		f := &c.profile.Forwards[i]
		v6 := isV6(f.To)
		if !c.space.has(f.From, v6) {
			continue
		}
		own := DAddrType
		if c.zone(f.From).External {
			own = DAddrTypeOnLink
		}
		add := func(ports []Range, to DestinationNAT) {
			to.To, to.IPv6, to.Field = addrRange(span{f.To, f.To}), v6, portOf(f)
			for _, from := range c.end(IIfName, f.From, v6) {
				rules.add(forwardComment(f), append(from, Match{own, []Range{local()}}, Match{portOf(f), ports}, to)...)
			}
		}
		if f.ToPort == 0 {
			add(portRanges(f.Ports), DestinationNAT{})
			continue
		}
		for n, p := range f.Ports {
			came := []Range{portRange(p.First, p.Last)}
			switch {
			case f.ToPort == p.First:
				add(came, DestinationNAT{})
			case p.First == p.Last:
				add(came, DestinationNAT{Port: f.ToPort})
			default:
				add(came, DestinationNAT{PortMap: c.portMap("ports/"+strconv.Itoa(i+1)+"/"+strconv.Itoa(n+1), p, f.ToPort)})
			}
		}
	}
	*c.chain(rules.Name, nil) = rules
}

// portMap makes the map that keeps the order of a range of ports when it moves. The kernel's own translation to a
// range of ports would pick any of them.
func (c *compiler) portMap(name string, p profiles.PortRange, to uint16) string {
	s := Set{Name: name, Key: []Type{TypePort}, Map: MapPort}
	c.ports += int(p.Last-p.First) + 1
	if c.ports > maxPortMap {
		return name // finish reports it
	}
	for n := 0; n <= int(p.Last-p.First); n++ {
		from := p.First + uint16(n)
		s.Elements = append(s.Elements, Element{Key: []Range{portRange(from, from)}, Port: to + uint16(n)})
	}
	c.set(s)
	return name
}

// sourceNAT gives connections this machine's own address as their source: forwards that ask for it, forwards whose
// client sits in the same subnet as the server and would get its answers directly, and the masqueraded pairs.
func (c *compiler) sourceNAT() {
	rules := Chain{Name: "srcnat", Base: &Base{Type: "nat", Hook: Postrouting, Priority: prioritySrcNAT, Policy: VerdictAccept}}
	for i := range c.profile.Forwards {
		f := &c.profile.Forwards[i]
		v6 := isV6(f.To)
		if !c.space.has(f.From, v6) {
			continue
		}
		var from [][]Expr
		comment := forwardComment(f)
		if f.SNAT {
			from = c.end(IIfName, f.From, v6)
		} else if link, near := c.hairpin(f); len(near) > 0 {
			comment += " hairpin"
			from = [][]Expr{{Match{IIfName, []Range{ifName(link)}}, Match{OIfName, []Range{ifName(link)}},
				Match{srcField(v6), ranges(near)}}}
		}
		for _, part := range from {
			rules.add(comment, slices.Concat(part, exactly(f), []Expr{Masquerade{}})...)
		}
	}
	for _, m := range c.profile.Masquerade {
		for _, from := range c.end(IIfName, m.From, false) {
			for _, to := range c.end(OIfName, m.To, false) {
				rules.add("masquerade: "+m.From+" -> "+m.To+at(m.At), slices.Concat(from, to, []Expr{Masquerade{}})...)
			}
		}
	}
	if len(rules.Rules) > 0 {
		*c.chain(rules.Name, nil) = rules
	}
}

// hairpin returns the clients of a forward that share the server's subnet, and the link they share it on.
func (c *compiler) hairpin(f *profiles.Forward) (link string, near spans) {
	l, subnet := linkTo(c.profile, f.To)
	if l == nil || !subnet.IsValid() {
		return "", nil
	}
	v6 := isV6(f.To)
	for _, sh := range c.space.zones[f.From] {
		if sh.link == l.Name {
			near = append(near, sh.ranges[family(v6)].and(union(prefixSpan(subnet)))...)
		}
	}
	return l.Name, union(near...)
}

// zone returns a zone by its name; check made sure that there is one.
func (c *compiler) zone(name string) *profiles.Zone {
	for i := range c.profile.Zones {
		if c.profile.Zones[i].Name == name {
			return &c.profile.Zones[i]
		}
	}
	return &profiles.Zone{Name: name}
}
