package filter

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"strconv"
)

// Type is the type of a value, as nftables knows it.
type Type uint8

// The types.
const (
	TypeIfName   Type = iota + 1 // 16 bytes, NUL padded
	TypeIPv4                     // 4 bytes
	TypeIPv6                     // 16 bytes
	TypePort                     // 2 bytes, big endian
	TypeProto                    // 1 byte
	TypeICMP                     // 1 byte
	TypeICMP6                    // 1 byte
	TypeNumber                   // 1 byte
	TypeAddrType                 // 4 bytes, host order
	TypeBitmask                  // 4 bytes, host order; only with Bits
	TypeVersion                  // 1 byte, the kernel's NFPROTO_*
	TypeEther                    // 2 bytes, big endian
)

// Sizes of addresses in bytes, RFC 791 and RFC 8200.
const (
	IPv4Size = 4
	IPv6Size = 16
)

// IfNameSize is IFNAMSIZ of the kernel: a name is shorter than this.
const IfNameSize = 16

// Name is the type's name in a set declaration; empty for the types that no set can hold.
func (t Type) Name() string {
	switch t {
	case TypeIfName:
		return "ifname"
	case TypeIPv4:
		return "ipv4_addr"
	case TypeIPv6:
		return "ipv6_addr"
	case TypePort:
		return "inet_service"
	}
	return ""
}

// Field is something of a packet, or known about it, that a rule can look at.
type Field uint8

// The fields.
const (
	IIfName         Field = iota + 1 // the link it entered by
	OIfName                          // the link it leaves by
	L4Proto                          // the transport protocol
	IPSAddr                          // IPv4 source
	IPDAddr                          // IPv4 destination
	IP6SAddr                         // IPv6 source
	IP6DAddr                         // IPv6 destination
	IP6HopLimit                      // IPv6 hop limit
	TCPDPort                         // TCP destination port
	TCPFlags                         // TCP control bits
	UDPSPort                         // UDP source port
	UDPDPort                         // UDP destination port
	ICMPType                         // ICMP type
	ICMPCode                         // ICMP code
	ICMP6Type                        // ICMPv6 type
	CTState                          // state of its connection
	CTStatus                         // what was done to its connection
	DAddrType                        // what the destination is to this machine
	DAddrTypeOnLink                  // the same, asked of the link it entered by only
	SCTPDPort                        // SCTP destination port
	Version                          // IPv4 or IPv6; in the inet family only
	LinkProtocol                     // what the frame carries, behind a VLAN tag too; in the bridge family only
	EtherType                        // what stands in the frame, which may be a tag; in the bridge family only
	TCPSPort                         // TCP source port
	SCTPSPort                        // SCTP source port
	SAddrType                        // what the source is to this machine
	DAddrOIfName                     // the link by which the destination is reached
	SAddrOIfName                     // the link by which the source is reached
	SAddrTypeOnLink                  // what the source is to the link it entered by
)

// fieldInfo is what both printers know of a field.
type fieldInfo struct {
	text  string
	typ   Type
	net   uint8 // network protocol the packet must be of before the field can be read: 4, 6, or 0 for any
	proto uint8 // transport protocol likewise; 0 for any
}

// IP protocol numbers, from the IANA registry.
const (
	ProtoICMP  = 1
	ProtoTCP   = 6
	ProtoUDP   = 17
	ProtoICMP6 = 58
	ProtoSCTP  = 132
)

var fields = [...]fieldInfo{
	IIfName:         {text: "iifname", typ: TypeIfName},
	OIfName:         {text: "oifname", typ: TypeIfName},
	L4Proto:         {text: "meta l4proto", typ: TypeProto},
	IPSAddr:         {text: "ip saddr", typ: TypeIPv4, net: 4},
	IPDAddr:         {text: "ip daddr", typ: TypeIPv4, net: 4},
	IP6SAddr:        {text: "ip6 saddr", typ: TypeIPv6, net: 6},
	IP6DAddr:        {text: "ip6 daddr", typ: TypeIPv6, net: 6},
	IP6HopLimit:     {text: "ip6 hoplimit", typ: TypeNumber, net: 6},
	TCPDPort:        {text: "tcp dport", typ: TypePort, proto: ProtoTCP},
	TCPFlags:        {text: "tcp flags", typ: TypeBitmask, proto: ProtoTCP},
	UDPSPort:        {text: "udp sport", typ: TypePort, proto: ProtoUDP},
	UDPDPort:        {text: "udp dport", typ: TypePort, proto: ProtoUDP},
	ICMPType:        {text: "icmp type", typ: TypeICMP, net: 4, proto: ProtoICMP},
	ICMPCode:        {text: "icmp code", typ: TypeNumber, net: 4, proto: ProtoICMP},
	ICMP6Type:       {text: "icmpv6 type", typ: TypeICMP6, net: 6, proto: ProtoICMP6},
	CTState:         {text: "ct state", typ: TypeBitmask},
	CTStatus:        {text: "ct status", typ: TypeBitmask},
	DAddrType:       {text: "fib daddr type", typ: TypeAddrType},
	DAddrTypeOnLink: {text: "fib daddr . iif type", typ: TypeAddrType},
	SCTPDPort:       {text: "sctp dport", typ: TypePort, proto: ProtoSCTP},
	Version:         {text: "meta nfproto", typ: TypeVersion},
	LinkProtocol:    {text: "meta protocol", typ: TypeEther},
	EtherType:       {text: "ether type", typ: TypeEther},
	TCPSPort:        {text: "tcp sport", typ: TypePort, proto: ProtoTCP},
	SCTPSPort:       {text: "sctp sport", typ: TypePort, proto: ProtoSCTP},
	SAddrType:       {text: "fib saddr type", typ: TypeAddrType},
	DAddrOIfName:    {text: "fib daddr oifname", typ: TypeIfName},
	SAddrOIfName:    {text: "fib saddr oifname", typ: TypeIfName},
	SAddrTypeOnLink: {text: "fib saddr . iif type", typ: TypeAddrType},
}

// String is the field as nft writes it.
func (f Field) String() string {
	if int(f) < len(fields) && fields[f].text != "" {
		return fields[f].text
	}
	return fmt.Sprintf("Field(%d)", uint8(f))
}

// Type is the type of the field's value.
func (f Field) Type() Type { return fields[f].typ }

// Needs returns what must be known of a packet before the field may be read: the IP version (4, 6, 0: any) and the
// transport protocol (0: any). nft adds these conditions by itself; whoever talks to the kernel must.
func (f Field) Needs() (version, proto uint8) { return fields[f].net, fields[f].proto }

// Range is First to Last, both included, in the byte order of the packet (TypeAddrType: of the host).
type Range struct {
	First, Last []byte
}

// Single tells whether the range is one value.
func (r Range) Single() bool { return bytes.Equal(r.First, r.Last) }

// Following is the next value after b, and false after the last.
func Following(b []byte) ([]byte, bool) {
	next := bytes.Clone(b)
	for i := len(next) - 1; i >= 0; i-- {
		if next[i]++; next[i] != 0 {
			return next, true
		}
	}
	return nil, false
}

func one(b []byte) Range { return Range{First: b, Last: b} }

// ifName is the range that is one interface name. The caller checked its length.
func ifName(name string) Range {
	b := make([]byte, IfNameSize)
	copy(b, name)
	return one(b)
}

// NFPROTO_IPV4 and NFPROTO_IPV6 of the kernel's include/uapi/linux/netfilter.h.
const (
	VersionIPv4 = 2
	VersionIPv6 = 10
)

func version(v6 bool) Match {
	if v6 {
		return Match{Version, []Range{number(VersionIPv6)}}
	}
	return Match{Version, []Range{number(VersionIPv4)}}
}

func etherRange(n uint16) Range { return one(binary.BigEndian.AppendUint16(nil, n)) }

func number(n uint8) Range { return one([]byte{n}) }

func portRange(first, last uint16) Range {
	return Range{First: binary.BigEndian.AppendUint16(nil, first), Last: binary.BigEndian.AppendUint16(nil, last)}
}

func addrRange(s span) Range { return Range{First: s.first.AsSlice(), Last: s.last.AsSlice()} }

// RTN_UNICAST and RTN_LOCAL of the kernel's include/uapi/linux/rtnetlink.h.
const (
	routeUnicast = 1
	routeLocal   = 2
)

// local is an address of this machine, and somebodyElse one that is routed to another.
func local() Range        { return one(binary.NativeEndian.AppendUint32(nil, routeLocal)) }
func somebodyElse() Range { return one(binary.NativeEndian.AppendUint32(nil, routeUnicast)) }

// format prints a range the way nft reads it.
func (t Type) format(r Range) string {
	switch t {
	case TypeIfName:
		return strconv.Quote(string(bytes.TrimRight(r.First, "\x00")))
	case TypeIPv4, TypeIPv6:
		first, _ := netip.AddrFromSlice(r.First)
		last, _ := netip.AddrFromSlice(r.Last)
		return span{first, last}.String()
	case TypeAddrType:
		if binary.NativeEndian.Uint32(r.First) == routeUnicast {
			return "unicast"
		}
		return "local"
	case TypeEther:
		names := map[uint16]string{etherIPv4: "ip", etherARP: "arp", ether8021Q: "8021q", etherIPv6: "ip6",
			ether8021AD: "8021ad"}
		return names[binary.BigEndian.Uint16(r.First)]
	case TypeVersion:
		if r.First[0] == VersionIPv6 {
			return "ipv6"
		}
		return "ipv4"
	}
	number := func(b []byte) string {
		var n uint64
		for _, c := range b {
			n = n<<8 | uint64(c)
		}
		return strconv.FormatUint(n, 10)
	}
	if r.Single() {
		return number(r.First)
	}
	return number(r.First) + "-" + number(r.Last)
}
