package virtualnet

import (
	"encoding/binary"
	"net"
	"net/netip"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// Advertisement is what a segment's IPv6 router says of itself (RFC 4861, section 4.2).
type Advertisement struct {
	Router netip.Addr   // link-local
	Prefix netip.Prefix // of 64 bits; hosts make their addresses in it
	Time   time.Duration
}

// Numbers of RFC 4861, sections 4.2 and 4.6.2.
const (
	solicitSize    = 8
	advertSize     = 16
	prefixSize     = 32
	prefixOption   = 3
	prefixOnLink   = 0x80
	prefixAuto     = 0x40
	discoveryHops  = 255
	advertLifetime = 6 // where the router's lifetime is
	ipv6Hops       = 7 // where the hop limit is
)

// ServeRA answers every router solicitation, to everybody. mac is the router's.
func (s *Segment) ServeRA(a Advertisement, mac net.HardwareAddr) {
	p := &port{}
	p.deliver = func(frame []byte) {
		if solicitation(frame) {
			go s.send(p, a.frame(mac)) // not from inside a delivery
		}
	}
	s.attach(p)
}

func solicitation(frame []byte) bool {
	const end = minFrame + header.IPv6MinimumSize + solicitSize
	if len(frame) < end || binary.BigEndian.Uint16(frame[12:]) != uint16(header.IPv6ProtocolNumber) {
		return false
	}
	ip := header.IPv6(frame[minFrame:])
	return ip.NextHeader() == uint8(header.ICMPv6ProtocolNumber) && ip.HopLimit() == discoveryHops &&
		header.ICMPv6(ip[header.IPv6MinimumSize:]).Type() == header.ICMPv6RouterSolicit
}

func (a Advertisement) frame(mac net.HardwareAddr) []byte {
	seconds := uint32(a.Time / time.Second)
	to := Datagram{SrcMAC: mac, DstMAC: net.HardwareAddr{0x33, 0x33, 0, 0, 0, 1},
		Src: netip.AddrPortFrom(a.Router, 0), Dst: netip.AddrPortFrom(netip.MustParseAddr("ff02::1"), 0)}
	frame := to.frame(uint8(header.ICMPv6ProtocolNumber), advertSize+prefixSize, nil, func(b []byte, sum uint16) {
		b[0] = byte(header.ICMPv6RouterAdvert)
		binary.BigEndian.PutUint16(b[advertLifetime:], uint16(min(seconds, 9000))) // RFC 4861, 6.2.1
		o := b[advertSize:]
		o[0], o[1], o[2], o[3] = prefixOption, prefixSize/8, byte(a.Prefix.Bits()), prefixOnLink|prefixAuto
		binary.BigEndian.PutUint32(o[4:], seconds)
		binary.BigEndian.PutUint32(o[8:], seconds)
		copy(o[16:], a.Prefix.Masked().Addr().AsSlice())
		binary.BigEndian.PutUint16(b[2:], ^checksum.Checksum(b, sum))
	})
	frame[minFrame+ipv6Hops] = discoveryHops
	return frame
}
