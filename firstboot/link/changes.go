package link

import (
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// Kind is what a Change does.
type Kind int

// The kinds.
const (
	SetDown Kind = iota
	SetName
	SetClaim
	SetMTU
	SetSysctl
	AddAddress // or set its lifetime
	DeleteAddress
	SetUp
	AddRoute // or replace the one of the same destination and metric
	DeleteRoute
	AddRule
	DeleteRule
	CreateLink
	DeleteLink
	SetMAC
	SetMaster // 0: none
	SetTxQueue
	SetARP
	SetOffload
	SetBridging
	SetFullDuplex
	AddVLANs // or set how they leave
	DeleteVLANs
	SetPrimary // Master: the member; 0: none
	SetTunnel  // private key and port
	SetPeer
	DeletePeer
)

// Change is one difference between what is and what is wanted, in the terms of the kernel.
type Change struct {
	Kind    Kind
	Index   int    // ifindex
	Link    string // its name when the change is made
	Name    string // SetName, SetClaim: the new value
	MTU     int    // SetMTU
	Sysctl  Sysctl // SetSysctl
	Address Address
	Route   Route
	Rule    Rule

	Device   Device   // CreateLink
	On       string   // CreateLink: name of its parent
	Like     []string // CreateLink: members, one of which lends its hardware address
	MAC      string   // CreateLink, SetMAC
	Master   int      // SetMaster
	Number   int      // SetTxQueue
	Switch   bool     // SetARP, SetOffload
	Offload  Offload
	Bridging Bridging
	VLANs    []VLANs // AddVLANs, DeleteVLANs
	Self     bool    // AddVLANs, DeleteVLANs: of the bridge itself
	Tunnel   *Tunnel // SetTunnel
	Peer     *Peer   // SetPeer, DeletePeer
}

// Closing reports whether a link on which this change failed must not be brought up: it would be up under a wrong
// name, which the policy does not know, or without a switch that protects it, as a bridge that joins too much, or as a
// tunnel to strangers.
func (c Change) Closing() bool {
	switch c.Kind {
	case SetName, SetClaim, SetSysctl, SetUp, SetMaster, SetBridging, DeleteVLANs, SetTunnel, DeletePeer:
		return true
	}
	return false
}

func (c Change) String() string {
	switch c.Kind {
	case SetDown:
		return c.Link + ": down"
	case SetName:
		return fmt.Sprintf("%s: rename to %s", c.Link, c.Name)
	case SetClaim:
		return fmt.Sprintf("%s: claim as %q", c.Link, c.Name)
	case SetMTU:
		return fmt.Sprintf("%s: mtu %d", c.Link, c.MTU)
	case SetSysctl:
		return fmt.Sprintf("%s: sysctl %s=%s", c.Link, c.Sysctl.For(c.Link), c.Sysctl.Value)
	case AddAddress:
		if c.Address.Valid > 0 {
			return fmt.Sprintf("%s: address %s for %s", c.Link, c.Address.Prefix, c.Address.Valid.Round(time.Second))
		}
		return fmt.Sprintf("%s: address %s", c.Link, c.Address.Prefix)
	case DeleteAddress:
		return fmt.Sprintf("%s: remove address %s", c.Link, c.Address.Prefix)
	case SetUp:
		return c.Link + ": up"
	case AddRoute:
		return fmt.Sprintf("%s: route %s", c.Link, c.Route)
	case DeleteRoute:
		return fmt.Sprintf("%s: remove route %s", c.Link, c.Route)
	case CreateLink:
		s := fmt.Sprintf("%s: make a %s", c.Link, c.Device.Kind)
		if c.On != "" {
			s += " on " + c.On
		}
		return s
	case DeleteLink:
		return c.Link + ": remove it"
	case SetMAC:
		return fmt.Sprintf("%s: hardware address %s", c.Link, c.MAC)
	case SetMaster:
		if c.Master == 0 {
			return c.Link + ": leave what it is a member of"
		}
		return fmt.Sprintf("%s: member of interface %d", c.Link, c.Master)
	case SetTxQueue:
		return fmt.Sprintf("%s: txqueuelen %d", c.Link, c.Number)
	case SetARP:
		return fmt.Sprintf("%s: arp %s", c.Link, position(c.Switch))
	case SetOffload:
		return fmt.Sprintf("%s: %s %s", c.Link, c.Offload, position(c.Switch))
	case SetFullDuplex:
		return c.Link + ": full duplex"
	case SetBridging:
		return fmt.Sprintf("%s: %s", c.Link, c.Bridging)
	case SetPrimary:
		if c.Master == 0 {
			return c.Link + ": no member before the others"
		}
		return fmt.Sprintf("%s: interface %d before the others", c.Link, c.Master)
	case AddVLANs:
		return fmt.Sprintf("%s: VLANs %s", c.Link, vlanText(c.VLANs))
	case DeleteVLANs:
		return fmt.Sprintf("%s: remove VLANs %s", c.Link, vlanText(c.VLANs))
	case SetTunnel:
		return c.Link + ": private key and port"
	case SetPeer:
		return fmt.Sprintf("%s: peer %s", c.Link, c.Peer.Name)
	case DeletePeer:
		return fmt.Sprintf("%s: remove peer %s", c.Link, c.Peer.Name)
	case AddRule:
		return fmt.Sprintf("%s: %s", c.Link, c.Rule)
	default:
		return fmt.Sprintf("%s: remove %s", c.Link, c.Rule)
	}
}

func position(on bool) string {
	if on {
		return "on"
	}
	return "off"
}

func (r Route) String() string {
	s := r.Dst.String()
	if r.Dead != "" {
		s = string(r.Dead) + " " + s
	}
	if r.Gateway.IsValid() {
		s += " via " + r.Gateway.String()
	}
	if r.OnLink {
		s += " onlink"
	}
	if r.Source.IsValid() {
		s += " src " + r.Source.String()
	}
	if r.Table != 0 {
		s += fmt.Sprintf(" table %d", r.Table)
	}
	return fmt.Sprintf("%s metric %d", s, r.Metric)
}

// lifetimeSlack is how far two lifetimes may differ and still be the same: the kernel counts whole seconds, and time
// passes between looking and comparing.
const lifetimeSlack = 3 * time.Second

// Changes lists what makes have into want, in an order the kernel takes. Interfaces of have that want does not
// mention are left alone, but their names are taken. It is pure, and Changes of a state and itself is empty.
//
// What the kernel makes by itself is left alone: routes of protocol kernel, and link-local IPv6 addresses. All else
// on a wanted interface that is not wanted goes.
//
// Ports leave bridges and VLANs before any joins: of two that change places, the first would otherwise meet the other
// where neither what was nor what is wanted has them together, and a bridge asks no policy.
func Changes(have, want []Interface) []Change {
	out := renames(have, want)
	byIndex := map[int]Interface{}
	for _, h := range have {
		byIndex[h.Index] = h
	}
	renamedDown := map[int]bool{}
	for _, c := range out {
		if c.Kind == SetDown {
			renamedDown[c.Index] = true
		}
	}
	var all []differ
	for _, w := range want {
		h, ok := byIndex[w.Index]
		if !ok {
			continue // it went away; the event of that is on its way
		}
		h.Up = h.Up && !renamedDown[h.Index]
		d := differ{have: h, want: w}
		d.leave()
		out = append(out, d.out...)
		d.out = nil
		all = append(all, d)
	}
	for _, d := range all {
		w := d.want
		d.interfaceItself()
		var left []Change
		if !w.Kept {
			left = d.addresses()
		}
		if !d.have.Up {
			d.out, left = append(d.out, left...), nil
		}
		if w.Up && !d.have.Up {
			d.add(Change{Kind: SetUp})
		}
		if !w.Kept && w.Up {
			d.routes()
		}
		out = append(append(out, d.out...), left...)
	}
	return out
}

// differ compares one interface.
type differ struct {
	have, want Interface
	out        []Change
}

func (d *differ) add(c Change) {
	c.Index, c.Link = d.want.Index, d.want.Name
	d.out = append(d.out, c)
}

func (d *differ) interfaceItself() {
	h, w := d.have, d.want
	joins := w.Master != h.Master && !w.Kept
	mac := w.MAC != "" && w.MAC != h.MAC
	if h.Up && (!w.Up || joins && w.Enslaves || mac) {
		d.add(Change{Kind: SetDown})
		d.have.Up = false
	}
	if mac {
		d.add(Change{Kind: SetMAC, MAC: w.MAC})
	}
	d.settings()
	if w.Claim != "" && h.Claim != w.Claim {
		d.add(Change{Kind: SetClaim, Name: w.Claim})
	}
	if w.MTU != 0 && h.MTU != w.MTU {
		d.add(Change{Kind: SetMTU, MTU: w.MTU})
	}
	for _, s := range w.Sysctls {
		if v, ok := h.Values[s.Path]; v != s.Value && (ok || !s.Optional) {
			d.add(Change{Kind: SetSysctl, Sysctl: s})
		}
	}
	if joins && w.Master != 0 {
		d.add(Change{Kind: SetMaster, Master: w.Master})
	}
	d.joinVLANs()
	d.tunnel()
}

// leave ends what the interface is a member of and is not to be.
func (d *differ) leave() {
	if d.want.Master != d.have.Master && !d.want.Kept {
		if d.have.Master != 0 {
			d.add(Change{Kind: SetMaster})
		}
		// What joins a bridge has no VLAN yet: bridges are made without a default one.
		d.have.VLANs = nil
	}
	d.leaveVLANs()
}

// settings are those of the NIC and of the kernel's queue before it.
func (d *differ) settings() {
	h, w := d.have, d.want
	if w.Kept || w.Claim == "" {
		return // nobody's, or a spare NIC
	}
	if w.TxQueue != 0 && h.TxQueue != w.TxQueue {
		d.add(Change{Kind: SetTxQueue, Number: w.TxQueue})
	}
	if h.NoARP != w.NoARP {
		d.add(Change{Kind: SetARP, Switch: !w.NoARP})
	}
	if w.FullDuplex && !h.FullDuplex {
		d.add(Change{Kind: SetFullDuplex})
	}
	if h.Primary != w.Primary {
		d.add(Change{Kind: SetPrimary, Master: w.Primary})
	}
	if w.Bridging != nil && h.Bridging != nil && *h.Bridging != *w.Bridging {
		d.add(Change{Kind: SetBridging, Bridging: *w.Bridging})
	}
	for _, on := range []bool{false, true} { // see offloads
		for i := range offloads {
			o := offloads[i].name
			if on {
				o = offloads[len(offloads)-1-i].name
			}
			if want, ok := w.Offloads[o]; ok && want == on && h.Offloads[o] != on {
				d.add(Change{Kind: SetOffload, Offload: o, Switch: on})
			}
		}
	}
}

// addresses adds before it removes, so that an address that moves within a subnet takes nothing with it; except
// where the same address only changes its length, which IPv6 refuses while the old one is there. What it returns is to
// be removed once the routes are there: those from an address go with it, and until others stand in their place packets
// would have no way out.
func (d *differ) addresses() (left []Change) {
	var add, before []Change
	for _, a := range d.want.Addresses {
		i := slices.IndexFunc(d.have.Addresses, func(h Address) bool { return h.Prefix == a.Prefix })
		if i < 0 || !sameLifetimes(d.have.Addresses[i], a) {
			add = append(add, Change{Kind: AddAddress, Address: a})
		}
	}
	for _, h := range d.have.Addresses {
		if slices.ContainsFunc(d.want.Addresses, func(a Address) bool { return a.Prefix == h.Prefix }) {
			continue
		}
		c := Change{Kind: DeleteAddress, Index: d.want.Index, Link: d.want.Name, Address: Address{Prefix: h.Prefix}}
		switch ip := h.Prefix.Addr(); {
		case slices.ContainsFunc(d.want.Addresses, func(a Address) bool { return a.Prefix.Addr() == ip }):
			before = append(before, c)
		case ip.Is6() && ip.IsLinkLocalUnicast():
		default:
			left = append(left, c)
		}
	}
	for _, c := range slices.Concat(before, add) {
		d.add(c)
	}
	return left
}

func sameLifetimes(a, b Address) bool {
	return sameLifetime(a.Valid, b.Valid) && (a.Valid == 0 || (a.Preferred-b.Preferred).Abs() <= lifetimeSlack)
}

func sameLifetime(a, b time.Duration) bool {
	if (a == 0) != (b == 0) {
		return false
	}
	return (a - b).Abs() <= lifetimeSlack
}

// routes sets the wanted routes and removes the others. When the link was down the kernel had forgotten its routes,
// so none are compared then.
func (d *differ) routes() {
	have := d.have.Routes
	if !d.have.Up {
		have = nil
	}
	set := map[slot]bool{}
	for _, r := range d.want.Routes {
		if !slices.Contains(have, r) && d.usable(r.Source) {
			d.add(Change{Kind: AddRoute, Route: r})
			set[r.slot()] = true
		}
	}
	for _, h := range have {
		if h.Protocol == ProtocolKernel || slices.Contains(d.want.Routes, h) || set[h.slot()] && !h.Multipath {
			continue
		}
		d.add(Change{Kind: DeleteRoute, Route: h})
	}
}

// usable tells whether the kernel takes an address of this link as the source of a route. An IPv6 address it still
// checks for duplicates it does not (ip6_route_info_create); the end of the check is an event, which leads here again.
func (d *differ) usable(source netip.Addr) bool {
	if !source.IsValid() || source.Is4() {
		return true
	}
	same := func(a Address) bool { return a.Prefix.Addr() == source }
	if !slices.ContainsFunc(d.want.Addresses, same) {
		return true // that of another link
	}
	i := slices.IndexFunc(d.have.Addresses, same)
	return i >= 0 && !d.have.Addresses[i].Tentative
}
