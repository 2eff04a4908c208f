package filtertest

import (
	"encoding/binary"
	"net/netip"

	"rempart/firstboot/filter"
)

// speaks tells whether what changes a packet is of the packet's family; nft says "dnat ip to" and means no other.
func (x *walk) speaks(e filter.Expr) bool {
	v6 := x.p.Src.Is6()
	switch e := e.(type) {
	case filter.DestinationNAT:
		v6 = e.IPv6
	case filter.SourceNAT:
		v6 = e.IPv6
	case filter.MapPrefix:
		v6 = e.IPv6
	case filter.SetDSCP:
		v6 = e.IPv6
	case filter.SetHops:
		v6 = e.IPv6
	}
	return v6 == x.p.Src.Is6()
}

// target is what a map of targets says of the packet's port.
func (x *walk) target(table int, e filter.DestinationNAT) (filter.Element, bool) {
	_, proto := e.Field.Needs()
	if set := x.sets[table][e.Targets]; set != nil && x.p.Protocol == proto {
		for _, el := range set.Elements {
			if binary.BigEndian.Uint16(el.Key[0].First) == x.p.DstPort {
				return el, true
			}
		}
	}
	return filter.Element{}, false
}

// translate changes the packet, or the source it will leave with.
func (x *walk) translate(table int, e filter.Expr) {
	addr := func(b []byte) netip.Addr {
		a, _ := netip.AddrFromSlice(b) // 4 or 16 bytes: a compiled range
		return a
	}
	switch e := e.(type) {
	case filter.DestinationNAT:
		if el, ok := x.target(table, e); ok {
			e.To, e.Port = el.To, el.Port
		}
		x.p.Dst, x.status = addr(e.To.First), x.status|ctDestNAT
		if x.p.In == "" { // routed anew
			x.p.Out = x.route(x.p.Dst)
		}
		if e.Port != 0 {
			x.p.DstPort = e.Port
		} else if set := x.sets[table][e.PortMap]; set != nil {
			for _, el := range set.Elements {
				if binary.BigEndian.Uint16(el.Key[0].First) == x.p.DstPort {
					x.p.DstPort = el.Port
					break
				}
			}
		}
	case filter.SourceNAT:
		x.fate.First, x.fate.Last = addr(e.To.First), addr(e.To.Last)
	case filter.Masquerade:
		x.fate.Masked = true
	case filter.MapPrefix:
		from := x.p.Dst
		if e.Source {
			from = x.p.Src
		}
		out := from.AsSlice()
		for i := range out { // the bits that are alike in the first and the last are the prefix
			fixed := ^(e.To.First[i] ^ e.To.Last[i])
			out[i] = e.To.First[i]&fixed | out[i]&^fixed
		}
		if e.Source {
			x.fate.First, x.fate.Last = addr(out), addr(out)
			return
		}
		x.p.Dst, x.status = addr(out), x.status|ctDestNAT
	}
}
