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

// onVLANs tells whether an interface may have VLANs: it is a bridge, or a port of one that is there.
func (w Interface) onVLANs() bool {
	return !w.Kept && w.Claim != "" && (w.Bridging != nil || w.Master != 0)
}

// each does something with the VLANs of a list one by one.
func each(list []VLANs, do func(VLANs)) {
	for _, v := range list {
		for id := v.First; id <= v.Last; id++ {
			do(VLANs{First: id, Last: id, Untagged: v.Untagged, PVID: v.PVID})
		}
	}
}

// leaveVLANs takes foreign VLANs from a port.
func (d *differ) leaveVLANs() {
	if !d.want.onVLANs() {
		return
	}
	var remove [maxVLAN + 1]VLANs
	each(d.have.VLANs, func(v VLANs) { remove[v.First] = VLANs{First: v.First, Last: v.First} })
	each(d.want.VLANs, func(v VLANs) { remove[v.First] = VLANs{} })
	if list := entries(remove[:]); len(list) > 0 {
		d.add(Change{Kind: DeleteVLANs, VLANs: list, Self: d.want.Bridging != nil})
	}
}

// joinVLANs gives a port the VLANs it lacks.
func (d *differ) joinVLANs() {
	if !d.want.onVLANs() {
		return
	}
	var had, add [maxVLAN + 1]VLANs
	each(d.have.VLANs, func(v VLANs) { had[v.First] = v })
	each(d.want.VLANs, func(v VLANs) {
		if had[v.First] != v {
			add[v.First] = v
		}
	})
	if list := entries(add[:]); len(list) > 0 {
		d.add(Change{Kind: AddVLANs, VLANs: list, Self: d.want.Bridging != nil})
	}
}
