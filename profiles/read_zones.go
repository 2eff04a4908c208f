//go:build !guest

package profiles

import (
	"strings"

	"gopkg.in/yaml.v3"
)

func readZones(r *reader, v value, p *Profile) {
	const what = "a mapping such as home: lan0, or home: {link: lan0, prefix: 192.168.0.0/24}"
	r.filled(v, what)
	for _, entry := range r.entries(v, what, maxZones) {
		name := entry.key.Value
		z := Zone{Name: name, External: externalByName(name), At: entry.keyPos()}
		var d zoneDraft
		if entry.node.Kind == yaml.MappingNode {
			for field := range zoneFields().read(r, entry, &d) {
				r.places.spoil("zones.%s.%s", name, field)
			}
		} else {
			before := len(r.findings)
			readZoneLinks(r, entry, &d)
			if len(r.findings) > before {
				r.places.spoil("zones.%s.link", name)
			}
		}
		if d.external != nil {
			z.External = *d.external
		}
		for i, link := range d.links {
			r.places.put(link.at, "zones.%s.members[%d]", name, i)
			z.Members = append(z.Members, Member{Link: link.text, Prefixes: d.prefixes, Rest: d.rest})
		}
		for i, at := range d.places {
			r.places.put(at, "zones.%s.prefixes[%d]", name, i)
		}
		p.Zones = append(p.Zones, z)
	}
}

// externalByName tells the zones that are external unless they say otherwise.
func externalByName(name string) bool { return name == "internet" || name == "wan" }

func readZoneLinks(r *reader, v value, d *zoneDraft) {
	const what = "the name of a link, the beginning of names such as vif*, or a list of these"
	for _, item := range r.items(v, what, maxLinks) {
		text, ok := r.word(item, what)
		if !ok {
			continue
		}
		beginning, several := strings.CutSuffix(text, "*")
		if !several {
			d.links = append(d.links, place{text, item.pos()})
			continue
		}
		found := r.linksLike(beginning)
		if len(found) == 0 && len(r.p.Links) > 0 {
			r.rejectAt(item.pos(), "", "%s: no link has a name that begins with %s", item.name, quote(beginning))
		}
		for _, name := range found {
			d.links = append(d.links, place{name, item.pos()})
		}
	}
}

// linksLike are the links whose names begin so, in the order of the file. Members of bonds and bridges are not among
// them: their packets come by what they are a member of.
func (r *reader) linksLike(beginning string) []string {
	var all []string
	for _, l := range r.p.Links {
		if strings.HasPrefix(l.Name, beginning) && r.p.MasterOf(l.Name) == nil {
			all = append(all, l.Name)
		}
	}
	return all
}

func readZonePrefixes(r *reader, v value, d *zoneDraft) {
	if v.node.Kind == yaml.ScalarNode && v.node.Value == "rest" {
		d.rest = true
		return
	}
	const what = "a prefix such as 192.168.0.0/24, a list of them, or rest"
	for _, item := range r.items(v, what, maxPrefixes) {
		text, ok := r.dotted(item, what)
		if !ok {
			continue
		}
		if text == "rest" {
			r.rejectAt(item.pos(), "write `prefix: rest` alone", "%s: rest stands beside prefixes", item.name)
			continue
		}
		p, problem, hint := parsePrefix(text)
		if problem != "" {
			r.rejectAt(item.pos(), hint, "%s: %s", item.name, problem)
			continue
		}
		d.prefixes = append(d.prefixes, p)
		d.places = append(d.places, item.pos())
	}
}

func readExternal(r *reader, v value, d *zoneDraft) {
	if yes, ok := r.boolean(v); ok {
		d.external = &yes
	}
}

func readAdmin(r *reader, v value, p *Profile) {
	p.Admin.At = v.keyPos()
	switch {
	case v.node.Kind == yaml.MappingNode:
		adminFields().read(r, v, &p.Admin)
	case v.node.Kind == yaml.ScalarNode && v.node.Value == "none":
		p.Admin.None = true
	default:
		hint := ""
		if v.node.Kind == yaml.ScalarNode && v.node.Tag == "!!str" {
			hint = "write {from: " + clip(v.node.Value) + "}"
		}
		r.expected(v, "{from: ZONE or ADDRESS}, or none", hint)
	}
}

func readAdminFrom(r *reader, v value, a *Admin) {
	const what = "a zone, an address, a prefix, or a list of these"
	for _, item := range r.items(v, what, maxPrefixes) {
		text, ok := r.dotted(item, what)
		if !ok {
			continue
		}
		if !looksNumeric(text) {
			r.places.put(item.pos(), "admin.zones[%d]", len(a.Zones))
			a.Zones = append(a.Zones, text)
			continue
		}
		p, problem, hint := parsePrefix(text)
		if problem != "" {
			r.rejectAt(item.pos(), hint, "%s: %s", item.name, problem)
			continue
		}
		r.places.put(item.pos(), "admin.prefixes[%d]", len(a.Prefixes))
		a.Prefixes = append(a.Prefixes, p)
	}
}
