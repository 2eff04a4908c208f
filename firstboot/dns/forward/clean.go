package forward

import (
	"strings"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"

	"rempart/firstboot/dns/cache"
	"rempart/firstboot/dns/wire"
)

// maxNegative bounds how long it is believed that something does not exist, in seconds (RFC 2308 5: up to three hours).
const maxNegative = 10800

// maxChain is how many aliases of one answer are followed: what is longer is a loop, or mischief.
const maxChain = 16

// clean makes a new answer of what of m answers the question of query: names that begin at the one asked for and are
// reached by aliases, and SOA and proofs where something does not exist.
func clean(query, m *dns.Msg) *dns.Msg {
	q := query.Question[0]
	out := new(dns.Msg)
	out.SetReply(query)
	out.Rcode = m.Rcode & 0xf
	out.AuthenticatedData = m.AuthenticatedData
	wantsProof := false
	if opt := query.IsEdns0(); opt != nil {
		wantsProof = opt.Do()
	}
	chain := names(q, m.Answer)
	for _, rr := range m.Answer {
		h := rr.Header()
		if h.Class != q.Qclass || !chain[strings.ToLower(h.Name)] {
			continue
		}
		if strings.EqualFold(h.Name, q.Name) {
			h.Name = q.Name // not in the letters that were sent to tell forgers: it is then a pointer to the question
		}
		switch t := h.Rrtype; {
		case t == q.Qtype, t == dns.TypeCNAME, t == dns.TypeDNAME, t == dns.TypeRRSIG && wantsProof:
			out.Answer = append(out.Answer, rr)
		}
	}
	for _, rr := range m.Ns {
		h := rr.Header()
		switch soa, is := rr.(*dns.SOA); {
		case h.Class != q.Qclass:
		case is && above(h.Name, chain):
			soa.Hdr.Ttl = min(soa.Hdr.Ttl, soa.Minttl, maxNegative) // RFC 2308 5
			out.Ns = append(out.Ns, soa)
		case wantsProof && (h.Rrtype == dns.TypeNSEC || h.Rrtype == dns.TypeNSEC3 || h.Rrtype == dns.TypeRRSIG ||
			h.Rrtype == dns.TypeDS):
			out.Ns = append(out.Ns, rr)
		}
	}
	return out
}

// names are those an answer may be about: the one asked for, what aliases lead to, and owners of the DNAMEs between.
func names(q dns.Question, records []dns.RR) map[string]bool {
	at := strings.ToLower(q.Name)
	chain := map[string]bool{at: true}
	for range maxChain {
		next := ""
		for _, rr := range records {
			owner := strings.ToLower(rr.Header().Name)
			switch rr := rr.(type) {
			case *dns.CNAME:
				if owner == at && q.Qtype != dns.TypeCNAME {
					next = strings.ToLower(rr.Target)
				}
			case *dns.DNAME:
				if owner != at && dns.IsSubDomain(owner, at) {
					chain[owner] = true
				}
			}
		}
		if next == "" || chain[next] {
			break
		}
		chain[next] = true
		at = next
	}
	return chain
}

// above tells whether one of the names is in the zone of an owner.
func above(owner string, chain map[string]bool) bool {
	for name := range chain {
		if dns.IsSubDomain(owner, name) {
			return true
		}
	}
	return false
}

// pack makes bytes of an answer, nil when it cannot be written; empty is its TTL when it has no records.
func pack(m *dns.Msg, empty uint32) *wire.Answer {
	m.Compress = true
	b, err := m.Pack()
	if err != nil {
		return nil
	}
	a, err := wire.NewAnswer(append(make([]byte, 0, len(b)), b...), empty)
	if err != nil {
		return nil
	}
	return a
}

// failure is the answer when there is none.
func failure(query *dns.Msg, code uint16, text string) *wire.Answer {
	m := new(dns.Msg)
	m.SetRcode(query, dns.RcodeServerFailure)
	a := pack(m, uint32(cache.FailureTTL/time.Second))
	if a != nil {
		a.Options = wire.AppendError(nil, code, text)
	}
	return a
}

// maxExplained bounds the extended errors that are passed on, in bytes.
const maxExplained = 256

// explanations are the extended errors of an answer.
func explanations(m *dns.Msg) (options []byte) {
	opt := m.IsEdns0()
	if opt == nil {
		return nil
	}
	for _, o := range opt.Option {
		if e, ok := o.(*dns.EDNS0_EDE); ok && len(options)+len(e.ExtraText) < maxExplained {
			options = wire.AppendError(options, e.InfoCode, e.ExtraText)
		}
	}
	return options
}

// counters of a Forwarder.
type counters struct{ asked, failed, shared, dropped, stale, refreshed, rebinding atomic.Uint64 }

// Counts are what became of questions that were forwarded.
type Counts struct {
	Asked     uint64 `json:"asked"`     // questions that went to others
	Failed    uint64 `json:"failed"`    // nobody answered
	Shared    uint64 `json:"shared"`    // clients that got the answer to somebody else's equal question
	Dropped   uint64 `json:"dropped"`   // no room for them
	Stale     uint64 `json:"stale"`     // answered with what is too old
	Refreshed uint64 `json:"refreshed"` // fetched anew before their end
	Rebinding uint64 `json:"rebinding"` // refused: a private address under a public name
}

// Counts since the start.
func (f *Forwarder) Counts() Counts {
	c := &f.counts
	return Counts{c.asked.Load(), c.failed.Load(), c.shared.Load(), c.dropped.Load(), c.stale.Load(), c.refreshed.Load(),
		c.rebinding.Load()}
}
