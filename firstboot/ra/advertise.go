package ra

import (
	"encoding/binary"
	"net"
	"net/netip"
	"strings"
	"time"

	"rempart/firstboot/link/packet"
	"rempart/firstboot/link/watch"
	"rempart/profiles"
)

// Numbers of IPv6 (RFC 8200) and of neighbour discovery (RFC 4861, section 4; RFC 4191, sections 2.2 and 2.3; RFC 8106,
// section 5).
const (
	ipHeader       = 40
	protocolICMP6  = 58
	hopLimit       = 255
	typeSolicit    = 133
	typeAdvert     = 134
	optionUnit     = 8 // bytes that the length of an option counts
	optionSource   = 1 // link-layer address of the sender
	optionPrefix   = 3
	optionMTU      = 5
	optionRoute    = 24
	optionDNS      = 25
	optionSearch   = 31
	flagManaged    = 0x80
	flagOther      = 0x40
	flagOnLink     = 0x80 // of a prefix
	flagAutonomous = 0x40
	endless        = 0xffffffff // a lifetime
	onePacket      = 1280       // bytes: every link carries them (RFC 8200, section 5), and RFC 6980 has no fragments
	hostHops       = 64         // what hosts shall send with: the recommended default (IANA, IP option numbers)
	prefixBits     = 64         // of a prefix hosts make addresses in (RFC 4862, section 5.5.3 d; RFC 4291, 2.5.1)
)

// allNodes is where advertisements go, and what that is on Ethernet (RFC 2464, section 7).
var (
	allNodes    = netip.MustParseAddr("ff02::1")
	allNodesMAC = net.HardwareAddr{0x33, 0x33, 0, 0, 0, 1}
)

// message is an advertisement as values. Times are from now on.
type message struct {
	from     netip.Addr
	mac      net.HardwareAddr
	lifetime time.Duration // as default router; 0: it is none
	advert   *profiles.Advert
	prefixes []prefix
	servers  []netip.Addr
	left     []netip.Addr  // name servers hosts were told of and shall not ask any more
	naming   time.Duration // how long servers and search domains hold
	final    bool          // the guest stops: nothing leads by it any more
}

type prefix struct {
	prefix           netip.Prefix
	valid, preferred time.Duration
}

// compose is what there is to be said on a link. gone are prefixes that were advertised and are no more, each with the
// rest of its validity. It is pure.
func compose(a *profiles.Advert, l watch.Link, uplink bool, gone []prefix) message {
	m := message{from: l.LinkLocal, mac: l.MAC, advert: a, naming: seconds(3 * a.Interval)}
	if a.Always || uplink {
		m.lifetime = seconds(a.Lifetime)
	}
	for _, have := range l.Addresses {
		if have.Prefix.Bits() != prefixBits {
			continue
		}
		p := prefix{have.Prefix.Masked(), min(have.Valid, seconds(a.Valid)), min(have.Preferred, seconds(a.Preferred))}
		if at := find(m.prefixes, p.prefix); at >= 0 { // of two addresses in one subnet the longer lived counts
			m.prefixes[at].valid = max(m.prefixes[at].valid, p.valid)
			m.prefixes[at].preferred = max(m.prefixes[at].preferred, p.preferred)
			continue
		}
		m.prefixes = append(m.prefixes, p)
		if a.DNSSelf && len(m.servers) == 0 && p.preferred > 0 {
			m.servers = append(m.servers, have.Prefix.Addr())
		}
	}
	for _, p := range gone {
		if find(m.prefixes, p.prefix) < 0 {
			m.prefixes = append(m.prefixes, p)
		}
	}
	m.prefixes = m.prefixes[:min(len(m.prefixes), profiles.MaxAdvertPrefixes)]
	if a.DNSSelf && len(m.servers) == 0 {
		m.servers = append(m.servers, l.LinkLocal) // reachable without any prefix
	}
	m.servers = append(m.servers, a.DNS...)
	return m
}

func find(list []prefix, p netip.Prefix) int {
	for i := range list {
		if list[i].prefix == p {
			return i
		}
	}
	return -1
}

func seconds(n int64) time.Duration { return time.Duration(n) * time.Second }

// encode is the IPv6 packet. Lifetimes are rounded down: nothing is promised for longer than it lasts.
func (m *message) encode() []byte {
	b := make([]byte, ipHeader, 512)
	b[0] = 6 << 4
	b[6], b[7] = protocolICMP6, hopLimit
	copy(b[8:], m.from.AsSlice())
	copy(b[24:], allNodes.AsSlice())
	flags := byte(0)
	if m.advert.Managed {
		flags |= flagManaged
	}
	if m.advert.Other {
		flags |= flagOther
	}
	lifetime := m.lifetime
	if m.final {
		lifetime = 0
	}
	if lifetime > 0 { // of a router that is none the preference is reserved (RFC 4191, section 2.2)
		flags |= preference(m.advert.Preference)
	}
	b = append(b, typeAdvert, 0, 0, 0, hostHops, flags)
	b = binary.BigEndian.AppendUint16(b, uint16(lifetime/time.Second))
	b = append(b, 0, 0, 0, 0, 0, 0, 0, 0) // reachable time and retransmission timer: hosts know better
	b = append(b, optionSource, 1)
	b = append(b, m.mac...)
	if m.advert.MTU != 0 {
		b = append(b, optionMTU, 1, 0, 0)
		b = binary.BigEndian.AppendUint32(b, uint32(m.advert.MTU))
	}
	for _, p := range m.prefixes {
		b = m.prefixOption(b, p)
	}
	for _, r := range m.advert.Routes {
		held := seconds(r.Lifetime)
		if m.final {
			held = 0
		}
		b = append(b, optionRoute, 3, byte(r.To.Bits()), preference(r.Preference))
		b = appendSeconds(b, held)
		b = append(b, r.To.Masked().Addr().AsSlice()...)
	}
	b = m.naming106(b)
	// A profile may fill the packet: then hosts find out by themselves, when what they were told of ends.
	if room := (onePacket - len(b) - optionUnit) / 16; room > 0 {
		b = servers106(b, m.left[max(0, len(m.left)-room):], 0)
	}
	binary.BigEndian.PutUint16(b[4:], uint16(len(b)-ipHeader))
	body := b[ipHeader:]
	binary.BigEndian.PutUint16(body[2:], ^packet.Sum(packet.Pseudo6(b), body))
	return b
}

// prefixOption is RFC 4861, section 4.6.2. A final advertisement takes no prefix back: another router may have it too,
// and hosts keep talking to each other.
func (m *message) prefixOption(b []byte, p prefix) []byte {
	flags := byte(flagOnLink)
	if !m.advert.NoAuto {
		flags |= flagAutonomous
	}
	b = append(b, optionPrefix, 4, byte(p.prefix.Bits()), flags)
	b = appendSeconds(b, p.valid)
	b = appendSeconds(b, p.preferred)
	b = append(b, 0, 0, 0, 0)
	return append(b, p.prefix.Addr().AsSlice()...)
}

// naming106 are name servers and search domains, RFC 8106 sections 5.1 and 5.2.
func (m *message) naming106(b []byte) []byte {
	held := m.naming
	if m.final {
		held = 0
	}
	b = servers106(b, m.servers, held)
	if len(m.advert.Search) > 0 {
		var names []byte
		for _, name := range m.advert.Search {
			for label := range strings.SplitSeq(name, ".") {
				names = append(append(names, byte(len(label))), label...)
			}
			names = append(names, 0)
		}
		for len(names)%optionUnit != 0 {
			names = append(names, 0)
		}
		b = append(b, optionSearch, byte(1+len(names)/optionUnit), 0, 0)
		b = append(appendSeconds(b, held), names...)
	}
	return b
}

// servers106 are name servers to be asked for a time; zero: no more.
func servers106(b []byte, servers []netip.Addr, held time.Duration) []byte {
	if len(servers) == 0 {
		return b
	}
	b = append(b, optionDNS, byte(1+2*len(servers)), 0, 0)
	b = appendSeconds(b, held)
	for _, a := range servers {
		b = append(b, a.AsSlice()...)
	}
	return b
}

func appendSeconds(b []byte, d time.Duration) []byte {
	return binary.BigEndian.AppendUint32(b, uint32(min(d/time.Second, endless)))
}

// preference is RFC 4191, section 2.1, where it stands in flags.
func preference(p profiles.RoutePreference) byte {
	switch p {
	case profiles.PreferHigh:
		return 1 << 3
	case profiles.PreferLow:
		return 3 << 3
	}
	return 0
}
