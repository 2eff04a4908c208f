package profiles

import (
	"slices"
	"strconv"
)

// VLAN is a link that is one VLAN of another.
type VLAN struct {
	Parent   string `json:"parent"`
	ID       int    `json:"id"`       // 1 to 4094
	Protocol string `json:"protocol"` // Tag8021Q or Tag8021AD
}

// Tags of VLANs: the usual one, and the outer one of two (IEEE 802.1ad, QinQ).
const (
	Tag8021Q  = "802.1q"
	Tag8021AD = "802.1ad"
)

// Bond is a link made of several that carry the same traffic.
type Bond struct {
	Members    []string `json:"members"`
	Mode       string   `json:"mode"`
	LACPRate   string   `json:"lacp_rate,omitempty"`   // "slow" or "fast"; 802.3ad only
	HashPolicy string   `json:"hash_policy,omitempty"` // 802.3ad and balance-xor only
	Primary    string   `json:"primary,omitempty"`     // active-backup only: the member used whenever it has carrier
	Miimon     int      `json:"miimon,omitempty"`      // how often carriers are looked at, in milliseconds; 0: 100
}

// Modes of a bond, Documentation/networking/bonding.rst.
const (
	BondLACP         = "802.3ad"
	BondActiveBackup = "active-backup"
	BondXOR          = "balance-xor"
	BondRoundRobin   = "balance-rr"
)

func bondModes() []string { return []string{BondLACP, BondActiveBackup, BondXOR, BondRoundRobin} }

// hashPolicies choose the member a packet goes by.
func hashPolicies() []string {
	return []string{"layer2", "layer2+3", "layer3+4", "encap2+3", "encap3+4"}
}

func lacpRates() []string { return []string{"slow", "fast"} }

// Bridge is a link that joins others to one segment. When zones are on its members, the policy between these zones
// judges what passes from one member to another; when none is, everything passes.
type Bridge struct {
	Members []string `json:"members"`
	// Ports: which VLANs each member, and the bridge itself, take part in. Empty: the bridge does not look at tags.
	Ports []BridgePort `json:"ports,omitempty"`
}

// BridgePort are the VLANs of one port of a bridge. Frames of others are dropped, in both directions. The bridge itself
// also takes part, tagged, in those that have a VLAN link on it.
type BridgePort struct {
	Link string `json:"link"`           // a member, or the bridge: what the guest itself sends and takes
	PVID int    `json:"pvid,omitempty"` // of what arrives without a tag, 1 to 4094; 0: that is dropped
	// Untagged and Tagged are what leaves without and with its tag. One of them has PVID.
	Untagged []VLANRange `json:"untagged,omitempty"`
	Tagged   []VLANRange `json:"tagged,omitempty"`
	At       Pos         `json:"at"`
}

// VLANRange is First to Last, both included; Last equals First for a single VLAN.
type VLANRange struct {
	First int `json:"first"`
	Last  int `json:"last"`
}

// String is "10" or "10-20".
func (r VLANRange) String() string {
	if r.First == r.Last {
		return strconv.Itoa(r.First)
	}
	return strconv.Itoa(r.First) + "-" + strconv.Itoa(r.Last)
}

// Macvlan is a link that is a further hardware address on another.
type Macvlan struct {
	Parent string `json:"parent"`
}

// Offloads are what the NIC does for the kernel; an empty one is left as it is.
type Offloads struct {
	TX  string `json:"tx,omitempty"` // checksums of what is sent
	SG  string `json:"sg,omitempty"` // scatter-gather
	TSO string `json:"tso,omitempty"`
	GSO string `json:"gso,omitempty"`
	GRO string `json:"gro,omitempty"`
	LRO string `json:"lro,omitempty"`
}

// Positions of a switch.
const (
	On  = "on"
	Off = "off"
)

// NIC tells whether the link is a NIC, and not made by the guest.
func (l *Link) NIC() bool {
	return l.VLAN == nil && l.Bond == nil && l.Bridge == nil && l.Macvlan == nil && !l.Dummy &&
		l.WireGuard == nil
}

// Parent is the link this one is made on; empty: none.
func (l *Link) Parent() string {
	switch {
	case l.VLAN != nil:
		return l.VLAN.Parent
	case l.Macvlan != nil:
		return l.Macvlan.Parent
	}
	return ""
}

// Members are the links this one is made of.
func (l *Link) Members() []string {
	switch {
	case l.Bond != nil:
		return l.Bond.Members
	case l.Bridge != nil:
		return l.Bridge.Members
	}
	return nil
}

// Filters tells whether a bridge asks the policy about what passes between its members: one of them is in a zone.
func (p *Profile) Filters(bridge *Link) bool {
	return bridge.Bridge != nil && slices.ContainsFunc(p.Zones, func(z Zone) bool {
		return slices.ContainsFunc(z.Members, func(m Member) bool { return slices.Contains(bridge.Bridge.Members, m.Link) })
	})
}

// Bridged tells whether a zone is on members of bridges: it is about what passes there, and nothing that is routed.
func (p *Profile) Bridged(z *Zone) bool {
	return slices.ContainsFunc(z.Members, func(m Member) bool {
		master := p.MasterOf(m.Link)
		return master != nil && master.Bridge != nil
	})
}

// EffectiveMTU is the MTU a link will have unless its NIC or a DHCP server says otherwise: its own, that of what it is
// a member of, its parent's, what a tunnel leaves, or the usual one.
func (p *Profile) EffectiveMTU(l *Link) int { return p.mtu(l, true) }

// mtu is EffectiveMTU; without tunnels, one that a link is wrongly made on is not looked into, for its own MTU may be
// asked for because of that link.
func (p *Profile) mtu(l *Link, tunnels bool) int {
	for range p.Links { // no further: there may be a loop
		if l.MTU != 0 {
			return l.MTU
		}
		if l.WireGuard != nil {
			return p.tunnelMTU(l)
		}
		if master := p.MasterOf(l.Name); master != nil && master.MTU != 0 {
			return master.MTU
		}
		next := p.byName(l.Parent())
		if next == nil || next.WireGuard != nil && !tunnels {
			break
		}
		l = next
	}
	return usualMTU
}

// NICs are the links a guest needs a NIC for, in bus order.
func (p *Profile) NICs() []Link {
	all := make([]Link, 0, len(p.Links))
	for i := range p.Links {
		if p.Links[i].NIC() {
			all = append(all, p.Links[i])
		}
	}
	return all
}

// MasterOf is the bond or bridge a link is a member of; nil: none.
func (p *Profile) MasterOf(link string) *Link {
	for i := range p.Links {
		for _, m := range p.Links[i].Members() {
			if m == link {
				return &p.Links[i]
			}
		}
	}
	return nil
}

// Carries tells whether another link is made on this one.
func (p *Profile) Carries(link string) bool {
	for i := range p.Links {
		if p.Links[i].Parent() == link {
			return true
		}
	}
	return false
}
