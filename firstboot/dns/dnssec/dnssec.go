// Package dnssec validates what upstreams answer (RFC 4033 to 4035, RFC 5155, RFC 6840): from the keys of the root
// down to each set of records, and that what is said not to exist does not. What does not hold is answered SERVFAIL
// with an extended error that says why (RFC 8914); what is not signed, provably, is answered as it came; what holds
// carries AD.
//
// It validates here instead of trusting the AD bit of an upstream: that is one more host to trust than is needed, and
// none at all can be when the upstream is the ISP's.
//
// Until the clock shows a possible time, signatures are checked but not when they hold, and nothing carries AD: else a
// guest without a clock could never resolve the name of the server that tells it the time. A recorded answer can be
// replayed to such a guest, a forged one cannot.
//
// What it deliberately does not do: ask the authoritative servers (the next Exchanger does what it does), follow root
// keys as they roll (RFC 5011): a new rempart brings new anchors, or support SHA-1, which RFC 9905 retired: zones that
// have nothing else count as unsigned.
package dnssec

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sync/singleflight"

	"rempart/firstboot/dns/answer"
)

// Config says what is believed.
type Config struct {
	Anchors []dns.RR // DS records of the root's keys; nil: RootAnchors
	// Unsigned are domains, absolute, whose answers are not validated (negative trust anchors, RFC 7646): those that the
	// profile has asked of servers of its own, which the root does not know.
	Unsigned []string
	Now      func() time.Time // nil: time.Now
}

// earliest is a time before which no clock is right: this program is younger. Seconds since 1970: 2026-01-01.
const earliest = 1767225600

// Validator is an Exchanger that believes the next one only what it can prove.
type Validator struct {
	next     answer.Exchanger
	anchors  []*dns.DS
	unsigned map[string]bool
	clock    func() time.Time
	flights  singleflight.Group
	counts   struct{ secure, insecure, bogus atomic.Uint64 }

	mu    sync.Mutex
	cuts  map[string]cut // by name: what lies there
	bytes int            // of their keys
}

// New returns a validator of what next answers. The error tells of anchors that are no DS of the root.
func New(next answer.Exchanger, c Config) (*Validator, error) {
	v := &Validator{next: next, unsigned: map[string]bool{}, clock: c.Now, cuts: map[string]cut{}}
	if v.clock == nil {
		v.clock = time.Now
	}
	if c.Anchors == nil {
		c.Anchors = RootAnchors()
	}
	for _, rr := range c.Anchors {
		ds, ok := rr.(*dns.DS)
		if !ok || ds.Hdr.Name != "." {
			return nil, fmt.Errorf("trust anchor %v: want a DS of the root", rr)
		}
		v.anchors = append(v.anchors, ds)
	}
	for _, name := range c.Unsigned {
		v.unsigned[dns.CanonicalName(name)] = true
	}
	return v, nil
}

// RootAnchors are the DS records of the root's keys, KSK-2017 and KSK-2024, as IANA publishes them
// (https://data.iana.org/root-anchors/root-anchors.xml).
func RootAnchors() []dns.RR {
	h := dns.RR_Header{Name: ".", Rrtype: dns.TypeDS, Class: dns.ClassINET}
	return []dns.RR{
		&dns.DS{Hdr: h, KeyTag: 20326, Algorithm: dns.RSASHA256, DigestType: dns.SHA256,
			Digest: "e06d44b80b8f1d39a95c0b0d7c65d08458e880409bbc683457104237c7f8ec8d"},
		&dns.DS{Hdr: h, KeyTag: 38696, Algorithm: dns.RSASHA256, DigestType: dns.SHA256,
			Digest: "683d2d0acb8c9b712a1948b27f741219298d0a450d612c483af444a4c0fb2b16"},
	}
}

// Security is what validation finds (RFC 4035 section 4.3).
type Security int

// Secure: proven from the root. Insecure: proven that there is nothing to prove. All else is an error, a *Bogus where
// data is at fault.
const (
	Insecure Security = iota
	Secure
)

// Bogus is the error of data that should be provable and is not.
type Bogus struct {
	Code uint16 // extended error, RFC 8914 section 4
	Why  string
}

func (b *Bogus) Error() string { return b.Why }

func bogus(code uint16, format string, args ...any) error {
	return &Bogus{code, fmt.Sprintf(format, args...)}
}

// errBudget is the error of an answer that takes too much work: KeyTrap and its kin (CVE-2023-50387, CVE-2023-50868).
var errBudget = &Bogus{dns.ExtendedErrorCodeOther, "validating this takes more work than any honest zone needs"}

// maxLinks bounds how often an alias is followed to where the next Exchanger did not.
const maxLinks = 8

// Exchange asks the next Exchanger and validates its answer. A query with CD is not validated (RFC 4035 section 3.2.2).
// AD is set in the answer when all of it is proven, whatever the query says of AD: whether this client wants to hear it
// is for the server. Without DO in the query, the answer has no records that only validation needs.
func (v *Validator) Exchange(ctx context.Context, query *dns.Msg) (*dns.Msg, error) {
	if len(query.Question) != 1 || query.CheckingDisabled {
		m, err := v.next.Exchange(ctx, query)
		if m != nil && m.AuthenticatedData {
			m = m.Copy() // nothing was proven here
			m.AuthenticatedData = false
		}
		return m, err
	}
	q := query.Question[0]
	opt := query.IsEdns0()
	m, err := v.resolve(ctx, newBudget(), q, 0)
	if err != nil {
		var b *Bogus
		if !errors.As(err, &b) {
			return nil, err
		}
		v.counts.bogus.Add(1)
		m = new(dns.Msg)
		m.SetRcode(query, dns.RcodeServerFailure)
		return answer.Explain(m, b.Code, b.Why), nil
	}
	if m.AuthenticatedData {
		v.counts.secure.Add(1)
	} else {
		v.counts.insecure.Add(1)
	}
	m.Id, m.RecursionDesired, m.CheckingDisabled = query.Id, query.RecursionDesired, false
	m.Question = []dns.Question{q}
	if opt == nil || !opt.Do() {
		strip(m, q.Qtype)
	}
	return m, nil
}

// Counts are how many answers were proven, provably need no proof (or came before the clock was set), and were wrong.
type Counts struct {
	Secure   uint64 `json:"secure"`
	Insecure uint64 `json:"insecure"`
	Bogus    uint64 `json:"bogus"`
}

// Counts are those since the start.
func (v *Validator) Counts() Counts {
	return Counts{v.counts.secure.Load(), v.counts.insecure.Load(), v.counts.bogus.Load()}
}

// strip takes out what only validation needs (RFC 4035 section 3.2.1).
func strip(m *dns.Msg, asked uint16) {
	for _, section := range []*[]dns.RR{&m.Answer, &m.Ns} {
		var kept []dns.RR
		for _, rr := range *section {
			switch t := rr.Header().Rrtype; t {
			case dns.TypeRRSIG, dns.TypeNSEC, dns.TypeNSEC3:
				if t != asked {
					continue
				}
			}
			kept = append(kept, rr)
		}
		*section = kept
	}
}

// ask sends a question of validation's own: with DO, and CD so that what is bogus is seen here and not hidden behind a
// SERVFAIL (RFC 6840 section 5.9).
func (v *Validator) ask(ctx context.Context, b *budget, name string, kind uint16) (*dns.Msg, error) {
	if b.questions--; b.questions < 0 {
		return nil, errBudget
	}
	q := new(dns.Msg)
	q.SetQuestion(name, kind)
	q.SetEdns0(ednsSize, true)
	q.CheckingDisabled = true
	m, err := v.next.Exchange(ctx, q)
	if err != nil {
		return nil, err
	}
	if m.Rcode != dns.RcodeSuccess && m.Rcode != dns.RcodeNameError && m.Rcode != dns.RcodeYXDomain {
		return nil, fmt.Errorf("%s %s: %w: %s", name, dns.Type(kind), errRcode, dns.RcodeToString[m.Rcode])
	}
	return m, nil
}

// ednsSize is what DNS Flag Day 2020 agreed on, in bytes.
const ednsSize = 1232

var errRcode = errors.New("the upstream has no answer")

// timed tells the time, and whether it is one.
func (v *Validator) timed() (time.Time, bool) {
	now := v.clock()
	return now, now.Unix() >= earliest
}
