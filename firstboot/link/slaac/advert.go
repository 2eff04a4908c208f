package slaac

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"rempart/firstboot/link/dhcp4"
	"rempart/firstboot/link/packet"
	"rempart/firstboot/link/turns"
)

// Numbers of IPv6 (RFC 8200) and of neighbour discovery (RFC 4861, section 4; RFC 4191, section 2.2; RFC 8106,
// section 5).
const (
	ipHeader       = 40
	protocolICMP6  = 58
	hopLimit       = 255
	typeSolicit    = 133
	typeAdvert     = 134
	advertHeader   = 16
	optionUnit     = 8 // bytes that the length of an option counts
	optionSource   = 1 // link-layer address of the sender
	optionPrefix   = 3
	optionMTU      = 5
	optionDNS      = 25
	optionSearch   = 31
	flagManaged    = 0x80
	flagOnLink     = 0x80 // of a prefix
	flagAutonomous = 0x40
	endless        = 0xffffffff // a lifetime
	// maxPacket bounds what is read: an advertisement is never fragmented (RFC 6980), and IPv6 over Ethernet begins
	// with this MTU.
	maxPacket = turns.MaxPacket
)

// Preferences of a default router, RFC 4191 section 2.1, the best the greatest.
const (
	prefLow = iota - 1
	prefMedium
	prefHigh
)

// advert is a router advertisement: what it says, unjudged.
type advert struct {
	from       netip.Addr // link-local
	lifetime   time.Duration
	preference int
	managed    bool
	mtu        uint32 // 0: not said
	prefixes   []prefixInfo
	dns        []serverInfo
	search     []domainInfo
}

type prefixInfo struct {
	prefix           netip.Prefix
	onLink, auto     bool
	valid, preferred time.Duration
}

type serverInfo struct {
	addr  netip.Addr
	valid time.Duration
}

type domainInfo struct {
	name  string
	valid time.Duration
}

var errNotForUs = errors.New("not a router advertisement")

// parse reads an IPv6 packet as it came off the wire. Every length in it is checked, and all that RFC 4861, section
// 6.1.2, asks of a valid advertisement. summed is false where the checksum cannot be checked; see packet.Receive.
func parse(b []byte, summed bool) (advert, error) {
	var a advert
	if len(b) < ipHeader+advertHeader || b[0]>>4 != 6 || b[6] != protocolICMP6 || b[ipHeader] != typeAdvert {
		return a, errNotForUs
	}
	length := int(binary.BigEndian.Uint16(b[4:]))
	if length < advertHeader || ipHeader+length > len(b) {
		return a, fmt.Errorf("IPv6 payload of %d bytes in a packet of %d", length, len(b))
	}
	b = b[:ipHeader+length] // what is behind it is Ethernet padding
	a.from = netip.AddrFrom16([16]byte(b[8:24]))
	body := b[ipHeader:]
	switch {
	case b[7] != hopLimit:
		return a, fmt.Errorf("hop limit %d: it was forwarded, or pretends to be from this link", b[7])
	case !a.from.IsLinkLocalUnicast():
		return a, fmt.Errorf("its sender %s is not link-local", a.from)
	case body[1] != 0:
		return a, fmt.Errorf("ICMPv6 code %d", body[1])
	case summed && packet.Sum(packet.Pseudo6(b), body) != 0xffff:
		return a, errors.New("wrong ICMPv6 checksum")
	}
	a.managed = body[5]&flagManaged != 0
	switch body[5] >> 3 & 3 {
	case 1:
		a.preference = prefHigh
	case 3:
		a.preference = prefLow
	}
	a.lifetime = time.Duration(binary.BigEndian.Uint16(body[6:])) * time.Second
	for options := body[advertHeader:]; len(options) > 0; {
		if len(options) < 2 || options[1] == 0 || int(options[1])*optionUnit > len(options) {
			return a, errors.New("an option of no length, or longer than the packet")
		}
		n := int(options[1]) * optionUnit
		a.option(options[0], options[:n])
		options = options[n:]
	}
	return a, nil
}

// option reads one option; one of a wrong length is as if it were not there, as is one nobody knows.
func (a *advert) option(kind byte, b []byte) {
	switch {
	case kind == optionPrefix && len(b) == 4*optionUnit:
		bits := int(b[2])
		if bits > 128 {
			return
		}
		a.prefixes = append(a.prefixes, prefixInfo{
			prefix:    netip.PrefixFrom(netip.AddrFrom16([16]byte(b[16:32])), bits).Masked(),
			onLink:    b[3]&flagOnLink != 0,
			auto:      b[3]&flagAutonomous != 0,
			valid:     seconds(b[4:]),
			preferred: seconds(b[8:]),
		})
	case kind == optionMTU && len(b) == optionUnit:
		a.mtu = binary.BigEndian.Uint32(b[4:])
	case kind == optionDNS && len(b) >= 3*optionUnit:
		for list := b[8:]; len(list) >= 16; list = list[16:] {
			a.dns = append(a.dns, serverInfo{netip.AddrFrom16([16]byte(list[:16])), seconds(b[4:])})
		}
	case kind == optionSearch && len(b) >= 2*optionUnit:
		for _, name := range domains(b[8:]) {
			a.search = append(a.search, domainInfo{name, seconds(b[4:])})
		}
	}
}

// seconds reads a lifetime, an endless one as the longest that is believed.
func seconds(b []byte) time.Duration {
	n := binary.BigEndian.Uint32(b)
	if n == endless {
		return maxLifetime
	}
	return min(time.Duration(n)*time.Second, maxLifetime)
}

// domains reads names in the encoding of RFC 1035, section 3.1, padded with zeros. It ends at the first that is wrong.
func domains(b []byte) []string {
	var out []string
	for len(b) > 0 && b[0] != 0 {
		var labels []string
		for len(b) > 0 && b[0] != 0 {
			n := int(b[0])
			// Compression, whose first byte is at least 0xc0, is not allowed here.
			if n >= len(b) || bytes.IndexByte(b[1:1+n], 0) >= 0 {
				return out
			}
			labels = append(labels, string(b[1:1+n]))
			b = b[1+n:]
		}
		name := dhcp4.Domain([]byte(strings.Join(labels, ".")))
		if len(b) == 0 || name == "" {
			return out
		}
		out = append(out, name)
		b = b[1:]
	}
	return out
}

// allRouters is where solicitations go, and what that is on Ethernet (RFC 2464, section 7).
var (
	allRouters    = netip.MustParseAddr("ff02::2")
	allRoutersMAC = net.HardwareAddr{0x33, 0x33, 0, 0, 0, 2}
)

// solicit is a router solicitation (RFC 4861, section 4.1).
func solicit(from netip.Addr, mac net.HardwareAddr) []byte {
	const length = 8 + optionUnit
	b := make([]byte, ipHeader+length)
	b[0] = 6 << 4
	binary.BigEndian.PutUint16(b[4:], length)
	b[6], b[7] = protocolICMP6, hopLimit
	copy(b[8:], from.AsSlice())
	copy(b[24:], allRouters.AsSlice())
	body := b[ipHeader:]
	body[0] = typeSolicit
	body[8], body[9] = optionSource, 1
	copy(body[10:], mac)
	binary.BigEndian.PutUint16(body[2:], ^packet.Sum(packet.Pseudo6(b), body))
	return b
}
