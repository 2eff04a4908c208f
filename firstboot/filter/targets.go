package filter

import (
	"crypto/sha256"
	"encoding/hex"
	"net/netip"
	"slices"
	"strconv"

	"rempart/profiles"
)

// maxSpread is the longest range of ports that a map holds one by one.
const maxSpread = 256

// targetGroups are forwards of one zone of which each port leads to one host, whoever asks: a map can take the place of
// their rules, so that what the first packet of a connection costs does not grow with their number.
type targetGroups struct{ all []*targetGroup }

// targetGroup are forwards that differ in ports and targets only.
type targetGroup struct {
	protocol profiles.Protocol
	v6       bool
	address  netip.Addr
	forwards []*profiles.Forward
}

// add takes a forward where it may be one of many alike. Those that are for some sources only are none; they stand
// above the others, as profiles have them.
func (g *targetGroups) add(f *profiles.Forward) {
	wide := func(p profiles.PortRange) bool { return p.Last-p.First >= maxSpread }
	if len(f.Others) > 0 || len(f.Sources)+len(f.SourceSets) > 0 || slices.ContainsFunc(f.Ports, wide) {
		return
	}
	for _, x := range g.all {
		if x.protocol == f.Protocol && x.v6 == isV6(f.To) && x.address == f.Address {
			if !slices.ContainsFunc(x.forwards, func(o *profiles.Forward) bool { return portsMeet(o.Ports, f.Ports) }) {
				x.forwards = append(x.forwards, f)
			}
			return
		}
	}
	g.all = append(g.all, &targetGroup{f.Protocol, isV6(f.To), f.Address, []*profiles.Forward{f}})
}

func portsMeet(a, b []profiles.PortRange) bool {
	return slices.ContainsFunc(a, func(x profiles.PortRange) bool {
		return slices.ContainsFunc(b, func(y profiles.PortRange) bool { return x.First <= y.Last && y.First <= x.Last })
	})
}

// holds tells whether a forward is one of enough.
func (g *targetGroups) holds(f *profiles.Forward) bool {
	return slices.ContainsFunc(g.all, func(x *targetGroup) bool {
		return len(x.forwards) >= mergeFrom && slices.Contains(x.forwards, f)
	})
}

// translateAlike adds a lookup for each group that is large enough. The maps are named after their content and kept,
// like sets.
func (c *compiler) translateAlike(ch *Chain, groups targetGroups, own Field) {
	for _, g := range groups.all {
		if len(g.forwards) < mergeFrom {
			continue
		}
		s := Set{Key: []Type{TypePort}, Map: MapTarget, Lasting: true}
		for _, f := range g.forwards {
			to := addrRange(span{f.To, f.To})
			for _, p := range f.Ports {
				c.ports += int(p.Last-p.First) + 1
				if c.ports > maxPortMap {
					return // finish reports it
				}
				for n := range int(p.Last-p.First) + 1 {
					from := p.First + uint16(n)
					s.Elements = append(s.Elements, Element{Key: []Range{portRange(from, from)}, To: to,
						Port: mapped(f, p).First + uint16(n)})
				}
			}
		}
		slices.SortFunc(s.Elements, func(a, b Element) int { return slices.Compare(a.Key[0].First, b.Key[0].First) })
		sum := sha256.New()
		for _, e := range s.Elements {
			sum.Write(slices.Concat(e.Key[0].First, e.To.First, portRange(e.Port, e.Port).First))
		}
		const shown = 8 // bytes, as of the sets of the profile
		s.Name = "targets/" + string(g.protocol) + "/" + hex.EncodeToString(sum.Sum(nil)[:shown])
		if c.table.Set(s.Name) == nil {
			c.set(s)
		}
		do := []Expr{Match{own, []Range{local()}}}
		if g.address.IsValid() {
			do = append(do, Match{dstField(g.v6), []Range{addrRange(span{g.address, g.address})}})
		}
		first, last := g.forwards[0], g.forwards[len(g.forwards)-1]
		ch.add("forwards: "+strconv.Itoa(len(s.Elements))+" ports of"+at(first.At)+" to"+at(last.At),
			append(do, DestinationNAT{Targets: s.Name, IPv6: g.v6, Field: portOf(first)})...)
	}
}
