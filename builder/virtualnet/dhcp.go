package virtualnet

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// Lease is what a segment's DHCP server gives to the one client it serves.
type Lease struct {
	Address netip.Prefix // with the length of the subnet
	Server  netip.Addr   // also the gateway
	Time    time.Duration
}

// UDP ports of RFC 2131, section 4.1.
const (
	dhcpServerPort = 67
	dhcpClientPort = 68
)

// ServeDHCP answers every DHCP client with the same lease. It works on frames: a client without an address cannot be
// reached through a stack. mac is the server's, usually that of the host that has the server's address.
func (s *Segment) ServeDHCP(l Lease, mac net.HardwareAddr) {
	p := &port{}
	p.deliver = func(frame []byte) {
		if answer := l.answer(frame, mac); answer != nil {
			go s.send(p, answer) // not from inside a delivery
		}
	}
	s.attach(p)
}

// answer is the frame that answers frame, or nil.
func (l Lease) answer(frame []byte, mac net.HardwareAddr) []byte {
	d, err := Dissect(frame)
	if err != nil || d.Protocol != UDP || d.DstPort != dhcpServerPort {
		return nil
	}
	request, err := dhcpv4.FromBytes(d.Payload)
	if err != nil || request.OpCode != dhcpv4.OpcodeBootRequest {
		return nil
	}
	kind := dhcpv4.MessageTypeOffer
	switch request.MessageType() {
	case dhcpv4.MessageTypeDiscover:
	case dhcpv4.MessageTypeRequest:
		kind = dhcpv4.MessageTypeAck
		if id := request.ServerIdentifier(); id != nil && !id.Equal(l.Server.AsSlice()) {
			return nil // it took another server's offer
		}
		wanted := request.RequestedIPAddress()
		if wanted == nil || wanted.IsUnspecified() {
			wanted = request.ClientIPAddr
		}
		if !wanted.Equal(l.Address.Addr().AsSlice()) {
			kind = dhcpv4.MessageTypeNak
		}
	default:
		return nil
	}
	mods := []dhcpv4.Modifier{dhcpv4.WithMessageType(kind), dhcpv4.WithServerIP(l.Server.AsSlice()),
		dhcpv4.WithOption(dhcpv4.OptServerIdentifier(l.Server.AsSlice()))}
	if kind != dhcpv4.MessageTypeNak {
		mods = append(mods, dhcpv4.WithYourIP(l.Address.Addr().AsSlice()),
			dhcpv4.WithNetmask(net.CIDRMask(l.Address.Bits(), 32)), dhcpv4.WithRouter(l.Server.AsSlice()),
			dhcpv4.WithLeaseTime(uint32(l.Time/time.Second)))
	}
	reply, err := dhcpv4.NewReplyFromRequest(request, mods...)
	if err != nil {
		return nil
	}
	to := Datagram{SrcMAC: mac, DstMAC: request.ClientHWAddr, Src: netip.AddrPortFrom(l.Server, dhcpServerPort),
		Dst: netip.AddrPortFrom(l.Address.Addr(), dhcpClientPort)}
	if request.IsBroadcast() || kind == dhcpv4.MessageTypeNak {
		to.DstMAC = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
		to.Dst = netip.AddrPortFrom(netip.AddrFrom4([4]byte{255, 255, 255, 255}), dhcpClientPort)
	}
	if len(to.DstMAC) != 6 {
		return nil
	}
	return to.UDP(reply.ToBytes())
}

// Datagram is where a frame made by hand comes from and goes to. Both addresses are of one family.
type Datagram struct {
	SrcMAC, DstMAC net.HardwareAddr
	Src, Dst       netip.AddrPort // ports are 0 for an echo request
}

// UDP is a frame that carries payload.
func (d Datagram) UDP(payload []byte) []byte {
	return d.frame(uint8(header.UDPProtocolNumber), header.UDPMinimumSize, payload, func(b []byte, sum uint16) {
		h := header.UDP(b)
		h.Encode(&header.UDPFields{SrcPort: d.Src.Port(), DstPort: d.Dst.Port(), Length: uint16(len(b))})
		h.SetChecksum(^h.CalculateChecksum(checksum.Checksum(payload, sum)))
	})
}

// SYN is a frame that asks for a connection.
func (d Datagram) SYN(sequence uint32) []byte {
	return d.frame(uint8(header.TCPProtocolNumber), header.TCPMinimumSize, nil, func(b []byte, sum uint16) {
		h := header.TCP(b)
		h.Encode(&header.TCPFields{SrcPort: d.Src.Port(), DstPort: d.Dst.Port(), SeqNum: sequence,
			DataOffset: header.TCPMinimumSize, Flags: header.TCPFlagSyn, WindowSize: 65535})
		h.SetChecksum(^h.CalculateChecksum(sum))
	})
}

// Echo is a frame with an ICMP or ICMPv6 echo request.
func (d Datagram) Echo(payload []byte) []byte {
	proto := uint8(header.ICMPv4ProtocolNumber)
	if d.Dst.Addr().Is6() {
		proto = uint8(header.ICMPv6ProtocolNumber)
	}
	const size = 8 // RFC 792, RFC 4443
	return d.frame(proto, size, payload, func(b []byte, sum uint16) {
		if d.Dst.Addr().Is6() {
			b[0] = byte(header.ICMPv6EchoRequest)
		} else {
			b[0], sum = byte(header.ICMPv4Echo), 0 // ICMP for IPv4 has no pseudo header
		}
		binary.BigEndian.PutUint16(b[2:], ^checksum.Checksum(b, sum))
	})
}

// frame makes the Ethernet and IP headers, and lets transport fill in its own header, which lies at the start of b.
func (d Datagram) frame(proto uint8, size int, payload []byte, transport func(b []byte, sum uint16)) []byte {
	ipSize, etherType := header.IPv4MinimumSize, header.IPv4ProtocolNumber
	if d.Dst.Addr().Is6() {
		ipSize, etherType = header.IPv6MinimumSize, header.IPv6ProtocolNumber
	}
	b := make([]byte, minFrame+ipSize+size+len(payload))
	header.Ethernet(b).Encode(&header.EthernetFields{SrcAddr: tcpip.LinkAddress(d.SrcMAC),
		DstAddr: tcpip.LinkAddress(d.DstMAC), Type: etherType})
	_, src := network(d.Src.Addr())
	_, dst := network(d.Dst.Addr())
	ip, inner := b[minFrame:], b[minFrame+ipSize:]
	copy(inner[size:], payload)
	if d.Dst.Addr().Is6() {
		header.IPv6(ip).Encode(&header.IPv6Fields{PayloadLength: uint16(len(inner)), HopLimit: 64, SrcAddr: src,
			DstAddr: dst, TransportProtocol: tcpip.TransportProtocolNumber(proto)})
	} else {
		h := header.IPv4(ip)
		h.Encode(&header.IPv4Fields{TotalLength: uint16(len(ip)), TTL: 64, Protocol: proto, SrcAddr: src, DstAddr: dst})
		h.SetChecksum(^h.CalculateChecksum())
	}
	transport(inner, header.PseudoHeaderChecksum(tcpip.TransportProtocolNumber(proto), src, dst, uint16(len(inner))))
	return b
}

// Injector sends frames made by hand. What is answered to their source addresses goes where the segment has learnt
// those to be.
type Injector struct {
	segment *Segment
	port    *port
}

// NewInjector puts an injector on the segment.
func (s *Segment) NewInjector() *Injector {
	i := &Injector{s, &port{deliver: func([]byte) {}, silent: true}}
	s.attach(i.port)
	return i
}

// Send sends one frame. It is not learnt from: the host whose address it carries stays where it is.
func (i *Injector) Send(frame []byte) error {
	if len(frame) < minFrame || len(frame) > MaxFrame {
		return fmt.Errorf("%w: length %d", ErrFrame, len(frame))
	}
	i.segment.send(i.port, frame)
	return nil
}
