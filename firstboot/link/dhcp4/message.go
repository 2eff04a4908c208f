package dhcp4

import (
	"encoding/binary"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"
)

// wanted is what servers are asked for: mask, router, name servers, domain, MTU, T1, T2, classless routes, which RFC
// 3442 wants before the router.
var wanted = []byte{
	dhcpv4.OptionSubnetMask.Code(),
	dhcpv4.OptionClasslessStaticRoute.Code(),
	dhcpv4.OptionRouter.Code(),
	dhcpv4.OptionDomainNameServer.Code(),
	dhcpv4.OptionDomainName.Code(),
	dhcpv4.OptionInterfaceMTU.Code(),
	dhcpv4.OptionRenewTimeValue.Code(),
	dhcpv4.OptionRebindingTimeValue.Code(),
}

// request describes a message to a server; zero fields are left out of it.
type request struct {
	kind      dhcpv4.MessageType
	xid       dhcpv4.TransactionID
	secs      time.Duration // since the exchange began
	client    netip.Addr    // ciaddr: an address we hold
	requested netip.Addr    // option 50
	server    netip.Addr    // option 54
	message   string        // option 56
}

// build is the message as bytes, following table 5 of RFC 2131 section 4.4.1. The broadcast flag stays clear: our
// packet socket hears unicast answers to an address we do not have yet.
func (c *Config) build(r request) []byte {
	m := &dhcpv4.DHCPv4{
		OpCode:        dhcpv4.OpcodeBootRequest,
		HWType:        iana.HWTypeEthernet,
		TransactionID: r.xid,
		NumSeconds:    uint16(min(max(r.secs/time.Second, 0), 0xffff)),
		ClientHWAddr:  c.MAC,
		Options:       dhcpv4.Options{},
	}
	if r.client.IsValid() {
		m.ClientIPAddr = r.client.AsSlice()
	}
	o := m.Options
	o[dhcpv4.OptionDHCPMessageType.Code()] = []byte{byte(r.kind)}
	o[dhcpv4.OptionClientIdentifier.Code()] = c.clientID()
	if r.requested.IsValid() {
		o[dhcpv4.OptionRequestedIPAddress.Code()] = r.requested.AsSlice()
	}
	if r.server.IsValid() {
		o[dhcpv4.OptionServerIdentifier.Code()] = r.server.AsSlice()
	}
	if r.message != "" {
		o[dhcpv4.OptionMessage.Code()] = []byte(r.message)
	}
	if r.kind != dhcpv4.MessageTypeDecline {
		o[dhcpv4.OptionMaximumDHCPMessageSize.Code()] = binary.BigEndian.AppendUint16(nil, maxPacket)
		o[dhcpv4.OptionParameterRequestList.Code()] = wanted
		if c.HostName != "" {
			o[dhcpv4.OptionHostName.Code()] = []byte(c.HostName)
		}
	}
	return m.ToBytes()
}

// clientID is the hardware type and address (RFC 2132 section 9.14). RFC 4361 would have an identifier that survives
// a change of NIC; a guest's MAC is its identity on its hypervisor and outlives its disks, and the reservations of
// hosters and home routers go by it.
//
// A name instead of that has the type 0, which says that it is no hardware address.
func (c *Config) clientID() []byte {
	if c.ClientID != "" {
		return append([]byte{0}, c.ClientID...)
	}
	return append([]byte{byte(iana.HWTypeEthernet)}, c.MAC...)
}
