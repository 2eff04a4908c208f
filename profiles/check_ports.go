package profiles

import (
	"fmt"
	"slices"
)

// maxVLANRanges is how many VLANs and ranges one port of a bridge may name each way.
const maxVLANRanges = 256

// in finds the range that a VLAN is in.
func in(vlan int, ranges []VLANRange) *VLANRange {
	i := slices.IndexFunc(ranges, func(r VLANRange) bool { return r.First <= vlan && vlan <= r.Last })
	if i < 0 {
		return nil
	}
	return &ranges[i]
}

// ports checks the VLANs of a bridge's ports.
func (v *validator) ports() {
	for i := range v.p.Links {
		l := &v.p.Links[i]
		if l.Bridge == nil || len(l.Bridge.Ports) == 0 || v.places.spoilt("links.%s.bridge", l.Name) {
			continue
		}
		seen := map[string]bool{}
		for j := range l.Bridge.Ports {
			p := &l.Bridge.Ports[j]
			v.port(l, p, v.places.find(p.At, "links.%s.ports[%d]", l.Name, j), seen)
		}
		at := v.places.find(l.At, "links.%s.device", l.Name)
		for _, m := range l.Bridge.Members {
			if !seen[m] {
				v.reject(at, "write "+clip(m)+": {pvid: 1}, {tagged: [...]}, or take it out of the members",
					"links.%s.bridge.vlan_filtering: member %s has no VLANs, nothing would pass", clip(l.Name), clip(m))
			}
		}
		v.ownPort(l, at)
	}
}

// port checks one port by itself.
func (v *validator) port(l *Link, p *BridgePort, at Pos, seen map[string]bool) {
	bad := func(hint, format string, args ...any) {
		v.reject(at, hint, "links.%s.bridge.vlan_filtering.%s: %s", clip(l.Name), clip(p.Link),
			fmt.Sprintf(format, args...))
	}
	if p.Link != l.Name && !slices.Contains(l.Bridge.Members, p.Link) {
		bad(suggest(p.Link, append(slices.Clone(l.Bridge.Members), l.Name)), "it is neither a member nor the bridge")
	}
	if seen[p.Link] {
		bad("", "it comes twice")
	}
	seen[p.Link] = true
	var all []VLANRange
	for _, list := range [][]VLANRange{p.Tagged, p.Untagged} {
		if len(list) > maxVLANRanges {
			bad("join neighbours to ranges", "%d VLANs and ranges, expected at most %d", len(list), maxVLANRanges)
			return
		}
		for _, r := range list {
			if r.First < 1 || r.First > r.Last || r.Last > maxVLAN {
				bad("", "%s is no VLAN or range of VLANs from 1 to %d", r, maxVLAN)
				return
			}
			for _, other := range all {
				if r.First <= other.Last && other.First <= r.Last {
					bad("name each once", "VLANs %s and %s overlap", other, r)
				}
			}
			all = append(all, r)
		}
	}
	switch {
	case p.PVID != 0 && in(p.PVID, all) == nil: // not to be had from YAML
		bad("", "pvid %d is neither tagged nor untagged", p.PVID)
	case len(all) == 0:
		bad("write {pvid: 1} or {tagged: [...]}", "no VLANs, nothing would pass")
	}
}

// ownPort checks what the guest itself sends and takes on a bridge: under the bridge's name without a tag, and by VLAN
// links on it.
func (v *validator) ownPort(l *Link, at Pos) {
	var own BridgePort
	for _, p := range l.Bridge.Ports {
		if p.Link == l.Name {
			own = p
		}
	}
	if l.addressed() && own.PVID == 0 {
		v.reject(at, "write "+clip(l.Name)+": {pvid: NUMBER} there, or give the address to a VLAN link on it",
			"links.%s.bridge.vlan_filtering: the link has an address, but the guest itself takes part in no VLAN without a tag",
			clip(l.Name))
	}
	for i := range v.p.Links {
		child := &v.p.Links[i]
		if child.VLAN == nil || child.VLAN.Parent != l.Name {
			continue
		}
		id := child.VLAN.ID
		place := v.places.find(child.At, "links.%s.device", child.Name)
		if child.VLAN.Protocol != Tag8021Q {
			v.reject(place, "", "links.%s.vlan: the bridge %s sorts frames by tags of %s, not of %s", clip(child.Name),
				clip(l.Name), Tag8021Q, child.VLAN.Protocol)
			continue
		}
		if in(id, own.Untagged) != nil {
			v.reject(place, "name it tagged there, or nowhere",
				"links.%s.vlan: VLAN %d comes to the bridge %s itself without a tag, not to a VLAN link", clip(child.Name), id,
				clip(l.Name))
			continue
		}
		if !slices.ContainsFunc(l.Bridge.Ports, func(p BridgePort) bool {
			return p.Link != l.Name && (in(id, p.Tagged) != nil || in(id, p.Untagged) != nil)
		}) {
			v.reject(place, "name it at a member", "links.%s.vlan: no member of the bridge %s takes part in VLAN %d",
				clip(child.Name), clip(l.Name), id)
		}
	}
}
