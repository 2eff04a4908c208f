package profiles

import (
	"fmt"
	"net/netip"
	"slices"
)

// PrefixPool is what routers behind the guest are delegated prefixes of (RFC 8415, section 6.3). Each of them has room
// for the shortest, whatever it is given of that, so that one that comes to need more has it.
type PrefixPool struct {
	PrefixBlock
	// Shortest and Longest bound the lengths of the prefixes, from the pool's own to 64. A router is given what it asks
	// for between the two, and the shortest when it asks for none.
	Shortest int `json:"shortest"`
	Longest  int `json:"longest"`
}

// PrefixBlock is a prefix to be delegated: one of the guest's own, or a part of what the guest itself is delegated.
type PrefixBlock struct {
	// Prefix is masked. Of a part of what is delegated just its place in there is known: the subnets it begins with and
	// its length, the upper bits are zero.
	Prefix netip.Prefix `json:"prefix"`
	// Delegated: it is such a part.
	Delegated bool `json:"delegated,omitempty"`
}

// String is the block as a profile has it.
func (b PrefixBlock) String() string {
	if !b.Delegated {
		return b.Prefix.String()
	}
	return fmt.Sprintf("%s/%x::/%d", delegatedName, b.subnet(), b.Prefix.Bits())
}

// delegatedName is what begins the name of what is in a delegated prefix.
const delegatedName = "delegated"

// subnet is the first subnet of a part of what is delegated.
func (b PrefixBlock) subnet() uint32 {
	a := b.Prefix.Addr().As16()
	return uint32(a[4])<<24 | uint32(a[5])<<16 | uint32(a[6])<<8 | uint32(a[7])
}

// blockAt is the part of what is delegated that begins with a subnet.
func blockAt(subnet uint32, bits int) PrefixBlock {
	a := [16]byte{4: byte(subnet >> 24), byte(subnet >> 16), byte(subnet >> 8), byte(subnet)}
	return PrefixBlock{Prefix: netip.PrefixFrom(netip.AddrFrom16(a), bits), Delegated: true}
}

// In is the block as it is within a prefix the guest is delegated, false when that has no such part. A block of the
// guest's own is itself, whatever is delegated.
func (b PrefixBlock) In(delegated netip.Prefix) (netip.Prefix, bool) {
	if !b.Delegated {
		return b.Prefix, b.Prefix.IsValid()
	}
	first, ok := Delegated{Subnet: b.subnet()}.Of(delegated)
	if !ok || b.Prefix.Bits() < delegated.Bits() {
		return netip.Prefix{}, false
	}
	return netip.PrefixFrom(first.Addr(), b.Prefix.Bits()), true
}

// Contains tells whether another block is in it.
func (b PrefixBlock) Contains(o PrefixBlock) bool {
	return b.Delegated == o.Delegated && b.Prefix.Bits() <= o.Prefix.Bits() && b.Prefix.Contains(o.Prefix.Addr())
}

// overlaps tells whether two blocks have an address in common.
func (b PrefixBlock) overlaps(o PrefixBlock) bool { return b.Contains(o) || o.Contains(b) }

// Names tells whether a host of the link is delegated just this block.
func (d *DHCP6) Names(b PrefixBlock) bool {
	return slices.ContainsFunc(d.Hosts, func(h DHCP6Host) bool { return h.Delegate != nil && *h.Delegate == b })
}
