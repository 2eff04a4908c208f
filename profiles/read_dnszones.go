//go:build !guest

package profiles

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/miekg/dns"
	"gopkg.in/yaml.v3"

	"rempart/profiles/zonefile"
)

// dnsZoneDraft is what a profile says of a zone.
type dnsZoneDraft struct {
	file, records     *value
	reverse           []netip.Prefix
	query, transfer   []netip.Prefix
	reverseAt, sendAt Pos
}

// dnsZoneFields are the keys of a zone.
func dnsZoneFields() table[dnsZoneDraft] {
	sources := oneOrMore(eitherOf(oneWordOf("any"), textLike(hostPattern), textLike(prefixPattern)))
	return table[dnsZoneDraft]{
		{name: "file", doc: "Zone file, in the directory of the profile or below it. It may include others there.",
			kind: schema{"type": "string"}, decode: func(_ *reader, v value, z *dnsZoneDraft) { z.file = &v }},
		{name: "records", doc: "The zone itself, as zone files have it. Without $TTL it is an hour; without a SOA one is" +
			" made.", kind: schema{"type": "string"}, decode: func(_ *reader, v value, z *dnsZoneDraft) { z.records = &v }},
		{name: "reverse", doc: "Prefixes whose reverse zones are made of the zone's addresses.",
			kind: oneOrMore(textLike(prefixPattern)), decode: func(r *reader, v value, z *dnsZoneDraft) {
				z.reverseAt = v.pos()
				z.reverse = r.askers(v)
			}},
		{name: "query", doc: "Who may ask for its names. Default: whoever is answered on the links.", kind: sources,
			decode: func(r *reader, v value, z *dnsZoneDraft) { z.query = r.askers(v) }},
		{name: "transfer", doc: "Name servers that may have the whole zone (AXFR). Default: nobody.", kind: sources,
			decode: func(r *reader, v value, z *dnsZoneDraft) { z.sendAt, z.transfer = v.pos(), r.askers(v) }},
	}
}

// readDNSZones reads the zones, and the files they are in.
func readDNSZones(r *reader, v value, d *DNS) {
	const what = "a mapping such as {dom.example: {file: dom.example.zone}}"
	r.filled(v, what)
	for _, e := range r.entries(v, what, maxDNSZones) {
		name, ok := r.domain(value{node: scalar(e.key, e.key.Value), name: v.name})
		if !ok {
			continue
		}
		var z dnsZoneDraft
		dnsZoneFields().read(r, e, &z)
		if z.file != nil == (z.records != nil) {
			r.rejectAt(e.keyPos(), "write file: NAME of a zone file, or records: with its text", "%s: expected one of file and"+
				" records", e.name)
			continue
		}
		records, ok := r.zone(e, name, &z)
		if !ok {
			continue
		}
		zone := DNSZone{Name: name, Records: zonefile.Text(records), Query: z.query, Transfer: z.transfer, At: e.keyPos()}
		d.Zones = append(d.Zones, zone)
		for _, p := range z.reverse {
			origin, reverse := zonefile.Reverse(name, records, p)
			r.reverse(e, z.reverseAt, p, len(reverse))
			kept, _ := zonefile.Check(origin, reverse)
			zone.Name, zone.Records = strings.TrimSuffix(origin, "."), zonefile.Text(kept)
			d.Zones = append(d.Zones, zone)
		}
	}
}

// reverse tells what is wrong with a reverse zone of so many records.
func (r *reader) reverse(e value, at Pos, p netip.Prefix, records int) {
	label := 4 // bits; RFC 3596 section 2.5, RFC 1035 section 3.5
	if p.Addr().Is4() {
		label = 8
	}
	switch {
	case p.Bits() == 0 || p.Bits()%label != 0 || p.IsSingleIP():
		r.rejectAt(at, fmt.Sprintf("write a prefix of a multiple of %d bits", label),
			"%s.reverse: %s is no zone: one is cut between labels of %d bits", e.name, p, label)
	case records <= 2:
		r.rejectAt(at, "", "%s.reverse: the zone has no address in %s", e.name, p)
	}
}

// zone reads and checks the records of a zone, and tells all that is wrong with it.
func (r *reader) zone(e value, name string, z *dnsZoneDraft) ([]zonefile.Record, bool) {
	var records []zonefile.Record
	var findings []zonefile.Finding
	place := func(f zonefile.Finding) (Pos, string) { return z.file.pos(), f.String() }
	if z.file != nil {
		file, ok := r.word(*z.file, "the name of a zone file")
		if !ok {
			return nil, false
		}
		root, err := os.OpenRoot(filepath.Dir(r.file))
		if err != nil {
			r.rejectAt(z.file.pos(), "", "%s: %v", e.name, err)
			return nil, false
		}
		defer root.Close()
		records, findings = zonefile.Read(root.FS(), filepath.ToSlash(filepath.Clean(file)), name+".")
	} else {
		text, ok := r.word(*z.records, "the text of a zone")
		if !ok {
			return nil, false
		}
		// The line before the author's own gives a TTL that the author's $TTL replaces.
		records, findings = zonefile.ReadText("$TTL 1h\n"+text, name+".")
		records = r.start(*z.records, name, records, len(z.transfer) > 0)
		place = func(f zonefile.Finding) (Pos, string) {
			at, said := textPlace(z.records.node, f.Line-1), f.What
			if f.Hint != "" {
				said += "; " + f.Hint
			}
			return at, said
		}
	}
	var kept []zonefile.Record
	if len(records) > 0 || len(findings) == 0 { // of a file that cannot be read there is no more to say
		var more []zonefile.Finding
		kept, more = zonefile.Check(name+".", records)
		findings = append(findings, more...)
	}
	good := true
	for _, f := range findings {
		at, said := place(f)
		found := Finding{File: r.file, Pos: at, What: e.name + ": " + said}
		if f.Warning {
			r.warnings = append(r.warnings, found)
			continue
		}
		good = false
		r.findings = append(r.findings, found)
	}
	return kept, good
}

// textPlace is the place of a line of a text, counted from 1: that of the text itself unless it is a block.
func textPlace(n *yaml.Node, line int) Pos {
	if n.Style&yaml.LiteralStyle == 0 || line < 1 {
		return Pos{n.Line, n.Column}
	}
	return Pos{n.Line + line, 1}
}

// start gives records without a SOA one, of the first name server. Its serial never rises, so that a zone that is given
// to others needs its own.
func (r *reader) start(v value, name string, records []zonefile.Record, given bool) []zonefile.Record {
	server := ""
	for _, rec := range records {
		switch rr := rec.RR.(type) {
		case *dns.SOA:
			return records
		case *dns.NS:
			if server == "" && dns.CanonicalName(rr.Hdr.Name) == name+"." {
				server = rr.Ns
			}
		}
	}
	if server == "" {
		return records // that there is no NS is told
	}
	if given {
		r.rejectAt(v.pos(), "add: @ SOA ns hostmaster 1 1h 15m 2w 1h, and count its first number up with each change",
			"%s: a zone that others may have needs a SOA", v.name)
	}
	soa := &dns.SOA{Hdr: dns.RR_Header{Name: name + ".", Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: 3600},
		Ns: server, Mbox: "hostmaster." + name + ".", Serial: 1, Refresh: 3600, Retry: 900, Expire: 1209600, Minttl: 300}
	return append([]zonefile.Record{{RR: soa}}, records...)
}
