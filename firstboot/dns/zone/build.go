package zone

import (
	"slices"

	"github.com/miekg/dns"

	"rempart/firstboot/dns/answer"
)

// maxChain bounds how many aliases one answer follows, as BIND does.
const maxChain = 16

// builder makes one answer.
type builder struct {
	all   *Zones
	query *answer.Query
	m     *dns.Msg
	kind  uint16
	do    bool            // the client wants signatures and proofs
	told  map[string]bool // proofs in the answer
}

// follow answers for a name, and for what it is an alias of.
func (b *builder) follow(z *zone, name, asked string) {
	for range maxChain {
		next := b.step(z, name, asked)
		if next == "" {
			return
		}
		name, asked = lower(next), next
		z = b.all.find(name)
		if z == nil || !allows(z.Query, b.query) {
			return // the client, or the resolver before it, asks on
		}
	}
}

// step answers for one name and returns the name it is an alias of.
func (b *builder) step(z *zone, name, asked string) (alias string) {
	// From the origin down: the first delegation or DNAME on the way decides (RFC 1034 section 4.3.2, 3).
	encloser := z.Origin
	for _, at := range z.path(name) {
		n := z.nodes[at]
		if n == nil {
			return b.wildcard(z, encloser, name, asked)
		}
		encloser = at
		if at != z.Origin && n.has(dns.TypeNS) != nil && (at != name || b.kind != dns.TypeDS) {
			b.referral(z, at)
			return ""
		}
		if d := n.has(dns.TypeDNAME); d != nil && at != name {
			return b.dname(d, at, asked)
		}
	}
	return b.node(z, z.nodes[name], name, asked, "")
}

// path are the names from the origin to a name in the zone, both included.
func (z *zone) path(name string) []string {
	path := []string{name}
	for name != z.Origin {
		name = parent(name)
		path = append(path, name)
	}
	slices.Reverse(path)
	return path
}

// node answers from what a name owns. Encloser is empty, or the name above the wildcard that n is.
func (b *builder) node(z *zone, n *node, name, asked, encloser string) (alias string) {
	if encloser != "" {
		defer b.noCloser(z, encloser, name)
	}
	if s := n.has(dns.TypeCNAME); s != nil && b.kind != dns.TypeCNAME && b.kind != dns.TypeANY &&
		b.kind != dns.TypeRRSIG && b.kind != dns.TypeNSEC {
		b.add(s, asked)
		return s.rrs[0].(*dns.CNAME).Target
	}
	switch s := n.has(b.kind); {
	case s != nil:
		b.add(s, asked)
		if b.kind == dns.TypeNS && encloser == "" {
			b.addresses(z, s, true)
		}
	case b.kind == dns.TypeANY && len(n.sets) > 0:
		b.any(n, asked)
	case b.kind == dns.TypeRRSIG && b.signatures(n, asked):
	default:
		b.negative(z, dns.RcodeSuccess)
		b.noData(z, name, encloser)
	}
	return ""
}

// any answers with one set of those there are (RFC 8482 section 4.1): the first by number, so that it stays the same.
func (b *builder) any(n *node, asked string) {
	var kinds []uint16
	for kind, s := range n.sets {
		if len(s.rrs) > 0 {
			kinds = append(kinds, kind)
		}
	}
	if len(kinds) > 0 {
		b.add(n.sets[slices.Min(kinds)], asked)
	}
}

// signatures answers a question for signatures alone.
func (b *builder) signatures(n *node, asked string) bool {
	var kinds []uint16
	for kind, s := range n.sets {
		if len(s.sigs) > 0 {
			kinds = append(kinds, kind)
		}
	}
	slices.Sort(kinds)
	for _, kind := range kinds {
		b.m.Answer = append(b.m.Answer, as(n.sets[kind].sigs, asked)...)
	}
	return len(kinds) > 0
}

// add puts a set into the answer.
func (b *builder) add(s *set, asked string) {
	b.m.Answer = append(b.m.Answer, as(s.rrs, asked)...)
	if b.do {
		b.m.Answer = append(b.m.Answer, as(s.sigs, asked)...)
	}
}

// authority puts a set into the authority section.
func (b *builder) authority(s *set) {
	for _, rr := range s.rrs {
		b.m.Ns = append(b.m.Ns, dns.Copy(rr))
	}
	if b.do {
		for _, rr := range s.sigs {
			b.m.Ns = append(b.m.Ns, dns.Copy(rr))
		}
	}
}

// wildcard answers for a name that is not there: by the wildcard below its closest encloser, or not at all.
func (b *builder) wildcard(z *zone, encloser, name, asked string) (alias string) {
	if n := z.nodes["*."+encloser]; n != nil {
		if n.has(dns.TypeNS) != nil { // a wildcard that delegates is undefined (RFC 4592 section 4.2); it matches nothing
			b.m.Rcode = dns.RcodeServerFailure
			return ""
		}
		return b.node(z, n, name, asked, encloser)
	}
	b.negative(z, dns.RcodeNameError)
	b.noName(z, encloser, name)
	return ""
}

// dname sends a name elsewhere and returns where (RFC 6672 section 3.2).
func (b *builder) dname(s *set, owner, asked string) (alias string) {
	b.m.Answer = append(b.m.Answer, as(s.rrs, owner)...)
	if b.do {
		b.m.Answer = append(b.m.Answer, as(s.sigs, owner)...)
	}
	d := s.rrs[0].(*dns.DNAME)
	prefix := asked[:len(asked)-len(owner)]
	if owner == "." {
		prefix = asked
	}
	target := prefix
	if d.Target != "." {
		target += d.Target
	}
	if _, ok := dns.IsDomainName(target); !ok || wireLength(target) > maxNameOctets {
		b.m.Rcode = dns.RcodeYXDomain
		return ""
	}
	// The alias carries no signature: whoever validates makes it of the DNAME, too.
	h := dns.RR_Header{Name: asked, Rrtype: dns.TypeCNAME, Class: dns.ClassINET, Ttl: d.Hdr.Ttl}
	b.m.Answer = append(b.m.Answer, &dns.CNAME{Hdr: h, Target: target})
	if b.kind == dns.TypeCNAME || b.kind == dns.TypeANY {
		return ""
	}
	return target
}

// maxNameOctets is RFC 1035 section 2.3.4.
const maxNameOctets = 255

// wireLength is the length of a name in a packet.
func wireLength(name string) int {
	var buffer [4 * maxNameOctets]byte
	n, err := dns.PackDomainName(name, buffer[:], 0, nil, false)
	if err != nil {
		return len(buffer)
	}
	return n
}

// negative begins an answer that says no: the SOA tells for how long (RFC 2308 section 3).
func (b *builder) negative(z *zone, rcode int) {
	b.m.Rcode = rcode
	ttl := min(z.soa.Hdr.Ttl, z.soa.Minttl)
	from := len(b.m.Ns)
	b.authority(z.apex.sets[dns.TypeSOA])
	for _, rr := range b.m.Ns[from:] {
		rr.Header().Ttl = ttl
	}
}

// referral sends the client to the servers of a delegated zone.
func (b *builder) referral(z *zone, cut string) {
	n := z.nodes[cut]
	if len(b.m.Answer) == 0 {
		b.m.Authoritative = false
	}
	servers := n.sets[dns.TypeNS]
	b.authority(&set{rrs: servers.rrs}) // unsigned: they are the child's (RFC 4035 section 2.2)
	if ds := n.has(dns.TypeDS); ds != nil && b.do && len(z.proofs) > 0 {
		b.authority(ds)
	} else {
		b.noDS(z, cut)
	}
	// Glue: only what the client cannot ask for, because it is below a delegation itself.
	glue := &set{}
	for _, rr := range servers.rrs {
		if z.belowCut(lower(rr.(*dns.NS).Ns)) {
			glue.rrs = append(glue.rrs, rr)
		}
	}
	b.addresses(z, glue, false)
}

// belowCut tells whether a name of the zone is at or below a delegation.
func (z *zone) belowCut(name string) bool {
	if !dns.IsSubDomain(z.Origin, name) {
		return false
	}
	for ; name != z.Origin; name = parent(name) {
		if n := z.nodes[name]; n != nil && n.has(dns.TypeNS) != nil {
			return true
		}
	}
	return false
}

// addresses adds those that the zone has of name servers.
func (b *builder) addresses(z *zone, servers *set, signed bool) {
	for _, rr := range servers.rrs {
		host := lower(rr.(*dns.NS).Ns)
		n := z.nodes[host]
		if n == nil || !dns.IsSubDomain(z.Origin, host) {
			continue
		}
		for _, kind := range []uint16{dns.TypeA, dns.TypeAAAA} {
			s := n.has(kind)
			if s == nil {
				continue
			}
			for _, rr := range s.rrs {
				b.m.Extra = append(b.m.Extra, dns.Copy(rr))
			}
			if signed && b.do {
				for _, rr := range s.sigs {
					b.m.Extra = append(b.m.Extra, dns.Copy(rr))
				}
			}
		}
	}
}
