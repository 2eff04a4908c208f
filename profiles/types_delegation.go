package profiles

import (
	"fmt"
	"net/netip"
	"slices"
)

// Delegation asks for a prefix for the links inside (RFC 8415, section 6.3).
type Delegation struct {
	Length int `json:"length,omitempty"` // the length that is wanted, MinDelegation to 64; 0: any
}

// Delegated is an address on a link inside, the guest's or another host's, of which only the end is known beforehand:
// it is host Host of subnet Subnet of the delegated prefix. Subnets have 64 bits.
type Delegated struct {
	Subnet uint32     `json:"subnet"` // counts from 0
	Host   netip.Addr `json:"host"`   // the upper 64 bits are zero, the lower not all
}

// subnetBits is the length of the subnets of a delegated prefix (RFC 4291, section 2.5.4).
const subnetBits = 64

// String is the address as a profile has it.
func (d Delegated) String() string { return fmt.Sprintf("delegated/%x%s", d.Subnet, d.Host) }

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

// LinkOf is the link that has the subnet of a delegated address; nil: none has.
func (p *Profile) LinkOf(d Delegated) *Link {
	for i := range p.Links {
		if slices.ContainsFunc(p.Links[i].Delegated, func(o Delegated) bool { return o.Subnet == d.Subnet }) {
			return &p.Links[i]
		}
	}
	return nil
}

// supposed is the prefix of SupposedPrefix, for documentation (RFC 9637), with room for each subnet a profile can name.
var supposed = netip.MustParsePrefix("3fff:d::/32")

// Supposed is the profile as those judge it who try it out: with SupposedPrefix delegated. It is p where none is.
func (p *Profile) Supposed() *Profile {
	if prefix := p.SupposedPrefix(); prefix.IsValid() {
		return p.WithDelegated(prefix)
	}
	return p
}

// SupposedPrefix is one such as a profile may be delegated, as long as it wants it, or else as it needs it. The zero
// Prefix: none is asked for.
func (p *Profile) SupposedPrefix() netip.Prefix {
	from := p.DelegationLink()
	if from == nil {
		return netip.Prefix{}
	}
	if n := from.Delegation.Length; n > supposed.Bits() {
		return netip.PrefixFrom(supposed.Addr(), n)
	}
	bits := 56 // what providers give to homes, as RFC 6177 has it
	for _, l := range p.Links {
		for _, d := range l.Delegated {
			for bits > supposed.Bits() && uint64(d.Subnet)>>(subnetBits-bits) != 0 {
				bits -= 8
			}
		}
	}
	for _, d := range p.DHCP6 {
		for pool := d.Delegate; pool != nil && pool.Delegated && bits > supposed.Bits(); bits -= 8 {
			if pool.Prefix.Bits() >= bits && uint64(pool.subnet())>>(subnetBits-bits) == 0 {
				break
			}
		}
	}
	return netip.PrefixFrom(supposed.Addr(), bits)
}

// WithDelegated is the profile as one whose addresses are all known: those in what is delegated are those in the
// prefix. What shares memory with p is not to be changed.
func (p *Profile) WithDelegated(prefix netip.Prefix) *Profile {
	out := *p
	out.Links = slices.Clone(p.Links)
	for i := range out.Links {
		l := &out.Links[i]
		for _, d := range l.Delegated {
			if a, ok := d.Of(prefix); ok {
				l.Addresses = append(slices.Clip(l.Addresses), a)
			}
		}
		l.Delegated = nil
	}
	hosts := func(known []netip.Prefix, more []Delegated) []netip.Prefix {
		for _, d := range more {
			if a, ok := d.Of(prefix); ok {
				known = append(slices.Clip(known), netip.PrefixFrom(a.Addr(), a.Addr().BitLen()))
			}
		}
		return known
	}
	out.DHCP6 = slices.Clone(p.DHCP6)
	for i := range out.DHCP6 {
		d := &out.DHCP6[i]
		if d.Delegate == nil || !d.Delegate.Delegated {
			continue
		}
		pool := *d.Delegate
		d.Delegate = nil
		if in, ok := pool.In(prefix); ok {
			pool.PrefixBlock = PrefixBlock{Prefix: in}
			d.Delegate = &pool
		}
	}
	out.Policy = slices.Clone(p.Policy)
	for i := range out.Policy {
		r := &out.Policy[i]
		r.Matches = slices.Clone(r.Matches)
		for k := range r.Matches {
			m := &r.Matches[k]
			m.Sources = hosts(m.Sources, m.DelegatedSources)
			m.Destinations = hosts(m.Destinations, m.DelegatedDestinations)
			m.DelegatedSources, m.DelegatedDestinations = nil, nil
		}
	}
	return &out
}
