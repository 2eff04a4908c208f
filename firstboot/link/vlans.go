package link

import (
	"slices"
	"strings"

	"rempart/profiles"
)

// maxVLAN is the last VLAN there is (IEEE 802.1Q, 9.6).
const maxVLAN = 4094

// VLANs are neighbouring VLANs that a port of a bridge takes part in alike.
type VLANs struct {
	First, Last int
	Untagged    bool // they leave without their tag
	PVID        bool // of what arrives without a tag; one VLAN only
}

func (v VLANs) String() string {
	s := profiles.VLANRange{First: v.First, Last: v.Last}.String()
	if v.PVID {
		s += " pvid"
	}
	if v.Untagged {
		s += " untagged"
	}
	return s
}

func vlanText(list []VLANs) string {
	var words []string
	for _, v := range list {
		words = append(words, v.String())
	}
	return strings.Join(words, ", ")
}

// normal sorts VLANs, joins neighbours that are alike, and lets the PVID stand by itself. The list does not overlap.
func normal(list []VLANs) []VLANs {
	slices.SortFunc(list, func(a, b VLANs) int { return a.First - b.First })
	var out []VLANs
	for _, v := range list {
		if n := len(out); n > 0 && !v.PVID {
			if last := &out[n-1]; last.Last+1 == v.First && last.Untagged == v.Untagged && !last.PVID {
				last.Last = v.Last
				continue
			}
		}
		out = append(out, v)
	}
	return out
}

// portVLANs are those of a port of the bridge l, which may be the bridge itself.
func portVLANs(p *profiles.Profile, l *profiles.Link, port string) []VLANs {
	if l == nil || l.Bridge == nil || len(l.Bridge.Ports) == 0 {
		return nil
	}
	var table [maxVLAN + 1]VLANs
	put := func(ranges []profiles.VLANRange, untagged bool, pvid int) {
		for _, r := range ranges {
			for id := r.First; id <= r.Last; id++ {
				table[id] = VLANs{First: id, Last: id, Untagged: untagged, PVID: id == pvid}
			}
		}
	}
	if port == l.Name {
		for _, child := range p.Links {
			if child.VLAN != nil && child.VLAN.Parent == l.Name {
				put([]profiles.VLANRange{{First: child.VLAN.ID, Last: child.VLAN.ID}}, false, 0)
			}
		}
	}
	for _, b := range l.Bridge.Ports {
		if b.Link == port {
			put(b.Tagged, false, b.PVID)
			put(b.Untagged, true, b.PVID)
		}
	}
	return entries(table[:])
}

// entries are the VLANs of a table by their number.
func entries(table []VLANs) []VLANs {
	return normal(slices.DeleteFunc(slices.Clone(table), func(v VLANs) bool { return v.First == 0 }))
}

// vlans takes foreign VLANs from a port, then gives it those it lacks. What joins a bridge has none yet: no port is in
// a VLAN that nobody gave it, for bridges are made without a default one.
func (d *differ) vlans(joins bool) {
	h, w := d.have, d.want
	if w.Kept || w.Claim == "" || w.Bridging == nil && w.Master == 0 {
		return // the last: its bridge is not there yet
	}
	if joins {
		h.VLANs = nil
	}
	if slices.Equal(h.VLANs, w.VLANs) {
		return
	}
	var had, add, remove [maxVLAN + 1]VLANs
	each := func(list []VLANs, do func(VLANs)) {
		for _, v := range list {
			for id := v.First; id <= v.Last; id++ {
				do(VLANs{First: id, Last: id, Untagged: v.Untagged, PVID: v.PVID})
			}
		}
	}
	each(h.VLANs, func(v VLANs) { had[v.First] = v; remove[v.First] = v })
	each(w.VLANs, func(v VLANs) {
		remove[v.First] = VLANs{}
		if had[v.First] != v {
			add[v.First] = v
		}
	})
	self := w.Bridging != nil
	if list := entries(remove[:]); len(list) > 0 {
		for i := range list {
			list[i].PVID, list[i].Untagged = false, false
		}
		d.add(Change{Kind: DeleteVLANs, VLANs: normal(list), Self: self})
	}
	if list := entries(add[:]); len(list) > 0 {
		d.add(Change{Kind: AddVLANs, VLANs: list, Self: self})
	}
}
