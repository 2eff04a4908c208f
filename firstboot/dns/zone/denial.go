package zone

import (
	"slices"
	"strings"

	"github.com/miekg/dns"

	"rempart/profiles/zonefile"
)

// proof is a NSEC or NSEC3 record with its signatures.
type proof struct {
	owner string // of NSEC: the name; of NSEC3: the hash, in upper case base32hex
	rr    dns.RR
	sigs  []dns.RR
}

// collector gathers proofs by their owners while a zone is read.
type collector map[string]*proof

// add collects a record; the owner of a NSEC3 is turned into its hash.
func (c collector) add(name string, rr dns.RR) {
	sig, isSig := rr.(*dns.RRSIG)
	if rr.Header().Rrtype == dns.TypeNSEC3 || isSig && sig.TypeCovered == dns.TypeNSEC3 {
		first, _, _ := strings.Cut(name, ".")
		name = strings.ToUpper(first)
	}
	p := c[name]
	if p == nil {
		p = &proof{owner: name}
		c[name] = p
	}
	if isSig {
		p.sigs = append(p.sigs, rr)
	} else {
		p.rr = rr
	}
}

func (z *zone) orderProofs(c collector) {
	for _, p := range c {
		if p.rr != nil {
			z.proofs = append(z.proofs, *p)
		}
	}
	slices.SortFunc(z.proofs, func(a, b proof) int { return z.compare(a.owner, b.owner) })
}

// compare orders owners of proofs: hashes as text, which base32hex is made for (RFC 4648 section 7), names canonically.
func (z *zone) compare(a, b string) int {
	if z.param != nil {
		return strings.Compare(a, b)
	}
	return zonefile.CompareNames(a, b)
}

// key is what a name is called in the order of proofs.
func (z *zone) key(name string) string {
	if z.param != nil {
		return dns.HashName(name, z.param.Hash, z.param.Iterations, z.param.Salt)
	}
	return name
}

// at finds the proof that matches a name, or else the one that covers it.
func (z *zone) at(name string) (p proof, matches bool) {
	i, found := slices.BinarySearchFunc(z.proofs, z.key(name), func(p proof, key string) int {
		return z.compare(p.owner, key)
	})
	if found {
		return z.proofs[i], true
	}
	// Before the first stands the last: the chain is a ring.
	return z.proofs[(i+len(z.proofs)-1)%len(z.proofs)], false
}

// prove adds the proof about a name, once.
func (b *builder) prove(z *zone, name string) {
	if !b.do || len(z.proofs) == 0 {
		return
	}
	p, _ := z.at(name)
	key := z.Origin + " " + p.owner
	if b.told[key] {
		return
	}
	if b.told == nil {
		b.told = map[string]bool{}
	}
	b.told[key] = true
	b.authority(&set{rrs: []dns.RR{p.rr}, sigs: p.sigs})
}

// noName proves that neither a name is there nor a wildcard for it (RFC 4035 section 3.1.3.2, RFC 5155 section 7.2.2).
func (b *builder) noName(z *zone, encloser, name string) {
	b.proveEncloser(z, encloser, name)
	b.prove(z, "*."+strings.TrimPrefix(encloser, "."))
}

// proveEncloser proves which name is the closest encloser (RFC 5155 section 7.2.1); for NSEC the one record that
// covers the name says so, too.
func (b *builder) proveEncloser(z *zone, encloser, name string) {
	if z.param == nil {
		b.prove(z, name)
		return
	}
	b.prove(z, encloser)
	b.prove(z, nextCloser(encloser, name))
}

// nextCloser is the name one label longer than the closest encloser (RFC 5155 section 1.3).
func nextCloser(encloser, name string) string {
	for {
		up := parent(name)
		if up == encloser || up == "." {
			return name
		}
		name = up
	}
}

// noCloser proves that a wildcard was the best there is for a name (RFC 4035 section 3.1.3.3, RFC 5155 section 7.2.6).
func (b *builder) noCloser(z *zone, encloser, name string) {
	if z.param != nil {
		name = nextCloser(encloser, name)
	}
	b.prove(z, name)
}

// noData proves that a name has nothing of a type; encloser is set when it is there by a wildcard below that
// (RFC 4035 sections 3.1.3.1 and 3.1.3.4, RFC 5155 sections 7.2.3 to 7.2.5).
func (b *builder) noData(z *zone, name, encloser string) {
	if len(z.proofs) == 0 || !b.do {
		return
	}
	if encloser != "" {
		b.prove(z, "*."+strings.TrimPrefix(encloser, "."))
		if z.param != nil {
			b.prove(z, encloser)
		}
		return // that there is nothing closer is proven by noCloser
	}
	if _, matches := z.at(name); matches || z.param == nil {
		b.prove(z, name) // or, by NSEC, what covers a name that is there only for those below it
		return
	}
	b.optedOut(z, name)
}

// noDS proves that a delegation is insecure.
func (b *builder) noDS(z *zone, cut string) {
	if !b.do || len(z.proofs) == 0 {
		return
	}
	if _, matches := z.at(cut); matches {
		b.prove(z, cut)
	} else if z.param != nil {
		b.optedOut(z, cut)
	}
}

// optedOut proves that a name is in a span that was left out of the chain (RFC 5155 section 7.2.4 and 7.2.7): by the
// closest encloser that is in it.
func (b *builder) optedOut(z *zone, name string) {
	for encloser := parent(name); ; encloser = parent(encloser) {
		if _, matches := z.at(encloser); matches || encloser == z.Origin || encloser == "." {
			b.proveEncloser(z, encloser, name)
			return
		}
	}
}
