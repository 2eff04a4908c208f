package profiles

import "net/netip"

// Delegation asks for a prefix for the links inside (RFC 8415, section 6.3).
type Delegation struct {
	Length int `json:"length,omitempty"` // the length that is wanted, MinDelegation to 64; 0: any
}

// Delegated is an address of the guest on a link inside, of which only the end is known beforehand: it is host Host of
// subnet Subnet of the delegated prefix. Subnets have 64 bits.
type Delegated struct {
	Subnet uint32     `json:"subnet"` // counts from 0
	Host   netip.Addr `json:"host"`   // the upper 64 bits are zero, the lower not all
}

// subnetBits is the length of the subnets of a delegated prefix (RFC 4291, section 2.5.4).
const subnetBits = 64

// Of is the address in a delegated prefix, false when that has no such subnet.
func (d Delegated) Of(prefix netip.Prefix) (netip.Prefix, bool) {
	if !prefix.Addr().Is6() || prefix.Bits() > subnetBits {
		return netip.Prefix{}, false
	}
	if room := subnetBits - prefix.Bits(); room < 32 && d.Subnet >= 1<<room {
		return netip.Prefix{}, false
	}
	b, host := prefix.Masked().Addr().As16(), d.Host.As16()
	for i := range 4 {
		b[4+i] |= byte(d.Subnet >> (24 - 8*i))
	}
	copy(b[8:], host[8:])
	return netip.PrefixFrom(netip.AddrFrom16(b), subnetBits), true
}

// DelegationLink is the link that asks for a prefix; nil: none does.
func (p *Profile) DelegationLink() *Link {
	for i := range p.Links {
		if p.Links[i].Delegation != nil {
			return &p.Links[i]
		}
	}
	return nil
}

// Learns6 tells whether a link has IPv6 addresses that the profile does not know.
func (l *Link) Learns6() bool { return l.Auto || l.DHCP6 || len(l.Delegated) > 0 }
