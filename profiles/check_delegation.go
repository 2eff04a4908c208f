package profiles

import (
	"fmt"
	"net/netip"
	"slices"
)

// Bounds of delegated prefixes: nobody is given more than what an Internet provider has, and a subnet has 64 bits.
const (
	minDelegation = 32
	maxDelegation = subnetBits
	maxDelegated  = 4 // addresses of a link
)

// delegation checks who asks for a prefix and who has addresses in it.
func (v *validator) delegation() {
	var from *Link
	for i := range v.p.Links {
		l := &v.p.Links[i]
		if l.DHCP6 && l.NoIPv6 {
			v.reject(v.places.find(l.At, "links.%s.dhcp6", l.Name), "remove one", "links.%s.ipv6: off, and address: dhcp6",
				clip(l.Name))
		}
		if l.Delegation == nil {
			continue
		}
		at := v.places.find(l.At, "links.%s.delegation", l.Name)
		if n := l.Delegation.Length; n != 0 && (n < minDelegation || n > maxDelegation) {
			v.reject(at, "", "links.%s.delegation: %d, expected any, or %d to %d", clip(l.Name), n, minDelegation, maxDelegation)
		}
		switch {
		case from != nil:
			v.reject(at, "remove one", "links.%s.delegation: link %s asks for a prefix already", clip(l.Name), clip(from.Name))
		case l.NoIPv6 || l.WireGuard != nil || v.p.MasterOf(l.Name) != nil || l.MTU != 0 && l.MTU < minMTUIPv6:
			v.reject(at, "", "links.%s.delegation: nobody answers DHCPv6 on such a link", clip(l.Name))
		case !l.has(netip.IPv6Unspecified()) && !v.places.spoilt("links.%s.address", l.Name):
			v.reject(at, "add auto or dhcp6 to its address", "links.%s.delegation: the link has no IPv6 address",
				clip(l.Name))
		case len(l.Delegated) > 0:
			v.reject(at, "", "links.%s.delegation: a delegated prefix is for other links than it came by (RFC 8415, 6.3)",
				clip(l.Name))
		}
		if from == nil {
			from = l
		}
	}
	v.delegatedAddresses(from)
}

func (v *validator) delegatedAddresses(from *Link) {
	type subnet struct {
		link string
		at   Pos
	}
	subnets := map[uint32]subnet{}
	for i := range v.p.Links {
		l := &v.p.Links[i]
		if len(l.Delegated) > maxDelegated {
			v.reject(l.At, "", "links.%s.address: more than %d delegated ones", clip(l.Name), maxDelegated)
			continue
		}
		for j, d := range l.Delegated {
			at := v.places.find(l.At, "links.%s.delegated[%d]", l.Name, j)
			bad := func(hint, format string, args ...any) {
				v.reject(at, hint, "links.%s.address: %s", clip(l.Name), fmt.Sprintf(format, args...))
			}
			if problem := checkSuffix(d.Host); problem != "" {
				bad("for example delegated/1::1", "%s", problem)
			}
			switch first, taken := subnets[d.Subnet]; {
			case from == nil:
				bad("write delegation: any at the link that leads out", "no link asks for a prefix")
			case from.Delegation.Length != 0 && d.Subnet>>(subnetBits-from.Delegation.Length) != 0:
				bad("", "subnet %x, but a prefix of %d bits has %d subnets, which count from 0", d.Subnet,
					from.Delegation.Length, uint64(1)<<(subnetBits-from.Delegation.Length))
			case taken && first.link != l.Name:
				bad("each link needs a subnet of its own", "subnet %x is that of link %s at %s", d.Subnet, clip(first.link),
					first.at)
			default:
				subnets[d.Subnet] = subnet{l.Name, at}
			}
			if l.NoIPv6 || l.MTU != 0 && l.MTU < minMTUIPv6 {
				bad("", "the link has no IPv6")
			}
			if l.Auto || l.DHCP6 {
				bad("remove one", "the link learns its addresses from others, and has one for others to learn from")
			}
		}
	}
}

// delegatedHost checks a host in what is delegated that a line of the policy is about, on its side of a zone.
func (v *validator) delegatedHost(d Delegated, zone string, at Pos) {
	if problem := checkSuffix(d.Host); problem != "" {
		v.reject(at, "for example delegated/1::10", "policy: %s: %s", d, problem)
		return
	}
	if zone == Self {
		v.reject(at, "remove it: the guest's own addresses are all self", "policy: %s is a host on a link, not self", d)
		return
	}
	l := v.p.LinkOf(d)
	if l == nil {
		v.reject(at, fmt.Sprintf("give a link the address delegated/%x::1", d.Subnet), "policy: no link has subnet %x, "+
			"where %s is", d.Subnet, d)
		return
	}
	z := v.zone(zone)
	if z != nil && !slices.ContainsFunc(z.Members, func(m Member) bool {
		return m.Link == l.Name && (len(m.Prefixes) == 0 || m.Rest)
	}) {
		v.reject(at, "name the zone it is in", "policy: %s is on link %s, which zone %s has not, or only prefixes of", d,
			clip(l.Name), clip(zone))
	}
}

// checkSuffix tells what is wrong with the end of an address, the 64 bits below its subnet.
func checkSuffix(a netip.Addr) string {
	b := a.As16()
	switch {
	case !a.Is6() || a.Is4In6() || a.Zone() != "" || [8]byte(b[:8]) != [8]byte{}:
		return fmt.Sprintf("%s is no end of an address, of 64 bits", a)
	case [8]byte(b[8:]) == [8]byte{}:
		return "host 0 is the anycast address of all routers of a subnet" // RFC 4291, section 2.6.1
	}
	return ""
}
