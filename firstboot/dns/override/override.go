// Package override answers what the profile itself answers: its own names and aliases, names that are blocked, and
// names that are nobody else's business, such as those without a dot or the addresses of private networks.
//
// What it deliberately does not do: know the names of hosts (package local), or ask anybody.
package override

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/miekg/dns"

	"rempart/firstboot/dns/answer"
	"rempart/profiles"
	"rempart/profiles/blocklist"
)

// TTLs in seconds. What a profile says changes when the profile does; clients may not notice for half a minute.
const (
	ownTTL     = 30
	blockedTTL = 60
)

// Names answers what the profile names. It is an answer.Source.
type Names struct {
	own map[string]profiles.DNSName // by name in lower case with its final dot; "*." before those of wildcards
}

// NewNames returns the source of a profile's own answers.
func NewNames(names []profiles.DNSName) *Names {
	n := &Names{own: map[string]profiles.DNSName{}}
	for _, name := range names {
		n.own[name.Name+"."] = name
	}
	return n
}

// Generation is constant: a changed profile makes another server.
func (n *Names) Generation() uint64 { return 0 }

// maxAliases bounds a chain; check finds loops before, this is for what it does not see.
const maxAliases = 16

// Answer answers names of the profile.
func (n *Names) Answer(_ context.Context, q *answer.Query) (*dns.Msg, bool) {
	asked := q.Question()
	entry, ok := n.find(q.Name())
	if !ok {
		return nil, false
	}
	m := answer.Reply(q, dns.RcodeSuccess)
	owner := asked.Name
	for range maxAliases {
		if entry.Alias == "" {
			m.Answer = append(m.Answer, records(owner, asked.Qtype, entry.Addresses)...)
			break
		}
		target := entry.Alias + "."
		m.Answer = append(m.Answer, &dns.CNAME{Hdr: header(owner, dns.TypeCNAME, ownTTL), Target: target})
		if asked.Qtype == dns.TypeCNAME {
			break
		}
		owner = target
		if entry, ok = n.find(target); !ok {
			break // the server goes on from here
		}
	}
	if len(m.Answer) == 0 {
		m.Ns = []dns.RR{authority(asked.Name, ownTTL)}
	}
	return m, true
}

// Has tells whether a name, absolute and in lower case, is one of them.
func (n *Names) Has(name string) bool {
	_, ok := n.find(name)
	return ok
}

// find looks for a name and then for wildcards above it.
func (n *Names) find(name string) (profiles.DNSName, bool) {
	if len(n.own) == 0 {
		return profiles.DNSName{}, false
	}
	if e, ok := n.own[name]; ok {
		return e, true
	}
	for off, end := dns.NextLabel(name, 0); !end; off, end = dns.NextLabel(name, off) {
		if e, ok := n.own["*."+name[off:]]; ok {
			return e, true
		}
	}
	return profiles.DNSName{}, false
}

func header(name string, rrtype uint16, ttl uint32) dns.RR_Header {
	return dns.RR_Header{Name: name, Rrtype: rrtype, Class: dns.ClassINET, Ttl: ttl}
}

// records are the addresses of the family that was asked for.
func records(owner string, qtype uint16, addresses []netip.Addr) (all []dns.RR) {
	for _, a := range addresses {
		switch {
		case a.Is4() && qtype == dns.TypeA:
			all = append(all, &dns.A{Hdr: header(owner, dns.TypeA, ownTTL), A: a.AsSlice()})
		case a.Is6() && qtype == dns.TypeAAAA:
			all = append(all, &dns.AAAA{Hdr: header(owner, dns.TypeAAAA, ownTTL), AAAA: a.AsSlice()})
		}
	}
	return all
}

// authority is the SOA that lets a client remember that something does not exist (RFC 2308 3).
func authority(name string, ttl uint32) dns.RR {
	return &dns.SOA{Hdr: header(name, dns.TypeSOA, ttl), Ns: "localhost.", Mbox: "nobody.invalid.", Serial: 1,
		Refresh: 3600, Retry: 1200, Expire: 604800, Minttl: ttl} // RFC 6303 3
}

// Blocked keeps names from clients. It is an answer.Source.
type Blocked struct {
	table  blocklist.Table
	names  map[string]bool
	allow  map[string]bool
	zero   bool
	counts atomic.Uint64

	own        func(name string) bool
	lists      atomic.Pointer[[]blocklist.Table]
	generation atomic.Uint64
}

// NewBlocked returns the source of what b blocks, with the table of its files. own tells whether a name, absolute and
// in lower case, is in a domain of the guest's own: no list that is taken from elsewhere keeps such names from clients.
func NewBlocked(b *profiles.Block, table blocklist.Table, own func(name string) bool) *Blocked {
	s := &Blocked{table: table, own: own, names: map[string]bool{}, allow: map[string]bool{},
		zero: b.Answer == profiles.BlockZero}
	for _, name := range b.Names {
		s.names[name+"."] = true
	}
	for _, name := range b.Allow {
		s.allow[name+"."] = true
	}
	return s
}

// Generation changes with SetLists.
func (s *Blocked) Generation() uint64 { return s.generation.Load() }

// SetLists puts tables in the place of those before: of the lists that are taken from elsewhere.
func (s *Blocked) SetLists(all []blocklist.Table) {
	s.lists.Store(&all)
	s.generation.Add(1)
}

// Count is how many queries were for blocked names.
func (s *Blocked) Count() uint64 { return s.counts.Load() }

// Len is how many names there are, of files and of lists from elsewhere.
func (s *Blocked) Len() int {
	n := s.table.Len()
	if lists := s.lists.Load(); lists != nil {
		for _, t := range *lists {
			n += t.Len()
		}
	}
	return n
}

// Answer answers for blocked names: they do not exist, or have addresses that lead nowhere.
func (s *Blocked) Answer(_ context.Context, q *answer.Query) (*dns.Msg, bool) {
	name := q.Name()
	if !s.blocks(name) {
		return nil, false
	}
	s.counts.Add(1)
	asked := q.Question()
	m := answer.Reply(q, dns.RcodeNameError)
	if s.zero {
		m.Rcode = dns.RcodeSuccess
		m.Answer = records(asked.Name, asked.Qtype, []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()})
		for _, rr := range m.Answer {
			rr.Header().Ttl = blockedTTL
		}
	}
	if len(m.Answer) == 0 {
		m.Ns = []dns.RR{authority(asked.Name, blockedTTL)}
	}
	return answer.Explain(m, dns.ExtendedErrorCodeBlocked, ""), true
}

// blocks tells whether a name in lower case is blocked. Of names that are allowed and blocked, allowed wins.
func (s *Blocked) blocks(name string) bool {
	blocked := false
	for off, end := 0, false; !end; off, end = dns.NextLabel(name, off) {
		if s.allow[name[off:]] {
			return false
		}
		blocked = blocked || s.names[name[off:]]
	}
	if blocked {
		return true
	}
	var buf [256]byte
	n, err := dns.PackDomainName(name, buf[:], 0, nil, false)
	if err != nil {
		return false
	}
	if s.table.Blocks(buf[:n]) {
		return true
	}
	lists := s.lists.Load()
	return lists != nil && slices.ContainsFunc(*lists, func(t blocklist.Table) bool { return t.Blocks(buf[:n]) }) &&
		!s.own(name)
}

// Private answers for names that must not leave the network. It is an answer.Source.
type Private struct {
	routed func(name string) bool
}

// NewPrivate returns the source; routed tells whether the profile names somebody who is to be asked for a name, which
// is then not answered here.
func NewPrivate(routed func(name string) bool) *Private { return &Private{routed} }

// Generation is constant: what a name means does not change.
func (p *Private) Generation() uint64 { return 0 }

// Answer answers for names that mean something here or nothing at all.
func (p *Private) Answer(_ context.Context, q *answer.Query) (*dns.Msg, bool) {
	name := q.Name()
	asked := q.Question()
	if dns.IsSubDomain("localhost.", name) && !p.routed(name) { // RFC 6761 6.3
		m := answer.Reply(q, dns.RcodeSuccess)
		m.Answer = records(asked.Name, asked.Qtype,
			[]netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()})
		if len(m.Answer) == 0 {
			m.Ns = []dns.RR{authority(asked.Name, ownTTL)}
		}
		return m, true
	}
	zone, local := keptIn(name, asked.Qtype)
	if !local || p.routed(name) {
		return nil, false
	}
	rcode := dns.RcodeNameError
	if name == zone && zone != "" {
		rcode = dns.RcodeSuccess // the zone is there, and empty
	}
	m := answer.Reply(q, rcode)
	if zone == "" {
		zone = name
	}
	m.Ns = []dns.RR{authority(zone, ownTTL)}
	return m, true
}

// keptIn tells whether a name is kept in the network, and in which zone, empty for one without a dot.
func keptIn(name string, qtype uint16) (zone string, local bool) {
	if name == "." {
		return "", false
	}
	if strings.Count(name, ".") == 1 {
		// No host has a name without a dot. Whoever validates asks for these of top-level domains.
		switch qtype {
		case dns.TypeNS, dns.TypeDS, dns.TypeDNSKEY, dns.TypeSOA:
			_, kept := zones[name]
			return name, kept
		}
		return "", true
	}
	for off, end := 0, false; !end; off, end = dns.NextLabel(name, off) {
		if zones[name[off:]] {
			return name[off:], true
		}
	}
	return "", false
}
