package link

import (
	"cmp"
	"slices"

	"rempart/profiles"
)

// Device is what an interface is made as: comparable, so that one that is made otherwise is told at once. The zero
// value is a NIC.
type Device struct {
	Kind     string // one of the Kind constants; empty: a NIC, or something nobody here makes
	ID       int    // VLAN; bridge: the VLAN that every port has by itself, which is none
	Protocol uint16 // VLAN: the Ethernet type of its tag
	Mode     int    // bond: BOND_MODE_*; macvlan: MACVLAN_MODE_*
	LACPFast bool   // bond that speaks LACP
	Hash     int    // bond that hashes: BOND_XMIT_POLICY_*
	Miimon   int    // bond: how often carriers are looked at, in milliseconds
}

// Kinds, as the kernel calls them (rtnl_link_ops.kind).
const (
	KindVLAN    = "vlan"
	KindBond    = "bond"
	KindBridge  = "bridge"
	KindMacvlan = "macvlan"
	KindDummy   = "dummy"
	KindTunnel  = "wireguard"
)

// made tells whether this program makes interfaces of a kind, so that they are no NICs.
func made(kind string) bool {
	return slices.Contains([]string{KindVLAN, KindBond, KindBridge, KindMacvlan, KindDummy, KindTunnel}, kind)
}

// miimon is the usual interval, in milliseconds; without one a bond never notices a member without carrier
// (bonding.rst: miimon).
const miimon = 100

// Ethernet types of VLAN tags, linux/if_ether.h: ETH_P_8021Q, ETH_P_8021AD.
const (
	tag8021Q  = 0x8100
	tag8021AD = 0x88a8
)

// Numbers of bonding modes and hash policies, linux/if_bonding.h.
var (
	bondModes = map[string]int{profiles.BondRoundRobin: 0, profiles.BondActiveBackup: 1, profiles.BondXOR: 2,
		profiles.BondLACP: 4}
	hashPolicies = map[string]int{"": 0, "layer2": 0, "layer3+4": 1, "layer2+3": 2, "encap2+3": 3, "encap3+4": 4}
)

// macvlanBridge is MACVLAN_MODE_BRIDGE of linux/if_link.h: macvlans on one parent reach each other.
const macvlanBridge = 4

// hashes tells whether a mode of bonding has a hash policy.
func hashes(mode int) bool {
	return mode == bondModes[profiles.BondLACP] || mode == bondModes[profiles.BondXOR]
}

// device is what a link of the profile is made as.
func device(l profiles.Link) Device {
	switch {
	case l.VLAN != nil:
		d := Device{Kind: KindVLAN, ID: l.VLAN.ID, Protocol: tag8021Q}
		if l.VLAN.Protocol == profiles.Tag8021AD {
			d.Protocol = tag8021AD
		}
		return d
	case l.Bond != nil:
		return Device{Kind: KindBond, Mode: bondModes[l.Bond.Mode], LACPFast: l.Bond.LACPRate == "fast",
			Hash: hashPolicies[l.Bond.HashPolicy], Miimon: cmp.Or(l.Bond.Miimon, miimon)}
	case l.Bridge != nil:
		return Device{Kind: KindBridge}
	case l.Macvlan != nil:
		return Device{Kind: KindMacvlan, Mode: macvlanBridge}
	case l.Dummy:
		return Device{Kind: KindDummy}
	case l.WireGuard != nil:
		return Device{Kind: KindTunnel}
	}
	return Device{}
}

// Found is what Devices made of the interfaces there are.
type Found struct {
	Made    []Assignment
	Remove  []Change // first
	Create  []Change // last: what they are made on has its name by then
	Waiting []Warning
}

// Devices finds the interfaces of links that this program makes, and says what is to be removed because it is made
// otherwise, and made because it is missing. A link whose parent is not there waits for it. It is pure.
func Devices(plan Plan, have []Interface, nics []Assignment) Found {
	d := devices{plan: plan, have: have, index: map[string]int{}, gone: map[int]bool{}}
	for _, a := range nics {
		d.index[plan.Links[a.Link].Name] = a.NIC.Index
	}
	for _, h := range have {
		wanted := slices.ContainsFunc(plan.Links, func(l Link) bool { return l.Name == h.Claim && l.Device.Kind != "" })
		if made(h.Device.Kind) && h.Claim != "" && !wanted {
			d.remove(h)
		}
	}
	for _, i := range inOrder(plan) {
		d.link(i, nics)
	}
	return d.found
}

type devices struct {
	plan  Plan
	have  []Interface
	index map[string]int // ifindex of links that are there, 0 for one that is just being made
	gone  map[int]bool
	found Found
}

func (d *devices) remove(h Interface) {
	d.gone[h.Index] = true
	d.found.Remove = append(d.found.Remove, Change{Kind: DeleteLink, Index: h.Index, Link: h.Name})
}

func (d *devices) link(i int, nics []Assignment) {
	l := d.plan.Links[i]
	if l.Closed != "" {
		for _, h := range d.candidates(l.Name) {
			d.remove(h)
		}
		d.found.Waiting = append(d.found.Waiting, Warning{l.Name, l.Closed})
		return
	}
	parent, there := d.index[l.Parent]
	if l.Parent != "" && !there {
		d.found.Waiting = append(d.found.Waiting, Warning{l.Name, "waiting for link " + l.Parent})
		return
	}
	for _, h := range d.candidates(l.Name) {
		if h.Device == l.Device && (l.Parent == "" || h.Parent == parent) {
			d.index[l.Name] = h.Index
			d.found.Made = append(d.found.Made, Assignment{i, NIC{Index: h.Index, Name: h.Name, MAC: h.MAC}, ByMaking})
			return
		}
		d.remove(h)
	}
	at := slices.IndexFunc(d.have, func(h Interface) bool { return h.Name == l.Name && !d.gone[h.Index] })
	if at >= 0 {
		h := d.have[at]
		if slices.ContainsFunc(nics, func(a Assignment) bool { return a.NIC.Index == h.Index }) {
			d.found.Waiting = append(d.found.Waiting, Warning{l.Name, "another link has its name still"})
			return
		}
		if h.Up {
			d.found.Remove = append(d.found.Remove, Change{Kind: SetDown, Index: h.Index, Link: h.Name})
		}
		taken := map[string]int{}
		for _, other := range d.have {
			taken[other.Name] = other.Index
		}
		d.found.Remove = append(d.found.Remove,
			Change{Kind: SetName, Index: h.Index, Link: h.Name, Name: freeName(taken, h.Index)})
	}
	d.index[l.Name] = 0
	d.found.Waiting = append(d.found.Waiting, Warning{l.Name, "it is being made"})
	d.found.Create = append(d.found.Create, Change{Kind: CreateLink, Link: l.Name, Device: l.Device, On: l.Parent,
		MAC: l.MAC, Like: l.Members, Bridging: Bridging{VLANs: l.Filters}})
}

// candidates are the interfaces that may be a link: the one that was given to it, wherever its name has gone, then the
// one that has its name.
func (d *devices) candidates(name string) []Interface {
	var out []Interface
	for _, byClaim := range []bool{true, false} {
		for _, h := range d.have {
			if made(h.Device.Kind) && !d.gone[h.Index] && (h.Claim == name) == byClaim && (byClaim || h.Name == name) {
				out = append(out, h)
			}
		}
	}
	return out
}

// inOrder are the links that are made, each behind what it is made on. The profile has no loops.
func inOrder(plan Plan) []int {
	place := map[string]int{}
	for i, l := range plan.Links {
		place[l.Name] = i
	}
	var out []int
	seen := map[int]bool{}
	var visit func(i int)
	visit = func(i int) {
		l := plan.Links[i]
		if seen[i] || l.Device.Kind == "" {
			return
		}
		seen[i] = true
		if j, ok := place[l.Parent]; ok {
			visit(j)
		}
		out = append(out, i)
	}
	for i := range plan.Links {
		visit(i)
	}
	return out
}
