package filtertest

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"rempart/firstboot/filter"
)

// Values of RTN_LOCAL and RTN_UNICAST in the kernel's include/uapi/linux/rtnetlink.h, and Ethernet types.
const (
	rtnLocal   = 2
	rtnUnicast = 1

	EtherIPv4   = 0x0800
	EtherARP    = 0x0806
	Ether8021Q  = 0x8100
	EtherIPv6   = 0x86dd
	Ether8021AD = 0x88a8
)

// value is what a field of the packet holds, in the bytes of filter's ranges; nil when the packet has none.
func (x *walk) value(f filter.Field) []byte {
	v6 := x.p.Src.Is6()
	if version, proto := f.Needs(); version == 4 && (v6 || !x.p.Src.IsValid()) || version == 6 && !v6 ||
		proto != 0 && proto != x.p.Protocol {
		return nil
	}
	port := func(n uint16) []byte { return binary.BigEndian.AppendUint16(nil, n) }
	bits := func(n uint32) []byte { return binary.NativeEndian.AppendUint32(nil, n) }
	switch f {
	case filter.IIfName:
		return linkName(x.p.In)
	case filter.OIfName:
		return linkName(x.p.Out)
	case filter.L4Proto:
		return []byte{x.p.Protocol}
	case filter.IPSAddr, filter.IP6SAddr:
		return x.p.Src.AsSlice()
	case filter.IPDAddr, filter.IP6DAddr:
		return x.p.Dst.AsSlice()
	case filter.IP6HopLimit:
		return []byte{x.p.Hops}
	case filter.TCPDPort, filter.UDPDPort, filter.SCTPDPort:
		return port(x.p.DstPort)
	case filter.UDPSPort, filter.TCPSPort, filter.SCTPSPort:
		return port(x.p.SrcPort)
	case filter.TCPFlags:
		return bits(x.p.Flags)
	case filter.ICMPType, filter.ICMP6Type:
		return []byte{x.p.Type}
	case filter.ICMPCode:
		return []byte{x.p.Code}
	case filter.CTState:
		return bits(x.p.State)
	case filter.CTStatus:
		return bits(x.status)
	case filter.DAddrType, filter.DAddrTypeOnLink:
		own := x.own
		if f == filter.DAddrTypeOnLink {
			own = x.onLink[x.p.In]
		}
		if slices.Contains(own, x.p.Dst) {
			return bits(rtnLocal)
		}
		return bits(rtnUnicast)
	case filter.SAddrType, filter.SAddrTypeOnLink:
		own := x.own
		if f == filter.SAddrTypeOnLink {
			own = x.onLink[x.p.In]
		}
		if slices.Contains(own, x.p.Src) {
			return bits(rtnLocal)
		}
		return bits(rtnUnicast)
	case filter.DAddrOIfName:
		if slices.Contains(x.own, x.p.Dst) {
			return linkName("lo")
		}
		return linkName(x.route(x.p.Dst))
	case filter.SAddrOIfName:
		if slices.Contains(x.own, x.p.Src) { // RTF_LOCAL is no route to anywhere
			return linkName("")
		}
		return linkName(x.route(x.p.Src))
	case filter.Version:
		if v6 {
			return []byte{filter.VersionIPv6}
		}
		return []byte{filter.VersionIPv4}
	case filter.LinkProtocol:
		return port(x.carried())
	case filter.EtherType:
		return port(x.p.Ether)
	}
	return nil
}

// carried is what a frame holds, behind a tag too.
func (x *walk) carried() uint16 {
	if x.p.Behind != 0 {
		return x.p.Behind
	}
	return x.p.Ether
}

func linkName(s string) []byte {
	b := make([]byte, filter.IfNameSize)
	copy(b, s)
	return b
}

// ether is the type of a frame that carries a packet from an address.
func ether(a netip.Addr) uint16 {
	if a.Is6() {
		return EtherIPv6
	}
	return EtherIPv4
}
