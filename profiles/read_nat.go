//go:build !guest

package profiles

import (
	"net/netip"

	"gopkg.in/yaml.v3"
)

// helper reads the name of one.
func (r *reader) helper(v value) Helper {
	text, ok := r.word(v, "ftp, tftp or sip")
	if _, known := Helper(text).Protocol(); ok && !known {
		r.expected(v, "ftp, tftp or sip", suggest(text, helperWords()))
	}
	return Helper(text)
}

func readNAT(r *reader, v value, p *Profile) { natFields().read(r, v, p) }

func readSources(r *reader, v value, p *Profile) {
	const what = "a list of lines such as - inside -> internet: 203.0.113.5"
	for _, item := range r.elements(v, what, maxPairs) {
		if item.node.Kind != yaml.MappingNode || len(item.node.Content) != 2 {
			r.expected(item, "a line such as inside -> internet: 203.0.113.5", "begin each line of its own with -")
			continue
		}
		key := item.node.Content[0]
		from, to, ok := r.direction(key, "nat.source")
		if !ok {
			continue
		}
		line := value{node: item.node.Content[1], key: key, name: "nat.source: " + clip(from.text) + " -> " + clip(to.text)}
		var d sourceDraft
		if line.node.Kind == yaml.MappingNode {
			if len(sourceFields().read(r, line, &d)) > 0 {
				continue
			}
		} else {
			readAs(r, line, &d)
		}
		for k, s := range d.as {
			i := len(p.NAT.Sources)
			r.places.put(from.at, "nat.sources[%d].from", i)
			r.places.put(to.at, "nat.sources[%d].to", i)
			r.places.put(d.asAt[k], "nat.sources[%d].first", i)
			var clients []netip.Prefix
			for j, c := range d.clients {
				if len(d.as) == 1 || c.Addr().Is4() == s.First.Is4() {
					r.places.put(d.places[j], "nat.sources[%d].clients[%d]", i, len(clients))
					clients = append(clients, c)
				}
			}
			if len(clients) == 0 && len(d.clients) > 0 {
				r.rejectAt(d.asAt[k], "", "%s: no client has the family of %s", line.name, s.First)
				continue
			}
			p.NAT.Sources = append(p.NAT.Sources, SourceNAT{From: from.text, To: to.text, First: s.First, Last: s.Last,
				Clients: clients, At: item.pos()})
		}
	}
}

func readAs(r *reader, v value, d *sourceDraft) {
	const what = "an address, a range such as 203.0.113.5-203.0.113.9, or one of each family"
	const each = 2 // one of each family
	for _, item := range r.items(v, what, each) {
		text, ok := r.dotted(item, what)
		if !ok {
			continue
		}
		s, problem, hint := parseRange(text)
		if problem != "" {
			r.rejectAt(item.pos(), hint, "%s: %s", item.name, problem)
			continue
		}
		if len(d.as) > 0 && d.as[0].First.Is4() == s.First.Is4() {
			r.rejectAt(item.pos(), "write a range, or lines with a from of their own",
				"%s: two of one address family", item.name)
			continue
		}
		d.as, d.asAt = append(d.as, s), append(d.asAt, item.pos())
	}
}

func readClients(r *reader, v value, d *sourceDraft) {
	var sets []string
	d.clients, d.places, sets = r.ends(v)
	if len(sets) > 0 {
		r.rejectAt(v.pos(), "write the addresses", "%s: a set cannot stand here", v.name)
	}
}

func readMappings(r *reader, v value, p *Profile) {
	const what = "a list of entries such as - {zone: internet, outside: 203.0.113.9, inside: 10.2.0.9}"
	for _, item := range r.elements(v, what, maxPairs) {
		item.name = "nat.map"
		var d mappingDraft
		if len(mappingFields().read(r, item, &d)) > 0 {
			continue
		}
		i := len(p.NAT.Mappings)
		r.places.put(d.zone.at, "nat.mappings[%d].zone", i)
		r.places.put(d.outAt, "nat.mappings[%d].outside", i)
		r.places.put(d.inAt, "nat.mappings[%d].inside", i)
		p.NAT.Mappings = append(p.NAT.Mappings, Mapping{Zone: d.zone.text, Outside: d.outside, Inside: d.inside,
			At: item.pos()})
	}
}

func readMappingZone(r *reader, v value, d *mappingDraft) {
	d.zone.text, _ = r.word(v, "a zone")
	d.zone.at = v.pos()
}

func readOutside(r *reader, v value, d *mappingDraft) {
	d.outAt = v.pos()
	text, ok := r.dotted(v, "an address or a prefix")
	if !ok {
		return
	}
	p, problem, hint := parsePrefix(text)
	if problem != "" {
		r.rejectAt(v.pos(), hint, "%s: %s", v.name, problem)
	}
	d.outside = p
}

func readInside(r *reader, v value, d *mappingDraft) {
	d.inAt = v.pos()
	before := len(r.findings)
	all, _, sets := r.ends(v)
	if len(r.findings) > before {
		return
	}
	if len(all) != 1 || len(sets) > 0 {
		r.rejectAt(v.pos(), "write the address meant", "%s: expected one host or prefix", v.name)
		return
	}
	d.inside = all[0]
}
