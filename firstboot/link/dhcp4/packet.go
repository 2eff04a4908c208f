package dhcp4

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"rempart/firstboot/link/packet"
	"rempart/firstboot/link/turns"
)

// Sizes and numbers of IPv4 (RFC 791), UDP (RFC 768) and DHCP's ports (RFC 2131 section 4.1).
const (
	ipHeader     = 20
	ipMaxHeader  = 60
	udpHeader    = 8
	protocolUDP  = 17
	portServer   = 67
	portClient   = 68
	ttl          = 64
	tosLowDelay  = 0x10 // what every DHCP client sends; some bridges queue by it
	fragmentMask = 0x3fff
	// maxPacket bounds what is read: no DHCP message outgrows an Ethernet frame without our asking (option 57).
	maxPacket = turns.MaxPacket
)

var errNotForUs = errors.New("not a DHCP answer")

// encode puts a DHCP message to the server's port into UDP and IPv4.
func encode(payload []byte, src, dst netip.Addr) []byte {
	b := make([]byte, ipHeader+udpHeader+len(payload))
	ip, udp := b[:ipHeader], b[ipHeader:]
	ip[0] = 4<<4 | ipHeader/4
	ip[1] = tosLowDelay
	binary.BigEndian.PutUint16(ip[2:], uint16(len(b)))
	ip[8] = ttl
	ip[9] = protocolUDP
	copy(ip[12:], src.AsSlice())
	copy(ip[16:], dst.AsSlice())
	binary.BigEndian.PutUint16(ip[10:], ^packet.Sum(0, ip))
	binary.BigEndian.PutUint16(udp[0:], portClient)
	binary.BigEndian.PutUint16(udp[2:], portServer)
	binary.BigEndian.PutUint16(udp[4:], uint16(len(udp)))
	copy(udp[udpHeader:], payload)
	c := ^packet.Sum(pseudo(ip, len(udp)), udp)
	if c == 0 {
		c = 0xffff // zero means none (RFC 768)
	}
	binary.BigEndian.PutUint16(udp[6:], c)
	return b
}

// decode takes an IPv4 packet as it came off the wire and returns the DHCP message in it and its sender. Every length
// in it is checked. udpSummed is false for packets whose UDP checksum the kernel has not yet computed, because they
// come from a guest of the same host: theirs cannot be checked and cannot have been damaged.
func decode(b []byte, udpSummed bool) (payload []byte, from netip.Addr, err error) {
	if len(b) < ipHeader || b[0]>>4 != 4 {
		return nil, from, errNotForUs
	}
	header := int(b[0]&0xf) * 4
	total := int(binary.BigEndian.Uint16(b[2:]))
	switch {
	case header < ipHeader || header > len(b):
		return nil, from, fmt.Errorf("IPv4 header of %d bytes in a packet of %d", header, len(b))
	case total < header+udpHeader || total > len(b):
		return nil, from, fmt.Errorf("IPv4 length %d in a packet of %d bytes", total, len(b))
	case b[9] != protocolUDP, binary.BigEndian.Uint16(b[6:])&fragmentMask != 0:
		return nil, from, errNotForUs
	case packet.Sum(0, b[:header]) != 0xffff:
		return nil, from, errors.New("wrong IPv4 checksum")
	}
	udp := b[header:total] // what is behind it is Ethernet padding
	length := int(binary.BigEndian.Uint16(udp[4:]))
	switch {
	case binary.BigEndian.Uint16(udp[0:]) != portServer, binary.BigEndian.Uint16(udp[2:]) != portClient:
		return nil, from, errNotForUs
	case length < udpHeader || length > len(udp):
		return nil, from, fmt.Errorf("UDP length %d in %d bytes", length, len(udp))
	}
	udp = udp[:length]
	if udpSummed && binary.BigEndian.Uint16(udp[6:]) != 0 && packet.Sum(pseudo(b, length), udp) != 0xffff {
		return nil, from, errors.New("wrong UDP checksum")
	}
	from = netip.AddrFrom4([4]byte(b[12:16]))
	return udp[udpHeader:], from, nil
}

// pseudo is the sum over the pseudo header of UDP (RFC 768).
func pseudo(ip []byte, udpLength int) uint32 {
	return uint32(packet.Sum(0, ip[12:20])) + protocolUDP + uint32(udpLength)
}
