package virtualnet

import (
	"net"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"
)

// Delegation is what a segment's DHCPv6 server gives to the one client it serves, RFC 8415.
type Delegation struct {
	Server  netip.Addr   // link-local
	Prefix  netip.Prefix // for the links behind the client; zero: none
	Address netip.Addr   // for the client itself; zero: none
	Time    time.Duration
}

// UDP ports of RFC 8415, section 7.2.
const (
	dhcp6ServerPort = 547
	dhcp6ClientPort = 546
)

// ServeDHCP6 answers every DHCPv6 client with the same prefix and address. mac is the server's.
func (s *Segment) ServeDHCP6(d Delegation, mac net.HardwareAddr) {
	p := &port{}
	p.deliver = func(frame []byte) {
		if answer := d.answer(frame, mac); answer != nil {
			go s.send(p, answer) // not from inside a delivery
		}
	}
	s.attach(p)
}

// answer is the frame that answers frame, or nil.
func (d Delegation) answer(frame []byte, mac net.HardwareAddr) []byte {
	asked, err := Dissect(frame)
	if err != nil || asked.Protocol != UDP || asked.DstPort != dhcp6ServerPort {
		return nil
	}
	request, err := dhcpv6.MessageFromBytes(asked.Payload)
	if err != nil || request.Options.ClientID() == nil {
		return nil
	}
	reply := &dhcpv6.Message{MessageType: dhcpv6.MessageTypeReply, TransactionID: request.TransactionID}
	switch request.MessageType {
	case dhcpv6.MessageTypeSolicit:
		reply.MessageType = dhcpv6.MessageTypeAdvertise
	case dhcpv6.MessageTypeRequest, dhcpv6.MessageTypeRenew, dhcpv6.MessageTypeRebind, dhcpv6.MessageTypeConfirm:
	default:
		return nil
	}
	reply.AddOption(dhcpv6.OptClientID(request.Options.ClientID()))
	reply.AddOption(dhcpv6.OptServerID(&dhcpv6.DUIDLL{HWType: iana.HWTypeEthernet, LinkLayerAddr: mac}))
	for _, ia := range request.Options.IAPD() {
		given := &dhcpv6.OptIAPD{IaId: ia.IaId, T1: d.Time / 2, T2: d.Time * 4 / 5}
		if d.Prefix.IsValid() {
			given.Options.Add(&dhcpv6.OptIAPrefix{PreferredLifetime: d.Time, ValidLifetime: d.Time,
				Prefix: &net.IPNet{IP: d.Prefix.Addr().AsSlice(), Mask: net.CIDRMask(d.Prefix.Bits(), d.Prefix.Addr().BitLen())}})
		} else {
			given.Options.Add(&dhcpv6.OptStatusCode{StatusCode: iana.StatusNoPrefixAvail})
		}
		reply.AddOption(given)
	}
	for _, ia := range request.Options.IANA() {
		given := &dhcpv6.OptIANA{IaId: ia.IaId, T1: d.Time / 2, T2: d.Time * 4 / 5}
		if d.Address.IsValid() {
			given.Options.Add(&dhcpv6.OptIAAddress{IPv6Addr: d.Address.AsSlice(), PreferredLifetime: d.Time,
				ValidLifetime: d.Time})
		} else {
			given.Options.Add(&dhcpv6.OptStatusCode{StatusCode: iana.StatusNoAddrsAvail})
		}
		reply.AddOption(given)
	}
	return Datagram{SrcMAC: mac, DstMAC: net.HardwareAddr(frame[6:12]), Src: netip.AddrPortFrom(d.Server, dhcp6ServerPort),
		Dst: netip.AddrPortFrom(asked.Src, dhcp6ClientPort)}.UDP(reply.ToBytes())
}
