package dhcp6

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/net/bpf"

	"rempart/firstboot/link/packet"
	"rempart/firstboot/link/turns"
)

// Sizes and numbers of IPv6 (RFC 8200), UDP (RFC 768) and DHCPv6's ports (RFC 8415, section 7.2).
const (
	ipHeader    = 40
	udpHeader   = 8
	protocolUDP = 17
	hopLimit    = 1 // to the link's servers and relays, which are on it
	portClient  = 546
	portServer  = 547
	// maxPacket bounds what is read: an answer fits an Ethernet frame.
	maxPacket = turns.MaxPacket
)

// servers is All_DHCP_Relay_Agents_and_Servers (RFC 8415, section 7.1), and what that is on Ethernet (RFC 2464, 7).
var (
	servers    = netip.MustParseAddr("ff02::1:2")
	serversMAC = net.HardwareAddr{0x33, 0x33, 0, 1, 0, 2}
)

// answersOnly lets UDP to the client's port through, when no extension header stands before it, between link-local
// addresses (fe80::/10): the link also carries what is forwarded, and whoever is far away must not be heard at all.
var answersOnly = []bpf.Instruction{
	bpf.LoadAbsolute{Off: 6, Size: 1},
	bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: protocolUDP, SkipTrue: 9},
	bpf.LoadAbsolute{Off: 8, Size: 2}, // the sender
	bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: 0xffc0},
	bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 0xfe80, SkipTrue: 6},
	bpf.LoadAbsolute{Off: 24, Size: 2}, // the receiver
	bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: 0xffc0},
	bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 0xfe80, SkipTrue: 3},
	bpf.LoadAbsolute{Off: ipHeader + 2, Size: 2},
	bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: portClient, SkipTrue: 1},
	bpf.RetConstant{Val: maxPacket},
	bpf.RetConstant{Val: 0},
}

var errNotForUs = errors.New("not a DHCPv6 answer")

// encode puts a DHCPv6 message to all servers into UDP and IPv6.
func encode(payload []byte, from netip.Addr) []byte {
	b := make([]byte, ipHeader+udpHeader+len(payload))
	b[0] = 6 << 4
	binary.BigEndian.PutUint16(b[4:], uint16(udpHeader+len(payload)))
	b[6], b[7] = protocolUDP, hopLimit
	copy(b[8:], from.AsSlice())
	copy(b[24:], servers.AsSlice())
	udp := b[ipHeader:]
	binary.BigEndian.PutUint16(udp[0:], portClient)
	binary.BigEndian.PutUint16(udp[2:], portServer)
	binary.BigEndian.PutUint16(udp[4:], uint16(len(udp)))
	copy(udp[udpHeader:], payload)
	sum := ^packet.Sum(packet.Pseudo6(b), udp)
	if sum == 0 {
		sum = 0xffff // zero means none, which IPv6 does not allow (RFC 8200, section 8.1)
	}
	binary.BigEndian.PutUint16(udp[6:], sum)
	return b
}

// decode takes an IPv6 packet as it came off the wire and returns the DHCPv6 message in it. Every length in it is
// checked, and that it comes from a neighbour and was sent to this host's link-local address (RFC 8415, section 13.1).
// summed is false where the checksum cannot be checked; see packet.Receive.
func decode(b []byte, self netip.Addr, summed bool) ([]byte, error) {
	if len(b) < ipHeader+udpHeader || b[0]>>4 != 6 || b[6] != protocolUDP {
		return nil, errNotForUs
	}
	length := int(binary.BigEndian.Uint16(b[4:]))
	if length < udpHeader || ipHeader+length > len(b) {
		return nil, fmt.Errorf("IPv6 payload of %d bytes in a packet of %d", length, len(b))
	}
	b = b[:ipHeader+length] // what is behind it is Ethernet padding
	from, to := netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
	udp := b[ipHeader:]
	switch {
	case binary.BigEndian.Uint16(udp[2:]) != portClient || to != self:
		return nil, errNotForUs
	case !from.IsLinkLocalUnicast():
		return nil, fmt.Errorf("its sender %s is not link-local", from)
	case int(binary.BigEndian.Uint16(udp[4:])) != len(udp):
		return nil, fmt.Errorf("UDP length %d in %d bytes", binary.BigEndian.Uint16(udp[4:]), len(udp))
	case summed && packet.Sum(packet.Pseudo6(b), udp) != 0xffff:
		return nil, errors.New("wrong UDP checksum")
	}
	return udp[udpHeader:], nil
}
