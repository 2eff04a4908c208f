package server

import (
	"context"
	"slices"
	"strings"

	"github.com/miekg/dns"

	"rempart/firstboot/dns/answer"
	"rempart/firstboot/dns/cache"
	"rempart/firstboot/dns/wire"
)

// maxChase is how many sources' answers one answer is made of: what is longer is a loop.
const maxChase = 8

// dangling is the name that the last alias of an answer leads to and about which it says nothing; empty: there is none.
func dangling(m *dns.Msg, qtype uint16) string {
	if len(m.Answer) == 0 || qtype == dns.TypeCNAME || m.Rcode != dns.RcodeSuccess {
		return ""
	}
	// What is not an alias but signs one comes after it, and what proves that a wildcard was right is no end of it.
	last := len(m.Answer) - 1
	for last > 0 && m.Answer[last].Header().Rrtype == dns.TypeRRSIG {
		last--
	}
	alias, ok := m.Answer[last].(*dns.CNAME)
	ended := func(rr dns.RR) bool { t := rr.Header().Rrtype; return t == dns.TypeSOA || t == dns.TypeNS }
	if !ok || slices.ContainsFunc(m.Ns, ended) {
		return ""
	}
	return alias.Target
}

// chase goes on where an alias of ours leads: to another source, or to others. Who asks others waits, so it runs by
// itself when the first source does not know the rest.
func (s *Server) chase(ctx context.Context, r *request, q *answer.Query, m *dns.Msg, target string,
	dst []byte) ([]byte, verdict) {
	if !r.waits {
		r.chasing = true
		return dst, longer
	}
	seen := map[string]bool{q.Name(): true}
	for range maxChase {
		if seen[strings.ToLower(target)] {
			break
		}
		seen[strings.ToLower(target)] = true
		next := s.resolve(ctx, r, q, target)
		if next == nil {
			m.Rcode = dns.RcodeServerFailure
			break
		}
		m.Answer = append(m.Answer, next.Answer...)
		m.Ns, m.Rcode = next.Ns, next.Rcode
		m.Authoritative, m.AuthenticatedData = false, false
		if target = dangling(next, r.Type); target == "" {
			break
		}
	}
	return s.send(r, m, dst)
}

// resolve answers for another name than the one the client asked for, nil when nobody does.
func (s *Server) resolve(ctx context.Context, r *request, q *answer.Query, name string) *dns.Msg {
	query := q.Msg.Copy()
	query.Question[0].Name = name
	other := &answer.Query{Msg: query, From: q.From, Link: q.Link, TCP: q.TCP, Recurse: q.Recurse}
	generation := s.generation()
	for _, source := range s.Sources {
		if m, mine := source.Answer(ctx, other); mine {
			return m
		}
	}
	raw, err := query.Pack()
	if err != nil {
		return nil
	}
	var wq wire.Query
	if !wq.Parse(raw) {
		return nil
	}
	var room [wire.MaxKey]byte
	f := s.Forward.Cache.Get(wq.Key(room[:0], r.access.View), s.Forward.Cache.Now(), generation)
	a, stale := f.Answer, uint32(0)
	if a == nil || f.Stale {
		f.Answer, f.Age = answerIf(f), 0
		got := s.Forward.Ask(ctx, &wq, r.access.View, r.from, f, generation)
		if a, stale = got.Answer, got.Stale; a == nil {
			return nil
		}
	}
	m := new(dns.Msg)
	if m.Unpack(a.Append(nil, &wq, wire.Reply{Age: f.Age, Stale: stale, Recursion: true, TCP: true})) != nil {
		return nil
	}
	return m
}

// answerIf is a stale answer, or nil.
func answerIf(f cache.Found) *wire.Answer {
	if f.Stale {
		return f.Answer
	}
	return nil
}
