// Package answer is what the parts of the DNS server agree on: a query as it came in, who may know its answer, and the
// way to ask somebody else. The server asks its sources in order (names it was told to override or to block, local
// names, its own zones, the cache and the forwarder); the first that says "mine" answers.
//
// What it deliberately does not do: read or write packets, know any name, or decide who may ask (package server does).
package answer

import (
	"context"
	"net/netip"
	"strings"

	"github.com/miekg/dns"
)

// Query is one question of one client, whose right to ask has been looked at.
type Query struct {
	// Msg is the query: opcode QUERY, exactly one question of class IN, no extended RCODE, at most one OPT record. It is
	// shared with other sources: read it, never change it, never keep it.
	Msg *dns.Msg
	// From is the client's address, without a zone. It is unmapped: an IPv4 client has an IPv4 address.
	From netip.Addr
	// Link is the link of the profile that the query came in by; empty: the guest's own question, by loopback.
	Link string
	// TCP tells that the answer may have up to 65,535 bytes, and that From is no forgery. DNS over TLS counts as TCP.
	TCP bool
	// Recurse tells whether this client may have asked of others what the guest does not know itself.
	Recurse bool
}

// Question is the one question asked.
func (q *Query) Question() dns.Question { return q.Msg.Question[0] }

// Name is the name asked for, in lower case and with its final dot.
func (q *Query) Name() string { return strings.ToLower(q.Msg.Question[0].Name) }

// WantsDNSSEC tells whether the client set DO (RFC 3225): it wants signatures beside what they sign.
func (q *Query) WantsDNSSEC() bool {
	opt := q.Msg.IsEdns0()
	return opt != nil && opt.Do()
}

// Source knows some answers. Its methods are called by many goroutines at once.
type Source interface {
	// Answer returns the answer to q and true, or false when the name is none of its own: then the next source is asked.
	// The answer is a new message, made by Reply or like it, with the question as it was asked; the server adds the OPT
	// record, makes it fit the client's buffer and sets RA. Nil with true: the query is dropped, nothing is answered.
	// Answer returns soon after ctx is done.
	Answer(ctx context.Context, q *Query) (*dns.Msg, bool)
	// Generation changes whenever Answer could now say "mine" to what it said "not mine" before. The server answers from
	// its cache without asking a source again as long as its generation stays. It is called for every query: it must
	// cost no more than reading a counter. A source that never changes returns a constant.
	Generation() uint64
}

// Exchanger asks a question of others: an upstream, a group of them with their failover, or one that checks what the
// next one says. The query needs no id, which is chosen anew. An error means that there is no answer, which the
// client hears as SERVFAIL; an answer with an RCODE other than NOERROR is an answer.
type Exchanger interface {
	Exchange(ctx context.Context, query *dns.Msg) (*dns.Msg, error)
}

// Reply begins an answer to q: its question, id and RD, and nothing found so far.
func Reply(q *Query, rcode int) *dns.Msg {
	m := new(dns.Msg)
	m.SetReply(q.Msg)
	m.Rcode = rcode
	return m
}

// Explain adds an extended error (RFC 8914) to an answer: info is a dns.ExtendedErrorCode..., text is for people, in
// English, at most maxText bytes of it are sent. Clients that sent no OPT record never see it.
func Explain(m *dns.Msg, info uint16, text string) *dns.Msg {
	opt := m.IsEdns0()
	if opt == nil {
		opt = &dns.OPT{Hdr: dns.RR_Header{Name: ".", Rrtype: dns.TypeOPT}}
		m.Extra = append(m.Extra, opt)
	}
	opt.Option = append(opt.Option, &dns.EDNS0_EDE{InfoCode: info, ExtraText: text[:min(len(text), maxText)]})
	return m
}

// maxText bounds the words of an extended error, so that they never make an answer truncated (RFC 8914 section 2).
const maxText = 120
