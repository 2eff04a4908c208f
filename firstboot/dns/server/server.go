// Package server takes queries from hosts and sends answers: who may ask and for whom others are asked, answers from
// the cache without taking a message apart, and from the sources in their order. What is sent to addresses that might
// be forged is bounded in size and in number, so that nobody is hit by our answers.
//
// What it deliberately does not do: know any name, ask anybody, or answer on a link nobody named.
package server

import (
	"context"
	"encoding/binary"
	"log/slog"
	"net/netip"
	"time"

	"github.com/miekg/dns"

	"rempart/firstboot/dns/answer"
	"rempart/firstboot/dns/forward"
	"rempart/firstboot/dns/wire"
)

// Server answers queries; all fields are set before the first one.
type Server struct {
	Sources []answer.Source // asked in this order, before the cache
	Forward *forward.Forwarder
	Log     *slog.Logger
	Queries bool       // every query goes to the log
	Zones   Transferer // gives whole zones; nil: there are none
	Counts  Counts

	cookies cookies
	rates   rates

	transfers chan struct{}
	places    *places
}

// New returns a server that asks sources, then f.
func New(sources []answer.Source, f *forward.Forwarder, queries bool, log *slog.Logger) *Server {
	return &Server{Sources: sources, Forward: f, Log: log, Queries: queries, cookies: newCookies(), rates: newRates(),
		transfers: make(chan struct{}, maxTransfers), places: newPlaces()}
}

// request is one query on its way.
type request struct {
	wire.Query
	from   netip.Addr
	access *Access
	tcp    bool
	secure bool // by TLS
	// trusted: the source is no forgery, as TCP or a cookie of ours shows.
	trusted bool
	recurse bool
	// waits: it runs by itself and may wait for others; chasing: it does so for what an alias of ours leads to.
	waits, chasing bool
	cookie         []byte // of ours, for the answer
	room           [serverCookie]byte
}

// generation is that of all sources: what was decided under one holds for as long as it stays.
func (s *Server) generation() (g uint64) {
	for _, source := range s.Sources {
		g += source.Generation()
	}
	return g
}

// verdict is what the short way says of a query.
type verdict int

const (
	answered verdict = iota // what was appended is to be sent
	dropped                 // nothing is sent
	longer                  // the long way
)

// short answers what can be answered at once: refusals, and what is in the cache. It does not allocate.
func (s *Server) short(r *request, in, dst []byte) ([]byte, verdict) {
	s.Counts.queries.Add(1)
	mayAsk, mayRecurse := r.access.may(r.from)
	if !mayAsk {
		s.Counts.refused.Add(1)
		return dst, dropped // silence: a refusal could be sent to somebody who never asked
	}
	r.recurse = mayRecurse
	if !r.Parse(in) {
		s.Counts.unusual.Add(1)
		return s.unusual(r, in, dst)
	}
	r.trusted = r.tcp
	if r.Cookie() != nil {
		if s.cookies.ours(r.Cookie(), r.from) {
			r.trusted = true
		}
		r.cookie = s.cookies.append(r.room[:0], r.Cookie()[:wire.ClientCookie], r.from)
	}
	if !r.recurse && !r.trusted {
		switch s.rates.take(r.from, r.access.Limit) {
		case pass:
		case slip:
			s.Counts.limited.Add(1)
			return r.AppendEmpty(dst, 0, wire.FlagTC, r.reply(0, 0), nil), answered
		default:
			s.Counts.limited.Add(1)
			return dst, dropped
		}
	}
	if s.Queries {
		s.say(r)
	}
	if r.Class != dns.ClassINET {
		s.Counts.refused.Add(1)
		return r.AppendEmpty(dst, dns.RcodeRefused, 0, r.reply(0, 0), nil), answered
	}
	if !r.recurse {
		return dst, longer // what others said is none of this client's
	}
	var room [wire.MaxKey]byte
	generation := s.generation()
	f := s.Forward.Cache.Get(r.Key(room[:0], r.access.View), s.Forward.Cache.Now(), generation)
	if f.Answer == nil || f.Stale || f.Old || r.Flags&wire.FlagRD == 0 {
		return dst, longer
	}
	if f.Refresh {
		s.Forward.Refresh(&r.Query, r.access.View, generation)
	}
	s.Counts.cached.Add(1)
	s.Counts.rcode(f.Answer.Rcode())
	return f.Answer.Append(dst, &r.Query, r.reply(f.Age, 0)), answered
}

func (r *request) reply(age, stale uint32) wire.Reply {
	return wire.Reply{Age: age, Stale: stale, Recursion: r.recurse, TCP: r.tcp, Padded: r.secure, Cookie: r.cookie,
		Idle: idle}
}

// unusual answers what is no ordinary query, if at all (RFC 1035 4.1.1, RFC 6891 6.1.3).
func (s *Server) unusual(r *request, in, dst []byte) ([]byte, verdict) {
	if len(in) < wire.HeaderSize || binary.BigEndian.Uint16(in[2:])&wire.FlagQR != 0 {
		return dst, dropped // an answer to an answer would go on for ever
	}
	if !r.tcp && s.rates.take(r.from, unusualRate) != pass {
		return dst, dropped
	}
	var m dns.Msg
	err := m.Unpack(in)
	out := new(dns.Msg)
	out.Id, out.Response, out.Opcode, out.RecursionDesired = m.Id, true, m.Opcode, m.RecursionDesired
	switch opt := m.IsEdns0(); {
	case m.Opcode != dns.OpcodeQuery:
		out.Rcode = dns.RcodeNotImplemented
	case err == nil && opt != nil && opt.Version() != 0:
		out.Question = m.Question[:min(len(m.Question), 1)]
		out.Rcode = dns.RcodeBadVers
		out.SetEdns0(wire.UDPSize, false)
	default:
		out.Rcode = dns.RcodeFormatError
	}
	packed, err := out.Pack()
	if err != nil {
		return dst, dropped
	}
	return append(dst, packed...), answered
}

// unusualRate is how many answers a second a /24 or /56 gets to what is no query.
const unusualRate = 20

// local answers from the sources; false: none of them knows the name. It may run in the loop that reads packets, since
// sources do not wait for anybody.
func (s *Server) local(ctx context.Context, r *request, in, dst []byte) ([]byte, verdict) {
	q := &answer.Query{Msg: new(dns.Msg), From: r.from, Link: r.access.Link, TCP: r.tcp, Recurse: r.recurse}
	if err := q.Msg.Unpack(in); err != nil || len(q.Msg.Question) != 1 {
		return s.unusual(r, in, dst)
	}
	if r.Type == dns.TypeANY {
		s.Counts.any.Add(1)
		return s.send(r, minimal(q), dst)
	}
	if r.Type >= dns.TypeIXFR && r.Type <= dns.TypeMAILA && r.Type != dns.TypeANY {
		s.Counts.refused.Add(1) // transfers go another way, and mail ones are gone (RFC 1035 3.2.3)
		return r.AppendEmpty(dst, dns.RcodeRefused, 0, r.reply(0, 0), nil), answered
	}
	generation := s.generation()
	for _, source := range s.Sources {
		m, mine := source.Answer(ctx, q)
		switch {
		case !mine:
			continue
		case m == nil:
			return dst, dropped
		}
		s.Counts.local.Add(1)
		if target := dangling(m, r.Type); target != "" && r.recurse {
			return s.chase(ctx, r, q, m, target, dst)
		}
		return s.send(r, m, dst)
	}
	if !r.recurse {
		s.Counts.refused.Add(1)
		return r.AppendEmpty(dst, dns.RcodeRefused, 0, r.reply(0, 0),
			wire.AppendError(nil, dns.ExtendedErrorCodeNotAuthoritative, "")), answered
	}
	var room [wire.MaxKey]byte
	key := r.Key(room[:0], r.access.View)
	f := s.Forward.Cache.Get(key, s.Forward.Cache.Now(), generation)
	if f.Answer != nil && !f.Stale {
		s.Forward.Cache.Stamp(key, f.Answer, generation)
		s.Counts.cached.Add(1)
		s.Counts.rcode(f.Answer.Rcode())
		return f.Answer.Append(dst, &r.Query, r.reply(f.Age, 0)), answered
	}
	if r.Flags&wire.FlagRD == 0 { // nobody is to be asked for it (RFC 1034 4.3.1)
		s.Counts.refused.Add(1)
		return r.AppendEmpty(dst, dns.RcodeRefused, wire.FlagRA, r.reply(0, 0), nil), answered
	}
	return dst, longer
}

// minimal is the answer to ANY (RFC 8482 4.2): whoever asks for all there is gets less than what it asked with.
func minimal(q *answer.Query) *dns.Msg {
	m := answer.Reply(q, dns.RcodeSuccess)
	m.Answer = []dns.RR{&dns.HINFO{Hdr: dns.RR_Header{Name: q.Question().Name, Rrtype: dns.TypeHINFO,
		Class: dns.ClassINET, Ttl: 3600}, Cpu: "RFC8482"}}
	return m
}

// send appends a source's answer as the client is to get it.
func (s *Server) send(r *request, m *dns.Msg, dst []byte) ([]byte, verdict) {
	a := packed(m)
	if a == nil {
		s.Counts.failed.Add(1)
		return r.AppendEmpty(dst, dns.RcodeServerFailure, 0, r.reply(0, 0), nil), answered
	}
	s.Counts.rcode(a.Rcode())
	return a.Append(dst, &r.Query, r.reply(0, 0)), answered
}

// packed makes bytes of a source's answer; its OPT record is taken for what it explains.
func packed(m *dns.Msg) *wire.Answer {
	var options []byte
	extra := m.Extra[:0:0]
	for _, rr := range m.Extra {
		opt, ok := rr.(*dns.OPT)
		if !ok {
			extra = append(extra, rr)
			continue
		}
		for _, o := range opt.Option {
			if e, ok := o.(*dns.EDNS0_EDE); ok {
				options = wire.AppendError(options, e.InfoCode, e.ExtraText)
			}
		}
	}
	m.Extra, m.Compress = extra, true
	b, err := m.Pack()
	if err != nil {
		return nil
	}
	a, err := wire.NewAnswer(b, 0)
	if err != nil {
		return nil
	}
	a.Options = options
	return a
}

// long asks others and waits; it runs by itself. in is only looked at when r.chasing.
func (s *Server) long(ctx context.Context, r *request, in, dst []byte) ([]byte, verdict) {
	if r.waits = true; r.chasing {
		return s.local(ctx, r, in, dst)
	}
	var room [wire.MaxKey]byte
	generation := s.generation()
	f := s.Forward.Cache.Get(r.Key(room[:0], r.access.View), s.Forward.Cache.Now(), generation)
	if f.Answer != nil && !f.Stale {
		return f.Answer.Append(dst, &r.Query, r.reply(f.Age, 0)), answered // came meanwhile
	}
	got := s.Forward.Ask(ctx, &r.Query, r.access.View, r.from, f, generation)
	if got.Answer == nil {
		if r.tcp && ctx.Err() == nil {
			return r.AppendEmpty(dst, dns.RcodeServerFailure, wire.FlagRA, r.reply(0, 0), nil), answered
		}
		return dst, dropped // the client comes again, and finds room or an answer
	}
	s.Counts.forwarded.Add(1)
	s.Counts.rcode(got.Answer.Rcode())
	return got.Answer.Append(dst, &r.Query, r.reply(0, got.Stale)), answered
}

func (s *Server) say(r *request) {
	name, _, err := dns.UnpackDomainName(r.Name(), 0)
	if err != nil {
		return
	}
	s.Log.Info("query", "name", name, "type", dns.Type(r.Type).String(), "from", r.from)
}

// deadline of one query, whatever becomes of it.
const patience = 10 * time.Second
