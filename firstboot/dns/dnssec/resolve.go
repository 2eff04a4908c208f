package dnssec

import (
	"context"

	"github.com/miekg/dns"
)

// resolve asks a question and proves the answer. The answer holds what was proven, or is provably unsigned, and nothing
// else: what an upstream adds beyond the question is not taken.
func (v *Validator) resolve(ctx context.Context, b *budget, q dns.Question, depth int) (*dns.Msg, error) {
	m, err := v.ask(ctx, b, q.Name, q.Qtype)
	if err != nil {
		return nil, err
	}
	m = m.Copy() // the next one may have given it to others, too; times to live are cut below
	r := &result{v: v, b: b, m: m, sets: setsOf(m.Answer), out: &dns.Msg{MsgHdr: dns.MsgHdr{Response: true,
		RecursionAvailable: m.RecursionAvailable, Rcode: m.Rcode}}, security: Secure}
	name, complete, err := r.follow(ctx, dns.CanonicalName(q.Name), q.Qtype)
	switch {
	case err != nil:
		return nil, err
	case complete:
		r.out.Rcode = dns.RcodeSuccess
	case m.Rcode == dns.RcodeYXDomain: // a DNAME made a name that is too long; the DNAME was proven
		r.lower(Insecure)
	case len(r.out.Answer) > 0 && m.Rcode == dns.RcodeSuccess && !hasSOA(m):
		if depth >= maxLinks {
			return nil, errBudget
		}
		// The upstream did not follow the alias out of its zone.
		more, err := v.resolve(ctx, b, dns.Question{Name: name, Qtype: q.Qtype, Qclass: q.Qclass}, depth+1)
		if err != nil {
			return nil, err
		}
		r.out.Answer, r.out.Ns, r.out.Rcode = append(r.out.Answer, more.Answer...), more.Ns, more.Rcode
		if !more.AuthenticatedData {
			r.lower(Insecure)
		}
	default:
		if err := r.negative(ctx, name, q.Qtype); err != nil {
			return nil, err
		}
	}
	_, timed := v.timed()
	r.out.AuthenticatedData = r.security == Secure && timed
	return r.out, nil
}

func hasSOA(m *dns.Msg) bool {
	for _, rr := range m.Ns {
		if rr.Header().Rrtype == dns.TypeSOA {
			return true
		}
	}
	return false
}

// result is an answer as it is proven.
type result struct {
	v        *Validator
	b        *budget
	m        *dns.Msg // as it came
	sets     []*set   // of its answer section
	out      *dns.Msg
	security Security // of all that is in out
}

func (r *result) lower(s Security) { r.security = min(r.security, s) }

// follow proves the records of a name, and of what it is an alias of as far as the answer goes. It returns the name
// that the answer ends at, and whether it has what was asked for.
func (r *result) follow(ctx context.Context, name string, kind uint16) (at string, complete bool, err error) {
	for range maxLinks {
		switch kind {
		case dns.TypeANY:
			for _, s := range r.sets {
				if s.name == name && len(s.rrs) > 0 {
					if err := r.take(ctx, s); err != nil {
						return name, false, err
					}
					complete = true
				}
			}
			if complete {
				return name, true, nil
			}
		case dns.TypeRRSIG: // signatures are not signed (RFC 4035 section 2.2)
			for _, s := range r.sets {
				if s.name == name && len(s.sigs) > 0 {
					r.out.Answer = append(r.out.Answer, (&set{sigs: s.sigs}).records()...)
					r.lower(Insecure)
					complete = true
				}
			}
			if complete {
				return name, true, nil
			}
		}
		if s := find(r.sets, name, kind); s != nil {
			return name, true, r.take(ctx, s)
		}
		alias := find(r.sets, name, dns.TypeCNAME)
		if alias == nil {
			return name, false, nil
		}
		target := dns.CanonicalName(alias.rrs[0].(*dns.CNAME).Target)
		if dname := r.dname(name); dname != nil && len(alias.sigs) == 0 {
			if err := r.take(ctx, dname); err != nil {
				return name, false, err
			}
			if len(alias.rrs) != 1 || substitute(name, dname) != target {
				return name, false, bogus(dns.ExtendedErrorCodeDNSBogus, "the alias of %s is not what its DNAME makes of it", name)
			}
			alias.limit(dname.ttl())
			r.out.Answer = append(r.out.Answer, alias.rrs...)
		} else if err := r.take(ctx, alias); err != nil {
			return name, false, err
		}
		name = target
	}
	return name, false, errBudget
}

// dname is the DNAME in the answer that is above a name.
func (r *result) dname(name string) *set {
	for _, s := range r.sets {
		if s.kind == dns.TypeDNAME && len(s.rrs) == 1 && s.name != name && dns.IsSubDomain(s.name, name) {
			return s
		}
	}
	return nil
}

// substitute is what a DNAME makes of a name below it (RFC 6672 section 2.2).
func substitute(name string, dname *set) string {
	target := dns.CanonicalName(dname.rrs[0].(*dns.DNAME).Target)
	prefix := name[:len(name)-len(dname.name)]
	if dname.name == "." {
		prefix = name
	}
	if target == "." {
		return prefix
	}
	return prefix + target
}

// take proves a set and puts it into the answer.
func (r *result) take(ctx context.Context, s *set) error {
	z, security, err := r.signer(ctx, s)
	if err != nil {
		return err
	}
	if security == Secure {
		sig, err := r.v.verify(r.b, z, s)
		if err != nil {
			return err
		}
		if next, wild := expanded(s, sig); wild {
			d, err := r.v.denials(r.b, z, r.m)
			if err != nil {
				return err
			}
			if security, err = d.noCloser(r.b, s.name, next); err != nil {
				return err
			}
			s.limit(d.ttl)
			for _, proof := range d.sets {
				r.out.Ns = append(r.out.Ns, proof.records()...)
			}
		}
	}
	r.lower(security)
	r.out.Answer = append(r.out.Answer, s.records()...)
	return nil
}

// signer is the zone that is to have signed a set, and whether it is secure. Without a signature that could be, the
// chain down to the name has to end before it.
func (r *result) signer(ctx context.Context, s *set) (zone, Security, error) {
	lowest := s.name
	if s.kind == dns.TypeDS {
		lowest = parent(s.name)
	}
	for i, sig := range s.sigs {
		if i >= maxSignatures {
			break
		}
		if name := dns.CanonicalName(sig.SignerName); dns.IsSubDomain(name, lowest) {
			return r.v.security(ctx, r.b, name)
		}
	}
	z, security, err := r.v.security(ctx, r.b, lowest)
	if err == nil && security == Secure {
		err = bogus(dns.ExtendedErrorCodeRRSIGsMissing, "%s %s is not signed, and %s is", s.name, dns.Type(s.kind), z.name)
	}
	return z, security, err
}

// negative proves that what was asked for is not there, and puts why into the answer.
func (r *result) negative(ctx context.Context, name string, kind uint16) error {
	lowest := name
	if kind == dns.TypeDS && name != "." {
		lowest = parent(name)
	}
	z, security, signed, err := r.denier(ctx, lowest)
	if err != nil {
		return err
	}
	if !signed {
		if z, security, err = r.v.security(ctx, r.b, lowest); err == nil && security == Secure {
			err = bogus(dns.ExtendedErrorCodeNSECMissing, "%s is signed and does not prove what it denies of %s", z.name, name)
		}
		if err != nil {
			return err
		}
	}
	if security == Insecure {
		r.lower(Insecure)
		r.out.Ns = append(r.out.Ns, r.m.Ns...)
		return nil
	}
	d, err := r.v.denials(r.b, z, r.m)
	if err == nil {
		if r.m.Rcode == dns.RcodeNameError {
			security, err = d.noName(r.b, name)
		} else {
			security, err = d.noData(r.b, name, kind)
		}
	}
	if err != nil {
		// What was denied may be in an unsigned zone below, of which the upstream brought proof for another reason.
		if _, below, chainErr := r.v.security(ctx, r.b, lowest); chainErr != nil || below == Secure {
			return err
		}
		security = Insecure
	}
	r.lower(security)
	for _, s := range setsOf(r.m.Ns) {
		switch {
		case len(s.rrs) == 0:
		case s.kind == dns.TypeSOA && security == Secure:
			if s.name != z.name {
				continue
			}
			if _, err := r.v.verify(r.b, z, s); err != nil {
				return err
			}
			s.limit(d.ttl)
			fallthrough
		case s.kind == dns.TypeSOA, s.kind == dns.TypeNSEC, s.kind == dns.TypeNSEC3:
			r.out.Ns = append(r.out.Ns, s.records()...)
		}
	}
	return nil
}

// denier is the zone that signed the proofs of absence in an answer; false: nobody did who could speak for the name.
func (r *result) denier(ctx context.Context, lowest string) (z zone, s Security, signed bool, err error) {
	for _, proof := range setsOf(r.m.Ns) {
		if proof.kind != dns.TypeNSEC && proof.kind != dns.TypeNSEC3 {
			continue
		}
		for _, sig := range proof.sigs {
			if name := dns.CanonicalName(sig.SignerName); dns.IsSubDomain(name, lowest) {
				z, s, err = r.v.security(ctx, r.b, name)
				return z, s, true, err
			}
		}
	}
	return z, s, false, nil
}
