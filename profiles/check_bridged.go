package profiles

// bridgedZones checks zones on members of bridges, and what speaks of them.
func (v *validator) bridgedZones() {
	mixed := false
	for i := range v.p.Zones {
		mixed = v.bridgedZone(&v.p.Zones[i]) || mixed
	}
	for i := range v.p.Links {
		l := &v.p.Links[i]
		if l.Bridge == nil || !v.p.Filters(l) || v.places.spoilt("zones") {
			continue
		}
		if len(l.Bridge.Ports) > 0 {
			v.reject(v.places.find(l.At, "links.%s.device", l.Name),
				"bridge VLAN links instead, or put zones on none of the members",
				"links.%s: its members are in zones, and it sorts frames by VLAN: a connection would be known in all of its VLANs",
				clip(l.Name))
		}
		for _, name := range l.Bridge.Members {
			if m := v.link(name); m != nil && len(v.membersOn(name)) == 0 {
				v.warn(m.At, "", "link %s is in no zone: other members of %s are, so nothing passes by it from or to them",
					quote(name), clip(l.Name))
			}
		}
	}
	if mixed {
		return // the lines would be told of what is wrong with the zones
	}
	for i := range v.p.Policy {
		v.bridgedLine(&v.p.Policy[i], i)
	}
	routed := func(at Pos, what, name string) {
		if z := v.zone(name); z != nil && v.p.Bridged(z) {
			v.reject(at, "name the zone of the bridge itself", "%s: zone %s is on members of a bridge, nothing routed is of it",
				what, clip(name))
		}
	}
	for i, name := range v.p.Admin.Zones {
		routed(v.places.find(v.p.Admin.At, "admin.zones[%d]", i), "admin.from", name)
	}
	for i, pair := range v.p.Masquerade {
		routed(v.places.find(pair.At, "masquerade[%d].from", i), "masquerade", pair.From)
		routed(v.places.find(pair.At, "masquerade[%d].to", i), "masquerade", pair.To)
	}
	for _, n := range v.p.NAT.Sources {
		routed(n.At, "nat", n.From)
		routed(n.At, "nat", n.To)
	}
	for _, m := range v.p.NAT.Mappings {
		routed(m.At, "nat", m.Zone)
	}
	for i, f := range v.p.Forwards {
		routed(v.places.find(f.At, "forwards[%d].from", i), "forwards", f.From)
	}
}

// bridgedZone checks a zone by itself and tells whether it is on members of bridges and on other links.
func (v *validator) bridgedZone(z *Zone) (mixed bool) {
	if !v.p.Bridged(z) {
		return false
	}
	for i, m := range z.Members {
		at := v.places.find(z.At, "zones.%s.members[%d]", z.Name, i)
		if master := v.p.MasterOf(m.Link); master == nil || master.Bridge == nil {
			v.reject(at, "make two zones", "zones.%s: link %s is no member of a bridge, and others of the zone are",
				clip(z.Name), clip(m.Link))
			mixed = true
		}
		if len(m.Prefixes) > 0 || m.Rest {
			v.reject(at, "remove prefix, and write from or to in the policy lines",
				"zones.%s.prefix: on a member of a bridge a zone is all that is behind it", clip(z.Name))
		}
	}
	return mixed
}

// bridgedLine checks a line that names a zone on members of bridges: it can only be about another such zone.
func (v *validator) bridgedLine(rule *Rule, i int) {
	from, to := v.zone(rule.From), v.zone(rule.To)
	ends := 0
	var bridged *Zone
	for _, z := range []*Zone{from, to} {
		if z != nil && v.p.Bridged(z) {
			bridged = z
			ends++
		}
	}
	if ends == 0 {
		return
	}
	at := v.places.find(rule.At, "policy[%d].from", i)
	hint := "name the zone of the bridge itself for what is routed"
	switch {
	case rule.From == Any || rule.To == Any:
	case ends == 1:
		v.reject(at, hint, "policy: %s -> %s: zone %s is on members of a bridge, and only what passes between such members "+
			"is of it", clip(rule.From), clip(rule.To), clip(bridged.Name))
		return
	case !v.shareBridge(from, to):
		v.reject(at, hint, "policy: %s -> %s: no bridge has a member in each", clip(rule.From), clip(rule.To))
		return
	}
	if rule.Action == Reject && ends == 2 {
		v.reject(rule.At, "write drop", "policy: %s -> %s: what passes by a bridge cannot be answered for", clip(rule.From),
			clip(rule.To))
	}
}

// shareBridge tells whether something can pass from one zone to the other by a bridge.
func (v *validator) shareBridge(a, b *Zone) bool {
	for _, m := range a.Members {
		for _, n := range b.Members {
			if x, y := v.p.MasterOf(m.Link), v.p.MasterOf(n.Link); x != nil && x == y && m.Link != n.Link {
				return true
			}
		}
	}
	return false
}
