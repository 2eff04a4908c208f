package profiles

import (
	"strconv"
	"strings"
)

// protocolNumber is one of the protocols a policy line may name, with its number from the IANA registry of assigned
// Internet protocol numbers.
type protocolNumber struct {
	name   Protocol
	number uint8
}

func protocolNumbers() []protocolNumber {
	return []protocolNumber{{ICMP, 1}, {IGMP, 2}, {"ipip", 4}, {TCP, 6}, {UDP, 17}, {"gre", 47}, {"esp", 50}, {AH, 51},
		{ICMP6, 58}, {"ospf", 89}, {"vrrp", 112}, {SCTP, 132}}
}

// Protocols that speak of one family only. An authentication header in IPv6 stands before the transport's own header,
// by which such a packet is judged (RFC 4302, section 3.1).
const (
	IGMP Protocol = "igmp"
	AH   Protocol = "ah"
)

// protoPrefix begins a protocol by number: "proto/47".
const protoPrefix = "proto/"

// Number is the IP protocol number; false for AnyProtocol, Ping and what is no protocol. Each protocol has one name:
// the one of the list where there is one, else proto/ and the number.
func (p Protocol) Number() (uint8, bool) {
	for _, known := range protocolNumbers() {
		if known.name == p {
			return known.number, true
		}
	}
	n, ok := parseProtocolNumber(strings.TrimPrefix(string(p), protoPrefix))
	if !ok || !strings.HasPrefix(string(p), protoPrefix) || protocolOf(n) != p {
		return 0, false
	}
	return n, true
}

// HasPorts tells whether flows of the protocol have ports.
func (p Protocol) HasPorts() bool { return p == TCP || p == UDP || p == SCTP }

// Speaks tells whether a line with the protocol can match packets of a family.
func (p Protocol) Speaks(v6 bool) bool {
	switch p {
	case ICMP, IGMP, AH:
		return !v6
	case ICMP6:
		return v6
	}
	return true
}

// protocolOf is the name of a protocol number.
func protocolOf(n uint8) Protocol {
	for _, known := range protocolNumbers() {
		if known.number == n {
			return known.name
		}
	}
	return Protocol(protoPrefix + strconv.Itoa(int(n)))
}

func parseProtocolNumber(text string) (uint8, bool) {
	n, err := strconv.ParseUint(text, 10, 8)
	if err != nil || strconv.FormatUint(n, 10) != text {
		return 0, false
	}
	return uint8(n), true
}
