// Package zone answers for the zones the guest is authoritative for, as RFC 1034 section 4.3.2 says: delegations with
// their glue, wildcards (RFC 4592), DNAME (RFC 6672), names that own nothing but have names below them, aliases as far
// as they stay in the zones. A zone that was signed is served as it is, with its signatures and proofs of absence
// (RFC 4035 section 3.1, RFC 5155 section 7.2) for clients that want them. Hosts that may have a whole zone get it
// (RFC 5936).
//
// What it deliberately does not do: sign, take dynamic updates, notify or be notified, fill the additional section but
// with glue (what it would hold is one question away, and answers stay small for a forger), or check zones: package
// zonefile did when the master was built.
package zone

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/miekg/dns"

	"rempart/firstboot/dns/answer"
	"rempart/profiles/zonefile"
)

// Config is one zone.
type Config struct {
	Origin  string // absolute
	Records []zonefile.Record
	// Query are the clients that may ask at all; nil: all that the server listens to. Transfer are those that may have
	// the whole zone; nil: none. The guest itself may ask in any case.
	Query, Transfer []netip.Prefix
}

// set are the records of one type at one name, and their signatures.
type set struct {
	rrs, sigs []dns.RR
}

// node is a name of a zone; one without sets exists because names below it do.
type node struct {
	sets map[uint16]*set
}

// zone is one zone, as it is looked up in.
type zone struct {
	Config
	nodes  map[string]*node
	soa    *dns.SOA
	apex   *node
	proofs []proof // NSEC in canonical order of names, or NSEC3 in order of hashes; none: unsigned
	param  *dns.NSEC3PARAM
}

// Zones are all zones of the guest. It is a Source.
type Zones struct {
	zones map[string]*zone
}

// New makes zones of checked records.
func New(configs []Config) (*Zones, error) {
	all := &Zones{zones: map[string]*zone{}}
	for _, c := range configs {
		c.Origin = dns.CanonicalName(c.Origin)
		if all.zones[c.Origin] != nil {
			return nil, fmt.Errorf("zone %s is there twice", c.Origin)
		}
		z, err := newZone(c)
		if err != nil {
			return nil, err
		}
		all.zones[c.Origin] = z
	}
	return all, nil
}

func newZone(c Config) (*zone, error) {
	z := &zone{Config: c, nodes: map[string]*node{}}
	z.apex = z.make(c.Origin)
	proofs := collector{}
	for _, r := range c.Records {
		name := dns.CanonicalName(r.Header().Name)
		if !dns.IsSubDomain(c.Origin, name) {
			return nil, fmt.Errorf("zone %s: %s is not in it", c.Origin, name)
		}
		kind := r.Header().Rrtype
		sig, isSig := r.RR.(*dns.RRSIG)
		if isSig {
			kind = sig.TypeCovered
		}
		if kind == dns.TypeNSEC3 { // the names of hashes are no names of the zone (RFC 5155 section 7.2.8)
			proofs.add(name, r.RR)
			continue
		}
		if kind == dns.TypeNSEC {
			proofs.add(name, r.RR)
		}
		s := z.make(name).set(kind)
		if isSig {
			s.sigs = append(s.sigs, r.RR)
		} else {
			s.rrs = append(s.rrs, r.RR)
		}
	}
	if s := z.apex.sets[dns.TypeSOA]; s != nil && len(s.rrs) == 1 {
		z.soa, _ = s.rrs[0].(*dns.SOA)
	}
	if z.soa == nil {
		return nil, fmt.Errorf("zone %s has not one SOA", c.Origin)
	}
	if s := z.apex.sets[dns.TypeNSEC3PARAM]; s != nil && len(s.rrs) > 0 {
		z.param, _ = s.rrs[0].(*dns.NSEC3PARAM)
	}
	z.orderProofs(proofs)
	return z, nil
}

// make returns the node of a name, with those above it up to the origin.
func (z *zone) make(name string) *node {
	if n := z.nodes[name]; n != nil {
		return n
	}
	n := &node{sets: map[uint16]*set{}}
	z.nodes[name] = n
	if name != z.Origin {
		z.make(parent(name))
	}
	return n
}

func (n *node) set(kind uint16) *set {
	s := n.sets[kind]
	if s == nil {
		s = &set{}
		n.sets[kind] = s
	}
	return s
}

// has returns the records of a type, nil where there are none.
func (n *node) has(kind uint16) *set {
	if s := n.sets[kind]; s != nil && len(s.rrs) > 0 {
		return s
	}
	return nil
}

func parent(name string) string {
	i, end := dns.NextLabel(name, 0)
	if end {
		return "."
	}
	return name[i:]
}

// find is the zone a name is in: the one with the longest name of those that hold it.
func (all *Zones) find(name string) *zone {
	for {
		if z := all.zones[name]; z != nil {
			return z
		}
		if name == "." || name == "" {
			return nil
		}
		name = parent(name)
	}
}

// Origins are the names of the zones, sorted.
func (all *Zones) Origins() []string {
	var names []string
	for name := range all.zones {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Has tells whether a name, absolute and in lower case, owns anything in one of the zones.
func (all *Zones) Has(name string) bool {
	z := all.find(name)
	return z != nil && z.nodes[name] != nil
}

// Generation is constant: zones do not change while the guest runs.
func (all *Zones) Generation() uint64 { return 0 }

// Answer answers for names in the zones.
func (all *Zones) Answer(_ context.Context, q *answer.Query) (*dns.Msg, bool) {
	name, kind := q.Name(), q.Question().Qtype
	z := all.find(name)
	switch {
	case z == nil:
		return nil, false
	case kind == dns.TypeDS && name == z.Origin && name != ".":
		// What delegates the zone is its parent's to say (RFC 4035 section 3.1.4.1).
		up := all.find(parent(name))
		if up != nil {
			z = up
		} else if q.Recurse {
			return nil, false
		}
	}
	if !allows(z.Query, q) {
		return answer.Explain(answer.Reply(q, dns.RcodeRefused), dns.ExtendedErrorCodeProhibited,
			"not open to this client"), true
	}
	if kind == dns.TypeAXFR || kind == dns.TypeIXFR {
		return z.serial(q), true
	}
	b := &builder{all: all, m: answer.Reply(q, dns.RcodeSuccess), kind: kind, do: q.WantsDNSSEC(), query: q}
	b.m.Authoritative = true
	b.follow(z, name, q.Question().Name)
	return b.m, true
}

// allows tells whether a list has a client in it; nil has everybody in it.
func allows(list []netip.Prefix, q *answer.Query) bool {
	return list == nil || itself(q) || slices.ContainsFunc(list, func(p netip.Prefix) bool { return p.Contains(q.From) })
}

// itself tells whether the guest asks.
func itself(q *answer.Query) bool { return q.Link == "" && q.From.IsLoopback() }

// as makes records those of the name that was asked for, letter by letter: a wildcard's, or of another case.
func as(rrs []dns.RR, name string) []dns.RR {
	made := make([]dns.RR, len(rrs))
	for i, rr := range rrs {
		made[i] = dns.Copy(rr)
		made[i].Header().Name = name
	}
	return made
}

// lower is a name in lower case; DNS names are ASCII (RFC 4343).
func lower(name string) string { return strings.ToLower(name) }
