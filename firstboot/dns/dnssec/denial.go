package dnssec

import (
	"slices"
	"strings"

	"github.com/miekg/dns"

	"rempart/profiles/zonefile"
)

// denial are proven records that say what does not exist in a zone.
type denial struct {
	zone   string
	nsec   []*dns.NSEC
	nsec3  []*dns.NSEC3
	costly bool // NSEC3 with more rounds than are computed: the zone counts as unsigned
	sets   []*set
	ttl    uint32 // least of the sets
	hashes map[string]string
}

const (
	// maxDenials is how many sets an answer may deny with: the most that are needed are three, twice for an alias.
	maxDenials = 8
	// maxIterations of NSEC3 are computed (RFC 9276 section 3.2 lets a validator choose; BIND 9.18 and Unbound 1.19 take
	// 50 and 150).
	maxIterations = 50
)

// denials proves the NSEC and NSEC3 records of an answer.
func (v *Validator) denials(b *budget, z zone, m *dns.Msg) (*denial, error) {
	d := &denial{zone: z.name, ttl: 1 << 31, hashes: map[string]string{}}
	n := 0
	for _, s := range setsOf(m.Ns) {
		if s.kind != dns.TypeNSEC && s.kind != dns.TypeNSEC3 || len(s.rrs) == 0 || !dns.IsSubDomain(z.name, s.name) {
			continue
		}
		if n++; n > maxDenials {
			return nil, errBudget
		}
		sig, err := v.verify(b, z, s)
		if err != nil {
			return nil, err
		}
		if _, wild := expanded(s, sig); wild {
			continue // a proof is of the name it stands at (RFC 4035 section 5.4)
		}
		d.add(s)
	}
	if len(d.sets) == 0 {
		return nil, bogus(dns.ExtendedErrorCodeNSECMissing, "%s does not prove what it denies", z.name)
	}
	return d, nil
}

func (d *denial) add(s *set) {
	for _, rr := range s.rrs {
		switch rr := rr.(type) {
		case *dns.NSEC:
			d.nsec = append(d.nsec, rr)
		case *dns.NSEC3:
			if rr.Hash != dns.SHA1 || parent(s.name) != d.zone { // RFC 5155 sections 8.1 and 3
				continue
			}
			d.costly = d.costly || rr.Iterations > maxIterations
			d.nsec3 = append(d.nsec3, rr)
		}
	}
	d.sets = append(d.sets, s)
	d.ttl = min(d.ttl, s.ttl())
}

// span is a NSEC or NSEC3 record: what it stands at or what it covers.
type span struct {
	types  []uint16
	optOut bool
	nsec   *dns.NSEC
}

func (s *span) has(kind uint16) bool { return slices.Contains(s.types, kind) }

// parentSide tells whether a proof is that of a delegation, by who delegates.
func (s *span) parentSide() bool { return s.has(dns.TypeNS) && !s.has(dns.TypeSOA) }

// at is the record that stands at a name.
func (d *denial) at(b *budget, name string) *span {
	for _, n := range d.nsec {
		if dns.CanonicalName(n.Hdr.Name) == name {
			return &span{types: n.TypeBitMap, nsec: n}
		}
	}
	for _, n := range d.nsec3 {
		if hash, ok := d.hash(b, n, name); ok && hash == hashOf(n) {
			return &span{types: n.TypeBitMap, optOut: n.Flags&1 != 0}
		}
	}
	return nil
}

// covering is the record that proves that a name does not exist.
func (d *denial) covering(b *budget, name string) *span {
	for _, n := range d.nsec {
		owner, next := dns.CanonicalName(n.Hdr.Name), dns.CanonicalName(n.NextDomain)
		s := &span{types: n.TypeBitMap, nsec: n}
		if !dns.IsSubDomain(d.zone, name) || !between(zonefile.CompareNames, owner, name, next) {
			continue
		}
		// Below a delegation or DNAME this zone does not say what exists (RFC 6840 section 4.1, RFC 6672 section 5.3.4.1).
		if dns.IsSubDomain(owner, name) && (s.parentSide() || s.has(dns.TypeDNAME)) {
			continue
		}
		return s
	}
	for _, n := range d.nsec3 {
		hash, ok := d.hash(b, n, name)
		if ok && between(strings.Compare, hashOf(n), hash, strings.ToUpper(n.NextDomain)) {
			return &span{types: n.TypeBitMap, optOut: n.Flags&1 != 0}
		}
	}
	return nil
}

// between tells whether x lies inside a span of the ring, without its ends.
func between(compare func(a, b string) int, from, x, to string) bool {
	if compare(from, to) < 0 {
		return compare(from, x) < 0 && compare(x, to) < 0
	}
	return compare(from, x) < 0 || compare(x, to) < 0 && compare(from, x) != 0 // the last, or the only one
}

// hashOf is the hash that a NSEC3 stands at.
func hashOf(n *dns.NSEC3) string {
	first, _, _ := strings.Cut(n.Hdr.Name, ".")
	return strings.ToUpper(first)
}

// hash is what a name is in the NSEC3 chain of a record; false: it takes more work than is left.
func (d *denial) hash(b *budget, n *dns.NSEC3, name string) (string, bool) {
	if n.Iterations > maxIterations || !dns.IsSubDomain(d.zone, name) {
		return "", false
	}
	key := name + " " + n.Salt + " " + string(rune(n.Iterations))
	if h, known := d.hashes[key]; known {
		return h, true
	}
	cost := int(n.Iterations) + 1
	if b.hashes < cost {
		return "", false
	}
	b.hashes -= cost
	h := dns.HashName(name, n.Hash, n.Iterations, n.Salt)
	d.hashes[key] = h
	return h, h != ""
}

// encloser proves the closest encloser of a name that does not exist, with what covers the next closer name (RFC 5155
// section 8.3); for NSEC that is what covers the name itself.
func (d *denial) encloser(b *budget, name string) (closest string, cover *span) {
	if len(d.nsec) > 0 {
		if cover = d.covering(b, name); cover == nil || cover.nsec == nil {
			return "", nil
		}
		// Both ends of the span exist: whichever shares more with the name tells.
		shared := max(dns.CompareDomainName(name, dns.CanonicalName(cover.nsec.Hdr.Name)),
			dns.CompareDomainName(name, dns.CanonicalName(cover.nsec.NextDomain)))
		return ancestor(name, shared), cover
	}
	for labels := dns.CountLabel(name) - 1; labels >= dns.CountLabel(d.zone); labels-- {
		closest = ancestor(name, labels)
		s := d.at(b, closest)
		if s == nil {
			continue
		}
		if s.parentSide() || s.has(dns.TypeDNAME) { // it cannot deny what is below (RFC 5155 section 8.3)
			return "", nil
		}
		return closest, d.covering(b, ancestor(name, labels+1))
	}
	return "", nil
}

func (d *denial) unproven(name, what string) error {
	return bogus(dns.ExtendedErrorCodeNSECMissing, "%s does not prove that %s %s", d.zone, name, what)
}

// wildcardOf is the wildcard below a name.
func wildcardOf(name string) string {
	if name == "." {
		return "*."
	}
	return "*." + name
}

// noName proves that a name does not exist, nor a wildcard for it (RFC 4035 section 5.4, RFC 5155 section 8.4).
func (d *denial) noName(b *budget, name string) (Security, error) {
	if d.costly {
		return Insecure, nil
	}
	closest, cover := d.encloser(b, name)
	switch {
	case cover == nil, d.emptyNonTerminal(cover, name), d.covering(b, wildcardOf(closest)) == nil:
		return Insecure, d.unproven(name, "does not exist")
	case cover.optOut: // an unsigned delegation may be there (RFC 5155 section 9.2)
		return Insecure, nil
	}
	return Secure, nil
}

// emptyNonTerminal tells whether a NSEC that covers a name proves that names below it exist.
func (d *denial) emptyNonTerminal(cover *span, name string) bool {
	return cover.nsec != nil && dns.IsSubDomain(name, dns.CanonicalName(cover.nsec.NextDomain))
}

// noData proves that a name has nothing of a type (RFC 4035 section 5.4, RFC 5155 sections 8.5 to 8.7).
func (d *denial) noData(b *budget, name string, kind uint16) (Security, error) {
	if d.costly {
		return Insecure, nil
	}
	why := "has no " + dns.Type(kind).String()
	if s := d.at(b, name); s != nil {
		// Each side of a delegation speaks for its own (RFC 6840 section 4.4).
		wrongSide := kind == dns.TypeDS && s.has(dns.TypeSOA) && name != "." || kind != dns.TypeDS && s.parentSide()
		if s.has(kind) || s.has(dns.TypeCNAME) || wrongSide {
			return Insecure, d.unproven(name, why)
		}
		return Secure, nil
	}
	closest, cover := d.encloser(b, name)
	if cover == nil {
		return Insecure, d.unproven(name, why)
	}
	if d.emptyNonTerminal(cover, name) {
		return Secure, nil
	}
	if wild := d.at(b, wildcardOf(closest)); wild != nil && !wild.has(kind) && !wild.has(dns.TypeCNAME) &&
		!wild.parentSide() {
		if cover.optOut {
			return Insecure, nil
		}
		return Secure, nil
	}
	if kind == dns.TypeDS && cover.optOut {
		return Insecure, nil
	}
	return Insecure, d.unproven(name, why)
}

// noCloser proves that a wildcard's answer was the best there is: nothing exists from the next closer name on.
func (d *denial) noCloser(b *budget, name, next string) (Security, error) {
	if d.costly {
		return Insecure, nil
	}
	asked := next
	if len(d.nsec) > 0 {
		asked = name
	}
	switch cover := d.covering(b, asked); {
	case cover == nil, d.emptyNonTerminal(cover, name):
		return Insecure, d.unproven(name, "is a wildcard's")
	case cover.optOut:
		return Insecure, nil
	}
	return Secure, nil
}

// What the absence of a DS means.
type delegationKind int

const (
	noCut       delegationKind = iota // no zone begins there
	insecureCut                       // one does, unsigned
)

// delegation tells what it means that a name has no DS (RFC 4035 section 5.2, RFC 5155 section 8.9).
func (d *denial) delegation(b *budget, name string) (delegationKind, error) {
	if d.costly {
		return insecureCut, nil
	}
	if s := d.at(b, name); s != nil {
		switch {
		case s.has(dns.TypeDS) || s.has(dns.TypeSOA):
			return noCut, d.unproven(name, "has no DS")
		case s.has(dns.TypeNS):
			return insecureCut, nil
		}
		return noCut, nil
	}
	_, cover := d.encloser(b, name)
	switch {
	case cover == nil:
		return noCut, d.unproven(name, "has no DS")
	case cover.optOut:
		return insecureCut, nil
	}
	return noCut, nil
}
