package profiles

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Bounds of links that are made.
const (
	minMiimon  = 10 // the kernel's clock is no finer
	maxMiimon  = 10_000
	maxVLAN    = 4094 // IEEE 802.1Q, 9.6: 0 is no VLAN and 4095 is reserved
	maxTxQueue = 100_000
	usualMTU   = 1500 // what a NIC has unless told otherwise, IEEE 802.3
)

// devices checks what links are made of, and what that asks of the links they are made of.
func (v *validator) devices() {
	members := map[string]*Link{} // by member
	vlans := map[VLAN]*Link{}
	for i := range v.p.Links {
		l := &v.p.Links[i]
		at := v.places.find(l.At, "links.%s.device", l.Name)
		bad := func(hint, format string, args ...any) {
			v.reject(at, hint, "links.%s: %s", clip(l.Name), fmt.Sprintf(format, args...))
		}
		if kinds := l.kinds(); len(kinds) > 1 {
			bad("make each a link of its own", "%s at once", strings.Join(kinds, " and "))
			continue
		}
		v.hardware(l)
		if l.VLAN != nil {
			if d := *l.VLAN; d.ID < 1 || d.ID > maxVLAN || d.Protocol != Tag8021Q && d.Protocol != Tag8021AD {
				if !v.places.spoilt("links.%s.vlan", l.Name) {
					bad("", "vlan: %d of %s, expected 1 to %d of %s or %s", d.ID, quote(d.Protocol), maxVLAN, Tag8021Q, Tag8021AD)
				}
			} else if first := vlans[d]; first != nil {
				bad("", "VLAN %d of %s is link %s already, at %s", d.ID, clip(d.Parent), clip(first.Name), first.At)
			} else {
				vlans[d] = l
			}
		}
		if l.Bond != nil && !v.places.spoilt("links.%s.bond", l.Name) {
			v.bond(l.Bond, bad)
		}
		if (l.Bond != nil || l.Bridge != nil) && len(l.Members()) == 0 &&
			!v.places.spoilt("links.%s.bond", l.Name) && !v.places.spoilt("links.%s.bridge", l.Name) {
			bad("", "no members")
		}
		for _, name := range l.Members() {
			m := v.part(l, name, "member", bad)
			if m == nil {
				continue
			}
			if first := members[name]; first != nil {
				bad("a link can be in one bond or bridge only", "member %s is one of link %s already, at %s", clip(name),
					clip(first.Name), first.At)
				continue
			}
			members[name] = l
			v.member(l, m, bad)
		}
		if l.Parent() != "" {
			if parent := v.part(l, l.Parent(), "parent", bad); parent != nil {
				v.parent(l, parent, bad)
			}
		}
	}
	for i := range v.p.Links {
		l := &v.p.Links[i]
		if parent := l.Parent(); parent != "" && members[parent] != nil {
			v.reject(v.places.find(l.At, "links.%s.device", l.Name), "name "+clip(members[parent].Name)+" as the parent",
				"links.%s: parent %s is a member of %s", clip(l.Name), clip(parent), clip(members[parent].Name))
		}
	}
	v.loops()
	v.membersInZones(members)
}

// kinds are the words that say what a link is.
func (l *Link) kinds() (all []string) {
	for _, k := range []struct {
		is   bool
		name string
	}{{l.VLAN != nil, "vlan"}, {l.Bond != nil, "bond"}, {l.Bridge != nil, "bridge"}, {l.Macvlan != nil, "macvlan"},
		{l.Dummy, "dummy"}, {l.WireGuard != nil, "wireguard"}} {
		if k.is {
			all = append(all, k.name)
		}
	}
	return all
}

// hardware checks what is a NIC's.
func (v *validator) hardware(l *Link) {
	if l.VLAN != nil && l.MAC != "" {
		v.reject(v.places.find(l.At, "links.%s.mac", l.Name), "make it a macvlan if it needs its own",
			"links.%s.mac: a VLAN has its parent's hardware address", clip(l.Name))
	}
	if at := v.places.find(l.At, "links.%s.virtual_mac", l.Name); l.VirtualMAC != "" {
		if problem := checkMAC(l.VirtualMAC); problem != "" {
			v.reject(at, "", "links.%s.virtual_mac: %s", clip(l.Name), problem)
		} else if !l.NIC() {
			v.reject(at, "write mac", "links.%s.virtual_mac: the link is no NIC, mac is the address it gets", clip(l.Name))
		}
	}
	if l.NoIPv6 {
		for _, own := range l.Addresses {
			if own.Addr().Is6() {
				v.reject(v.places.find(l.At, "links.%s.ipv6", l.Name), "remove one", "links.%s.ipv6: off, and there is %s",
					clip(l.Name), own)
				break
			}
		}
	}
	if l.TxQueue < 0 || l.TxQueue > maxTxQueue {
		v.reject(l.At, "", "links.%s.txqueuelen: %d, expected 1 to %d", clip(l.Name), l.TxQueue, maxTxQueue)
	}
	o := l.Offloads
	for _, s := range []string{o.TX, o.SG, o.TSO, o.GSO, o.GRO, o.LRO} {
		if s != "" && s != On && s != Off {
			v.reject(l.At, "", "links.%s.offloads: expected on or off, found %s", clip(l.Name), quote(s))
		}
	}
	if o != (Offloads{}) && !l.NIC() {
		v.reject(l.At, "set them on the NICs it is made of", "links.%s.offloads: the link is no NIC", clip(l.Name))
	}
}

func (v *validator) bond(b *Bond, bad func(hint, format string, args ...any)) {
	switch {
	case !slices.Contains(bondModes(), b.Mode):
		bad(nearest(b.Mode, bondModes()), "bond.mode: expected one of %s, found %s", strings.Join(bondModes(), ", "),
			quote(b.Mode))
	case b.LACPRate != "" && b.Mode != BondLACP:
		bad("remove it", "bond.lacp_rate: mode %s does not speak LACP", b.Mode)
	case b.LACPRate != "" && !slices.Contains(lacpRates(), b.LACPRate):
		bad("", "bond.lacp_rate: expected slow or fast, found %s", quote(b.LACPRate))
	case b.HashPolicy != "" && b.Mode != BondLACP && b.Mode != BondXOR:
		bad("remove it", "bond.hash_policy: mode %s does not hash", b.Mode)
	case b.Primary != "" && b.Mode != BondActiveBackup:
		bad("remove it", "bond.primary: mode %s uses all members", b.Mode)
	case b.Primary != "" && !slices.Contains(b.Members, b.Primary):
		bad(suggest(b.Primary, b.Members), "bond.primary: %s is no member", quote(b.Primary))
	case b.Miimon != 0 && (b.Miimon < minMiimon || b.Miimon > maxMiimon):
		bad("", "bond.miimon: %d, expected %d to %d milliseconds", b.Miimon, minMiimon, maxMiimon)
	case b.HashPolicy != "" && !slices.Contains(hashPolicies(), b.HashPolicy):
		bad("", "bond.hash_policy: expected one of %s, found %s", strings.Join(hashPolicies(), ", "), quote(b.HashPolicy))
	}
}

// part finds a link that another is made of or on.
func (v *validator) part(l *Link, name, what string, bad func(hint, format string, args ...any)) *Link {
	switch m := v.link(name); {
	case name == l.Name:
		bad("name another", "%s %s is the link itself", what, clip(name))
	case m == nil:
		bad(suggest(name, v.linkNames()), "unknown %s %s", what, quote(name))
	default:
		return m
	}
	return nil
}

// member checks a member of a bond or bridge.
func (v *validator) member(l, m *Link, bad func(hint, format string, args ...any)) {
	switch {
	case l.Bond != nil && !m.NIC():
		bad("", "member %s is no NIC", clip(m.Name))
		return
	case m.Bridge != nil || m.Macvlan != nil || m.WireGuard != nil:
		bad("", "member %s is a %s, expected a NIC, a bond, a VLAN or a dummy", clip(m.Name), m.kinds()[0])
		return
	case l.Bond != nil && m.VirtualMAC != "":
		bad("write mac at the bond", "member %s has a virtual_mac, but a bond's members all have the bond's", clip(m.Name))
	}
	if m.addressed() {
		v.reject(m.At, "give it to "+clip(l.Name), "links.%s: a member of %s has no address, gateway or routes of its own",
			clip(m.Name), clip(l.Name))
	}
	if m.MTU != 0 && m.MTU != cmp.Or(l.MTU, usualMTU) {
		v.reject(v.places.find(m.At, "links.%s.mtu", m.Name), "give both the same", "links.%s.mtu: %d, but that of %s is %d",
			clip(m.Name), m.MTU, clip(l.Name), cmp.Or(l.MTU, usualMTU))
	}
	if p := v.link(m.Parent()); p != nil && m.MTU == 0 && l.MTU == 0 && v.p.EffectiveMTU(p) != usualMTU {
		v.reject(m.At, "write mtu at "+clip(l.Name)+" or at "+clip(m.Name), "links.%s: it has the MTU of its parent %s, %d,"+
			" but that of %s is %d", clip(m.Name), clip(p.Name), v.p.EffectiveMTU(p), clip(l.Name), usualMTU)
	}
}

// addressed tells whether a link takes part in IP itself.
func (l *Link) addressed() bool {
	return len(l.Addresses) > 0 || l.DHCP || l.Learns6() || l.Instance || l.InstanceGateway ||
		len(l.Gateways) > 0 || len(l.Routes) > 0
}

// parent checks the link that a VLAN or macvlan is on.
func (v *validator) parent(l, parent *Link, bad func(hint, format string, args ...any)) {
	if l.Macvlan != nil && (parent.Macvlan != nil || parent.Bridge != nil || parent.Dummy) || parent.WireGuard != nil {
		what := "a NIC, a bond or a VLAN"
		if l.VLAN != nil {
			what = "a link of Ethernet"
		}
		bad("", "parent %s is a %s, expected %s", clip(parent.Name), parent.kinds()[0], what)
	}
	if has, wants := v.p.EffectiveMTU(parent), v.p.EffectiveMTU(l); wants > has {
		v.reject(v.places.find(l.At, "links.%s.mtu", l.Name), "raise that of "+clip(parent.Name)+", or lower this",
			"links.%s.mtu: %d, more than the %d of its parent %s", clip(l.Name), wants, has, clip(parent.Name))
	}
}

// loops finds links that are made of themselves.
func (v *validator) loops() {
	const visiting, done = 1, 2
	state := map[string]int{}
	var visit func(l *Link) bool
	visit = func(l *Link) bool {
		switch state[l.Name] {
		case visiting:
			return false
		case done:
			return true
		}
		state[l.Name] = visiting
		good := true
		for _, name := range append(l.Members(), l.Parent()) {
			if part := v.link(name); part != nil && part != l {
				good = visit(part) && good
			}
		}
		state[l.Name] = done
		return good
	}
	for i := range v.p.Links {
		l := &v.p.Links[i]
		if !visit(l) {
			v.reject(v.places.find(l.At, "links.%s.device", l.Name), "a link cannot be made of itself",
				"links.%s: its parents and members lead back to it", clip(l.Name))
		}
	}
}

// membersInZones finds zones on links whose packets arrive under another name.
func (v *validator) membersInZones(members map[string]*Link) {
	for _, z := range v.p.Zones {
		for i, m := range z.Members {
			if master := members[m.Link]; master != nil && master.Bridge == nil {
				v.reject(v.places.find(z.At, "zones.%s.members[%d]", z.Name, i), "name "+clip(master.Name),
					"zones.%s: link %s is a member of %s, its packets come by that", clip(z.Name), clip(m.Link),
					clip(master.Name))
			}
		}
	}
}
