package zonefile

import (
	"maps"
	"slices"
	"strings"

	"github.com/miekg/dns"
)

// Check tells what is wrong with the records of a zone, an absolute name, and returns those to serve: without
// repetitions, one TTL a set, names in lower case where they own something.
func Check(origin string, records []Record) ([]Record, []Finding) {
	c := &checker{zone: dns.CanonicalName(origin), nodes: map[string]map[uint16][]Record{}, inner: map[string]bool{}}
	for _, r := range records {
		c.add(r)
	}
	c.apex()
	for _, name := range slices.Sorted(maps.Keys(c.nodes)) {
		c.node(name, c.nodes[name])
	}
	if len(c.findings) > maxFindings {
		c.findings = c.findings[:maxFindings]
	}
	slices.SortStableFunc(c.findings, func(a, b Finding) int {
		if a.File != b.File {
			return strings.Compare(a.File, b.File)
		}
		return a.Line - b.Line
	})
	return c.kept, c.findings
}

type checker struct {
	zone     string
	nodes    map[string]map[uint16][]Record
	inner    map[string]bool // names that have names below them
	kept     []Record
	findings []Finding
}

func (c *checker) tell(r Record, warning bool, hint, format string, args ...any) {
	p := parser{}
	p.tell(r.File, r.Line, warning, hint, format, args...)
	c.findings = append(c.findings, p.findings...)
}

// add takes a record up unless it cannot be in the zone.
func (c *checker) add(r Record) {
	h := r.Header()
	name := dns.CanonicalName(h.Name)
	switch {
	case h.Class != dns.ClassINET:
		c.tell(r, false, "write IN or nothing", "%s: class %s", clip(name), dns.Class(h.Class))
		return
	case !dns.IsSubDomain(c.zone, name):
		c.tell(r, false, "a name without a dot at its end is below the origin", "%s is not in the zone %s", clip(name),
			clip(c.zone))
		return
	case metaType(h.Rrtype):
		c.tell(r, false, "", "%s: records of type %s are no part of a zone", clip(name), dns.Type(h.Rrtype))
		return
	case h.Ttl > maxTTL:
		c.tell(r, false, "", "%s: a TTL of %d s; at most %d (RFC 2181 section 8)", clip(name), h.Ttl, maxTTL)
		return
	}
	r.RR = dns.Copy(r.RR)
	r.Header().Name = name
	types := c.nodes[name]
	if types == nil {
		types = map[uint16][]Record{}
		c.nodes[name] = types
		for up, ok := parent(name); ok && !c.inner[up]; up, ok = parent(up) {
			c.inner[up] = true
		}
	}
	kind := setOf(r.RR)
	for _, other := range types[kind] {
		if dns.IsDuplicate(r.RR, other.RR) {
			c.tell(r, true, "remove one", "%s %s comes twice, first in line %d", clip(name), dns.Type(h.Rrtype), other.Line)
			return
		}
		if ttl := other.Header().Ttl; ttl != h.Ttl && h.Rrtype != dns.TypeRRSIG {
			c.tell(r, true, "give all of them one TTL", "%s %s has a TTL of %d s and, in line %d, of %d s, which is taken"+
				" (RFC 2181 section 5.2)", clip(name), dns.Type(h.Rrtype), h.Ttl, other.Line, ttl)
			r.Header().Ttl = ttl
		}
	}
	types[kind] = append(types[kind], r)
	c.kept = append(c.kept, r)
}

// setOf is what tells sets of records at a name apart: a signature belongs to what it covers, so that its type is no
// set of its own, but for this check they all are one.
func setOf(rr dns.RR) uint16 { return rr.Header().Rrtype }

// metaType tells types that only messages hold: OPT, and 128 to 255 (RFC 6895 section 3.1), 0.
func metaType(t uint16) bool { return t == 0 || t == dns.TypeOPT || t >= 128 && t <= 255 }

// apex checks what the zone itself must have.
func (c *checker) apex() {
	for name, types := range c.nodes {
		for _, r := range types[dns.TypeSOA] {
			if name != c.zone {
				c.tell(r, false, "", "%s: a SOA that is not at the zone's own name, %s", clip(name), clip(c.zone))
			}
		}
	}
	at := c.nodes[c.zone]
	switch soas := at[dns.TypeSOA]; {
	case len(soas) == 0:
		c.tell(Record{}, false, "begin it with: @ SOA ns hostmaster 1 1h 15m 2w 1h", "zone %s has no SOA", clip(c.zone))
	case len(soas) > 1:
		c.tell(soas[1], false, "remove one", "a second SOA, the first is in line %d", soas[0].Line)
	default:
		soa := soas[0].RR.(*dns.SOA)
		if soa.Expire < soa.Refresh {
			c.tell(soas[0], true, "two weeks are usual", "the SOA lets copies expire after %d s, sooner than they are refreshed",
				soa.Expire)
		}
	}
	if len(at[dns.TypeNS]) == 0 {
		c.tell(Record{}, false, "add: @ NS ns, and the address of ns", "zone %s has no NS", clip(c.zone))
	}
}

// node checks what one name owns.
func (c *checker) node(name string, types map[uint16][]Record) {
	if cnames := types[dns.TypeCNAME]; len(cnames) > 0 {
		c.cname(name, types)
	}
	if more := types[dns.TypeDNAME]; len(more) > 1 {
		c.tell(more[1], false, "remove one", "%s has two DNAMEs", clip(name))
	}
	if len(types[dns.TypeDNAME]) > 0 && len(types[dns.TypeNS]) > 0 && name != c.zone {
		c.tell(types[dns.TypeDNAME][0], false, "remove one", "%s is delegated and has a DNAME", clip(name))
	}
	if above, r := c.above(name, dns.TypeDNAME); above != "" {
		c.tell(first(types), false, "remove one", "%s is below %s, which a DNAME in line %d sends elsewhere", clip(name),
			clip(above), r.Line)
	}
	if cut, r := c.above(name, dns.TypeNS); cut != "" {
		for kind, rs := range types {
			if kind != dns.TypeA && kind != dns.TypeAAAA && kind != dns.TypeRRSIG {
				c.tell(rs[0], true, "it belongs into that zone", "%s %s is never answered: %s is delegated in line %d",
					clip(name), dns.Type(kind), clip(cut), r.Line)
			}
		}
		return
	}
	for _, r := range types[dns.TypeNS] {
		c.server(r, name)
	}
	for _, r := range types[dns.TypeMX] {
		c.target(r, r.RR.(*dns.MX).Mx)
	}
	for _, r := range types[dns.TypeSRV] {
		c.target(r, r.RR.(*dns.SRV).Target)
	}
	for _, kind := range []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeMX} {
		if rs := types[kind]; len(rs) > 0 && !hostName(name) {
			c.tell(rs[0], true, "letters, digits and - (RFC 1123 section 2.1)", "%s is no name of a host and has an %s",
				clip(name), dns.Type(kind))
		}
	}
}

// cname checks the alias at a name.
func (c *checker) cname(name string, types map[uint16][]Record) {
	r := types[dns.TypeCNAME][0]
	if more := types[dns.TypeCNAME]; len(more) > 1 {
		c.tell(more[1], false, "remove one", "%s is an alias of two names, the first in line %d", clip(name), r.Line)
	}
	for _, kind := range slices.Sorted(maps.Keys(types)) {
		switch kind {
		case dns.TypeCNAME, dns.TypeRRSIG, dns.TypeNSEC: // RFC 4035 section 2.5
		default:
			c.tell(types[kind][0], false, "an alias can have nothing else (RFC 1034 section 3.6.2)",
				"%s is an alias, in line %d, and has an %s", clip(name), r.Line, dns.Type(kind))
		}
	}
	seen := map[string]bool{name: true}
	for at := r; ; {
		target := dns.CanonicalName(at.RR.(*dns.CNAME).Target)
		if seen[target] {
			if target == name || at.Line == r.Line { // each of the loop's aliases is told once, those that lead in are not
				c.tell(r, false, "let one of them be an address", "%s is an alias of itself: CNAME loop", clip(name))
			}
			return
		}
		seen[target] = true
		if !dns.IsSubDomain(c.zone, target) || c.delegated(target) {
			return
		}
		next := c.find(target)
		if next == nil {
			if at.Line == r.Line && !c.inner[target] {
				c.tell(r, true, "", "%s is an alias of %s, which is not in the zone", clip(name), clip(target))
			}
			return
		}
		if len(next[dns.TypeCNAME]) == 0 {
			return
		}
		at = next[dns.TypeCNAME][0]
	}
}

// server checks the name server that an NS names.
func (c *checker) server(r Record, owner string) {
	target := dns.CanonicalName(r.RR.(*dns.NS).Ns)
	if !dns.IsSubDomain(c.zone, target) {
		return
	}
	types := c.find(target)
	switch {
	case len(types[dns.TypeCNAME]) > 0:
		c.tell(r, false, "name the host itself (RFC 2181 section 10.3)", "NS %s of %s is an alias", clip(target), clip(owner))
	case len(types[dns.TypeA])+len(types[dns.TypeAAAA]) > 0:
	case c.delegated(target) && !dns.IsSubDomain(owner, target):
	default:
		c.tell(r, false, "add an A or AAAA record for it", "NS %s of %s has no address", clip(target), clip(owner))
	}
}

// target checks the host that a MX or SRV names.
func (c *checker) target(r Record, target string) {
	target = dns.CanonicalName(target)
	if target == "." || !dns.IsSubDomain(c.zone, target) || c.delegated(target) {
		return
	}
	types, kind := c.find(target), dns.Type(r.Header().Rrtype)
	switch {
	case len(types[dns.TypeCNAME]) > 0:
		c.tell(r, true, "name the host itself (RFC 2181 section 10.3)", "%s %s names %s, an alias", nameOf(r.RR), kind,
			clip(target))
	case len(types[dns.TypeA])+len(types[dns.TypeAAAA]) == 0:
		c.tell(r, true, "add an A or AAAA record for it", "%s %s names %s, which has no address", nameOf(r.RR), kind,
			clip(target))
	}
}

// find is what a name owns, by a wildcard if need be; nil: there is nothing.
func (c *checker) find(name string) map[uint16][]Record {
	if types := c.nodes[name]; types != nil {
		return types
	}
	if c.inner[name] {
		return nil
	}
	for at := name; at != c.zone; {
		up, ok := parent(at)
		if !ok {
			return nil
		}
		if types := c.nodes["*."+up]; types != nil {
			return types
		}
		if c.nodes[up] != nil || c.inner[up] {
			return nil // the closest encloser (RFC 4592 section 3.3.1)
		}
		at = up
	}
	return nil
}

// above finds the nearest name above one, within the zone and not its apex for NS, that owns a type.
func (c *checker) above(name string, kind uint16) (string, Record) {
	for name != c.zone {
		up, ok := parent(name)
		if !ok {
			break
		}
		if rs := c.nodes[up][kind]; len(rs) > 0 && (kind != dns.TypeNS || up != c.zone) {
			return up, rs[0]
		}
		name = up
	}
	return "", Record{}
}

// delegated tells whether a name is at or below a delegation.
func (c *checker) delegated(name string) bool {
	if name != c.zone && len(c.nodes[name][dns.TypeNS]) > 0 {
		return true
	}
	above, _ := c.above(name, dns.TypeNS)
	return above != ""
}

// parent is a name without its first label.
func parent(name string) (string, bool) {
	i, end := dns.NextLabel(name, 0)
	if end {
		return ".", name != "."
	}
	return name[i:], true
}

func first(types map[uint16][]Record) Record {
	kinds := slices.Sorted(maps.Keys(types))
	return types[kinds[0]][0]
}

// hostName tells whether a name may be a host's: RFC 1123 section 2.1, a wildcard, and Windows' own below _msdcs.
func hostName(name string) bool {
	for i, label := range dns.SplitDomainName(name) {
		if i == 0 && label == "*" || strings.HasPrefix(label, "_") && i > 0 {
			continue
		}
		if !plainLabel(label) {
			return false
		}
	}
	return true
}

func plainLabel(label string) bool {
	for _, c := range []byte(label) {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return label != "" && label[0] != '-' && label[len(label)-1] != '-'
}
