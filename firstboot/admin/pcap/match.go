package pcap

import (
	"encoding/binary"
	"net/netip"
)

// Filter is what somebody wants to see; zero fields want everything.
type Filter struct {
	Host netip.Addr // sender or receiver, in ARP too
	Port uint16     // either port of TCP, UDP or SCTP
	Not  uint16     // neither port of TCP
}

// Numbers of protocols.
const (
	etherIPv4  = 0x0800
	etherARP   = 0x0806
	etherIPv6  = 0x86dd
	etherVLAN  = 0x8100 // IEEE 802.1Q
	etherQinQ  = 0x88a8 // IEEE 802.1ad
	ipTCP      = 6
	ipUDP      = 17
	ipSCTP     = 132
	maxTags    = 4 // VLAN tags that are looked behind
	etherBytes = 14
	tagBytes   = 4
)

// headers of IPv6 that stand before the transport's (RFC 8200, section 4): all tell their length in units of eight
// bytes, but for the fragment header, which has eight.
var skipped = map[byte]bool{0: true, 43: true, 60: true, fragment: true}

const (
	fragment   = 44
	maxSkipped = 8
)

// Match tells whether a packet of a link type is wanted. A packet too short or too strange to tell is not, unless
// everything is.
func (f Filter) Match(linkType uint32, packet []byte) bool {
	if f == (Filter{}) {
		return true
	}
	kind := uint16(0)
	if linkType == Ethernet {
		if len(packet) < etherBytes {
			return false
		}
		kind, packet = binary.BigEndian.Uint16(packet[12:]), packet[etherBytes:]
		for range maxTags {
			if kind != etherVLAN && kind != etherQinQ || len(packet) < tagBytes {
				break
			}
			kind, packet = binary.BigEndian.Uint16(packet[2:]), packet[tagBytes:]
		}
	} else if len(packet) > 0 {
		kind = map[byte]uint16{4: etherIPv4, 6: etherIPv6}[packet[0]>>4]
	}
	switch kind {
	case etherARP:
		const senderAt, targetAt, end = 14, 24, 28 // RFC 826 for IPv4 over Ethernet
		return len(packet) >= end && f.Port == 0 && f.hosts(packet[senderAt:senderAt+4], packet[targetAt:end])
	case etherIPv4:
		return f.ipv4(packet)
	case etherIPv6:
		return f.ipv6(packet)
	}
	return f.Port == 0 && !f.Host.IsValid()
}

func (f Filter) hosts(a, b []byte) bool {
	if !f.Host.IsValid() {
		return true
	}
	src, _ := netip.AddrFromSlice(a)
	dst, _ := netip.AddrFromSlice(b)
	host := f.Host.Unmap().WithZone("")
	return src == host || dst == host
}

func (f Filter) ipv4(p []byte) bool {
	const least = 20
	if len(p) < least || !f.hosts(p[12:16], p[16:20]) {
		return false
	}
	size := int(p[0]&0xf) * 4
	if binary.BigEndian.Uint16(p[6:])&0x1fff != 0 || size < least || size > len(p) {
		return f.Port == 0 // a later fragment has no ports
	}
	return f.ports(p[9], p[size:])
}

func (f Filter) ipv6(p []byte) bool {
	const size = 40
	if len(p) < size || !f.hosts(p[8:24], p[24:40]) {
		return false
	}
	next, rest := p[6], p[size:]
	for range maxSkipped {
		if !skipped[next] || len(rest) < 8 {
			break
		}
		if next == fragment && binary.BigEndian.Uint16(rest[2:])&0xfff8 != 0 {
			return f.Port == 0
		}
		step := 8
		if next != fragment {
			step += int(rest[1]) * 8
		}
		if step > len(rest) {
			return f.Port == 0
		}
		next, rest = rest[0], rest[step:]
	}
	return f.ports(next, rest)
}

func (f Filter) ports(protocol byte, p []byte) bool {
	if protocol != ipTCP && protocol != ipUDP && protocol != ipSCTP || len(p) < 4 {
		return f.Port == 0
	}
	src, dst := binary.BigEndian.Uint16(p), binary.BigEndian.Uint16(p[2:])
	if f.Not != 0 && protocol == ipTCP && (src == f.Not || dst == f.Not) {
		return false
	}
	return f.Port == 0 || src == f.Port || dst == f.Port
}
