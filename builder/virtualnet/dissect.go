package virtualnet

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// Protocol is what a frame carries.
type Protocol uint8

// The protocols Dissect tells apart.
const (
	Other Protocol = iota
	TCP
	UDP
	EchoRequest
	EchoReply
	Unreachable // an ICMP or ICMPv6 error that quotes the packet it is about
)

// Dissection is what Dissect finds in a frame.
type Dissection struct {
	SrcMAC, DstMAC   net.HardwareAddr
	Src, Dst         netip.Addr
	Protocol         Protocol
	SrcPort, DstPort uint16 // TCP and UDP
	SYN, ACK, RST    bool   // TCP
	Sequence         uint32 // TCP
	Type, Code       uint8  // ICMP and ICMPv6
	// Payload is what follows the transport's header; of an Unreachable it is the quoted packet, from its IP header.
	Payload []byte
}

// ErrNoPacket is returned by Dissect for a frame that holds no whole IP packet.
var ErrNoPacket = errors.New("no whole IP packet")

// Dissect reads an Ethernet frame. It never trusts a length in it. The result shares the frame's bytes. Fragments
// after the first are Other.
func Dissect(frame []byte) (Dissection, error) {
	if len(frame) < minFrame {
		return Dissection{}, ErrNoPacket
	}
	switch binary.BigEndian.Uint16(frame[etherTypeAt:]) {
	case uint16(header.IPv4ProtocolNumber), uint16(header.IPv6ProtocolNumber):
	default:
		return Dissection{}, ErrNoPacket // a tag, ARP, a slow protocol
	}
	d, err := DissectPacket(frame[minFrame:])
	if err != nil {
		return Dissection{}, err
	}
	d.DstMAC, d.SrcMAC = net.HardwareAddr(frame[0:6]), net.HardwareAddr(frame[6:12])
	return d, nil
}

// DissectPacket reads an IP packet, whole or as quoted in an ICMP error.
func DissectPacket(b []byte) (Dissection, error) {
	var d Dissection
	if len(b) < 1 {
		return d, ErrNoPacket
	}
	var proto uint8
	var inner []byte
	switch b[0] >> 4 {
	case 4:
		h := header.IPv4(b)
		if len(b) < header.IPv4MinimumSize || int(h.HeaderLength()) < header.IPv4MinimumSize ||
			len(b) < int(h.HeaderLength()) {
			return d, ErrNoPacket
		}
		d.Src, d.Dst = netip.AddrFrom4(h.SourceAddress().As4()), netip.AddrFrom4(h.DestinationAddress().As4())
		if h.FragmentOffset() != 0 {
			return d, nil
		}
		proto, inner = h.Protocol(), b[h.HeaderLength():]
		if total := int(h.TotalLength()); total >= int(h.HeaderLength()) && total < len(b) {
			inner = b[h.HeaderLength():total] // frames are padded to 60 bytes
		}
	case 6:
		if len(b) < header.IPv6MinimumSize {
			return d, ErrNoPacket
		}
		h := header.IPv6(b)
		d.Src, d.Dst = netip.AddrFrom16(h.SourceAddress().As16()), netip.AddrFrom16(h.DestinationAddress().As16())
		proto, inner = h.NextHeader(), b[header.IPv6MinimumSize:]
		if n := int(h.PayloadLength()); n < len(inner) {
			inner = inner[:n]
		}
	default:
		return d, ErrNoPacket
	}
	d.transport(proto, inner)
	return d, nil
}

// quotedPorts is how much of a quoted TCP or UDP packet an error must carry: RFC 792's 64 bits.
const quotedPorts = 8

func (d *Dissection) transport(proto uint8, b []byte) {
	if len(b) < quotedPorts {
		return
	}
	switch proto {
	case uint8(header.TCPProtocolNumber):
		h := header.TCP(b)
		d.Protocol, d.SrcPort, d.DstPort, d.Sequence = TCP, h.SourcePort(), h.DestinationPort(), h.SequenceNumber()
		if len(b) < header.TCPMinimumSize {
			return
		}
		flags := h.Flags()
		d.SYN, d.ACK, d.RST = flags.Contains(header.TCPFlagSyn), flags.Contains(header.TCPFlagAck),
			flags.Contains(header.TCPFlagRst)
		if n := int(h.DataOffset()); n >= header.TCPMinimumSize && n <= len(b) {
			d.Payload = b[n:]
		}
	case uint8(header.UDPProtocolNumber):
		h := header.UDP(b)
		d.Protocol, d.SrcPort, d.DstPort, d.Payload = UDP, h.SourcePort(), h.DestinationPort(), b[header.UDPMinimumSize:]
	case uint8(header.ICMPv4ProtocolNumber):
		d.Type, d.Code, d.Payload = b[0], b[1], b[8:]
		switch header.ICMPv4Type(d.Type) {
		case header.ICMPv4Echo:
			d.Protocol = EchoRequest
		case header.ICMPv4EchoReply:
			d.Protocol = EchoReply
		case header.ICMPv4DstUnreachable:
			d.Protocol = Unreachable
		}
	case uint8(header.ICMPv6ProtocolNumber):
		d.Type, d.Code, d.Payload = b[0], b[1], b[8:]
		switch header.ICMPv6Type(d.Type) {
		case header.ICMPv6EchoRequest:
			d.Protocol = EchoRequest
		case header.ICMPv6EchoReply:
			d.Protocol = EchoReply
		case header.ICMPv6DstUnreachable:
			d.Protocol = Unreachable
		}
	}
}
