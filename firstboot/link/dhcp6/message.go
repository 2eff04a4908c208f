package dhcp6

import (
	"encoding/binary"
	"net"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"
)

// iaid names what is asked for among all of a client. Each link is a client of its own, by its hardware address, so one
// number does.
var iaid = [4]byte{0, 0, 0, 1}

// duid is what servers know the link by: its hardware address (RFC 8415, section 11.4). It needs no place to be kept,
// and is the same when the guest's state is made anew: the hardware address belongs to the guest, see package hardware.
func duid(mac net.HardwareAddr) dhcpv6.DUID {
	return &dhcpv6.DUIDLL{HWType: iana.HWTypeEthernet, LinkLayerAddr: mac}
}

// compose is a message of the exchange that is under way, begun some time before.
func (m *machine) compose(kind dhcpv6.MessageType, elapsed time.Duration) []byte {
	msg := &dhcpv6.Message{MessageType: kind, TransactionID: m.transaction}
	msg.AddOption(dhcpv6.OptClientID(duid(m.cfg.MAC)))
	if kind == dhcpv6.MessageTypeRequest || kind == dhcpv6.MessageTypeRenew {
		msg.AddOption(&dhcpv6.OptionGeneric{OptionCode: dhcpv6.OptionServerID, OptionData: m.server})
	}
	msg.AddOption(dhcpv6.OptElapsedTime(min(elapsed, 0xffff*10*time.Millisecond)))
	if kind != dhcpv6.MessageTypeConfirm {
		msg.AddOption(dhcpv6.OptRequestedOption(dhcpv6.OptionDNSRecursiveNameServer, dhcpv6.OptionDomainSearchList,
			dhcpv6.OptionSolMaxRT))
	}
	if m.cfg.Prefix && kind != dhcpv6.MessageTypeConfirm {
		msg.AddOption(m.delegation(kind))
	}
	if m.cfg.Address {
		ia := &dhcpv6.OptIANA{IaId: iaid}
		for _, a := range m.state.Addresses {
			ia.Options.Add(&dhcpv6.OptIAAddress{IPv6Addr: a.Addr.AsSlice()})
		}
		if kind == dhcpv6.MessageTypeRequest && m.best != nil {
			ia.Options = dhcpv6.IdentityOptions{}
			for _, a := range m.best.addresses {
				ia.Options.Add(&dhcpv6.OptIAAddress{IPv6Addr: a.prefix.Addr().AsSlice()})
			}
		}
		msg.AddOption(ia)
	}
	return msg.ToBytes()
}

// delegation is the part about the prefix: what we had, what we were offered, or what length is wanted.
func (m *machine) delegation(kind dhcpv6.MessageType) dhcpv6.Option {
	ia := &dhcpv6.OptIAPD{IaId: iaid}
	hint := func(ip []byte, bits int) {
		ia.Options.Add(&dhcpv6.OptIAPrefix{Prefix: &net.IPNet{IP: ip, Mask: net.CIDRMask(bits, 128)}})
	}
	if kind == dhcpv6.MessageTypeRequest && m.best != nil {
		for _, p := range m.best.prefixes {
			hint(p.prefix.Addr().AsSlice(), p.prefix.Bits())
		}
		return ia
	}
	for _, p := range m.state.Prefixes {
		if p.Preferred > m.clock { // not one that was replaced
			hint(p.Prefix.Addr().AsSlice(), p.Prefix.Bits())
		}
	}
	if len(ia.Options.Options) == 0 && m.cfg.Length != 0 {
		hint(make([]byte, 16), m.cfg.Length) // RFC 8415, section 18.2.4: a wish for a length alone
	}
	return ia
}

// newTransaction begins an exchange.
func (m *machine) newTransaction() {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], m.random.Uint32())
	copy(m.transaction[:], b[1:])
}
