package packettest

import (
	"encoding/binary"
	"net/netip"

	"rempart/builder/virtualnet"
	"rempart/firstboot/filter"
	"rempart/profiles"
)

// A guest's own services say nothing to what is not their protocol, and silence is no sign of an open port. So what is
// sent to the guest's port of a service is a question of its protocol, with the flow's token where the answer does not
// depend on it. Where nobody serves, the closed port answers as ever.

// Ports of services that speak UDP: RFC 1035 section 4.2.1, RFC 2131 section 4.1, RFC 5905 section 7.2, RFC 8415
// section 7.2.
const (
	portDNS   = 53
	portDHCP  = 67
	portNTP   = 123
	portDHCP6 = 547
)

// Where the token is in each question, in bytes.
const (
	tokenInDNS   = 12 + 1 // behind the header and the length of the first label
	tokenInDHCP  = 44     // sname, which no server reads (RFC 2131 section 2)
	tokenInDHCP6 = 14     // the identifier of a client, behind the header, an option's, and type and enterprise of a DUID
	tokenInNTP   = 16     // the reference timestamp and those of the last exchange, which a client's first one has not
)

// question is what is sent for a flow by UDP.
func question(p filter.Probe, token string) []byte {
	if p.To == profiles.Self && p.Pass {
		switch p.Port {
		case portDNS:
			return dnsQuestion(token)
		case portDHCP:
			return dhcpQuestion(p.Src, token)
		case portDHCP6:
			return dhcp6Question(token)
		case portNTP:
			return ntpQuestion(token)
		}
	}
	return []byte(token)
}

// tokenOf is the token of a datagram or an echo request; empty: it has none.
func tokenOf(d virtualnet.Dissection) string {
	at := 0
	switch b := d.Payload; {
	case d.Protocol != virtualnet.UDP:
	case d.DstPort == portDNS && len(b) > tokenInDNS+tokenSize && b[tokenInDNS-1] == tokenSize:
		at = tokenInDNS
	case d.DstPort == portDHCP && len(b) > dhcpHead && string(b[dhcpFixed:dhcpHead]) == dhcpCookie:
		at = tokenInDHCP
	case d.DstPort == portDHCP6 && len(b) >= tokenInDHCP6 && b[0] == dhcp6Inform:
		at = tokenInDHCP6
	case d.DstPort == portNTP && len(b) == ntpSize && b[0] == ntpClient:
		at = tokenInNTP
	}
	if len(d.Payload) < at+tokenSize {
		return ""
	}
	return string(d.Payload[at : at+tokenSize])
}

// dnsQuestion asks for the address of TOKEN.invalid, which nobody has (RFC 6761 section 6.4): RFC 1035 section 4.1.
func dnsQuestion(token string) []byte {
	const recursionDesired, typeA, classIN = 1 << 8, 1, 1
	b := binary.BigEndian.AppendUint16(nil, 0x7265)
	b = binary.BigEndian.AppendUint16(b, recursionDesired)
	b = append(b, 0, 1, 0, 0, 0, 0, 0, 0) // one question, nothing else
	b = append(append(b, byte(len(token))), token...)
	b = append(append(b, 7), "invalid\x00"...)
	return binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(b, typeA), classIN)
}

// The fixed part of a DHCP message before its cookie, and this: RFC 2131 sections 2 and 3.
const (
	dhcpFixed  = 236
	dhcpCookie = "\x63\x82\x53\x63"
	dhcpHead   = dhcpFixed + len(dhcpCookie)
)

// dhcpQuestion is a DHCPINFORM: who has an address asks what else there is to know, and nothing is leased.
func dhcpQuestion(from netip.Addr, token string) []byte {
	const request, ethernet, hardwareLen, messageType, inform, end = 1, 1, 6, 53, 8, 255
	b := make([]byte, dhcpFixed)
	b[0], b[1], b[2] = request, ethernet, hardwareLen
	copy(b[4:8], token[len(tokenPrefix):]) // the number of the exchange
	copy(b[12:16], from.AsSlice())
	copy(b[28:34], "\x02rmprt") // a hardware address, locally administered
	copy(b[tokenInDHCP:], token)
	b = append(b, dhcpCookie...)
	return append(b, messageType, 1, inform, end)
}

// dhcp6Inform is the message INFORMATION-REQUEST, RFC 8415 section 7.3.
const dhcp6Inform = 11

// dhcp6Question asks what there is to know beside addresses: RFC 8415 sections 8, 11.3 and 21.2.
func dhcp6Question(token string) []byte {
	const clientID, byEnterprise, documentation = 1, 2, 32473         // RFC 5612
	b := append([]byte{dhcp6Inform}, token[len(tokenPrefix):][:3]...) // the number of the exchange
	b = binary.BigEndian.AppendUint16(b, clientID)
	b = binary.BigEndian.AppendUint16(b, uint16(6+len(token)))
	b = binary.BigEndian.AppendUint16(b, byEnterprise)
	b = binary.BigEndian.AppendUint32(b, documentation)
	return append(b, token...)
}

// NTP: RFC 5905 section 7.3. Version 4, mode 3.
const (
	ntpSize   = 48
	ntpClient = 4<<3 | 3
)

// ntpQuestion asks for the time.
func ntpQuestion(token string) []byte {
	b := make([]byte, ntpSize)
	b[0] = ntpClient
	copy(b[tokenInNTP:], token)
	copy(b[ntpSize-8:], token[len(tokenPrefix):]) // the transmit timestamp, which comes back
	return b
}
