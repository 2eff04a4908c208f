package filter

import (
	"reflect"
	"slices"
	"strconv"

	"rempart/profiles"
)

// destinationNAT sends what arrives at this machine's own addresses to where the forwards say. From an external zone
// only an address of the very link it arrives by counts, so that no private address of this machine can be used
// from outside; from the other zones any own address does, so that hosts inside can use the public one. What names the
// address comes first: forwards of one address, then mappings, then forwards of any address.
func (c *compiler) destinationNAT() {
	rules := Chain{Name: "dstnat",
		Base: &Base{Type: "nat", Hook: Prerouting, Priority: priorityDstNAT, Policy: VerdictAccept}}
	for i := range c.profile.Zones {
		z := &c.profile.Zones[i]
		ch := Chain{Name: "dstnat/" + z.Name}
		own := DAddrType
		if z.External {
			own = DAddrTypeOnLink
		}
		forwards := func(addressed bool) {
			var alike targetGroups
			for n := range c.profile.Forwards {
				f := &c.profile.Forwards[n]
				if f.From == z.Name && f.Address.IsValid() == addressed && c.space.has(z.Name, isV6(f.To)) {
					alike.add(f)
				}
			}
			for n := range c.profile.Forwards {
				f := &c.profile.Forwards[n]
				if f.From == z.Name && f.Address.IsValid() == addressed && c.space.has(z.Name, isV6(f.To)) && !alike.holds(f) {
					c.translate(&ch, f, n+1, own)
				}
			}
			c.translateAlike(&ch, alike, own)
		}
		forwards(true)
		c.mapInwards(&ch, z)
		forwards(false)
		c.fromZone(&rules, ch, z.Name)
	}
	if len(rules.Rules) > 0 {
		*c.chain(rules.Name, nil) = rules
	}
}

// fromZone adds a chain, if there is anything in it, and the rules that lead what comes from a zone to it.
func (c *compiler) fromZone(rules *Chain, ch Chain, zone string) {
	if len(ch.Rules) == 0 {
		return
	}
	*c.chain(ch.Name, nil) = ch
	for _, v6 := range families {
		speaks := func(r Rule) bool {
			return slices.ContainsFunc(r.Do, func(e Expr) bool { return isAddr(e, v6) || asks(e, srcField(v6)) })
		}
		if slices.ContainsFunc(ch.Rules, speaks) {
			c.ends(rules, "from "+zone, IIfName, zone, v6, ch.Name)
		}
	}
}

// asks tells whether an expression compares a field.
func asks(e Expr, f Field) bool {
	m, ok := e.(Match)
	return ok && m.Field == f
}

// isAddr tells whether an expression shows that its rule is about a family.
func isAddr(e Expr, v6 bool) bool {
	switch e := e.(type) {
	case Match:
		return e.Field == dstField(v6) || reflect.DeepEqual(e, version(v6))
	case Lookup:
		return slices.Contains(e.Fields, dstField(v6))
	case DestinationNAT:
		return e.IPv6 == v6
	case MapPrefix:
		return e.IPv6 == v6
	}
	return false
}

// translate adds the rules of one forward, the n-th of the profile.
func (c *compiler) translate(ch *Chain, f *profiles.Forward, n int, own Field) {
	v6, targets := isV6(f.To), f.Single()
	add := func(ports []Range, to DestinationNAT) {
		for k, one := range targets {
			to.To, to.IPv6, to.Field = addrRange(span{one.To, one.To}), v6, portOf(f)
			for _, from := range c.addresses(srcField(v6), f.Sources, f.SourceSets, v6) {
				do := append([]Expr{Match{own, []Range{local()}}}, from...)
				if f.Address.IsValid() {
					do = append(do, Match{dstField(v6), []Range{addrRange(span{f.Address, f.Address})}})
				}
				do = append(do, Match{portOf(f), ports})
				if len(targets) > 1 {
					do = append(do, Share{v6, uint32(len(targets)), uint32(k)})
				}
				ch.add(forwardComment(&one), append(do, to)...)
			}
		}
	}
	if f.ToPort == 0 {
		add(portRanges(f.Ports), DestinationNAT{})
		return
	}
	for k, p := range f.Ports {
		came := []Range{portRange(p.First, p.Last)}
		switch {
		case f.ToPort == p.First:
			add(came, DestinationNAT{})
		case p.First == p.Last:
			add(came, DestinationNAT{Port: f.ToPort})
		default:
			add(came, DestinationNAT{PortMap: c.portMap("ports/"+strconv.Itoa(n)+"/"+strconv.Itoa(k+1), p, f.ToPort)})
		}
	}
}

// portMap makes the map that keeps the order of a range of ports when it moves. The kernel's own translation to a
// range of ports would pick any of them.
func (c *compiler) portMap(name string, p profiles.PortRange, to uint16) string {
	if c.table.Set(name) != nil {
		return name
	}
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
