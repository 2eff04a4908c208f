package zone

import (
	"iter"
	"slices"

	"github.com/miekg/dns"

	"rempart/firstboot/dns/answer"
)

// serial answers a question for a whole zone that comes where one message is the answer: with the SOA alone, which
// tells a client to come by TCP (RFC 1995 section 2), or refused.
func (z *zone) serial(q *answer.Query) *dns.Msg {
	if q.Question().Qtype == dns.TypeAXFR || q.Name() != z.Origin || !z.gives(q) {
		return answer.Explain(answer.Reply(q, dns.RcodeRefused), dns.ExtendedErrorCodeProhibited,
			"zones are given by TCP, to hosts that may have them")
	}
	m := answer.Reply(q, dns.RcodeSuccess)
	m.Authoritative = true
	m.Answer = []dns.RR{dns.Copy(z.soa)}
	return m
}

// gives tells whether a client may have the whole zone.
func (z *zone) gives(q *answer.Query) bool {
	return z.Transfer != nil && allows(z.Transfer, q) && allows(z.Query, q)
}

// maxTransfer is about how many bytes of records go into one message of a transfer: a fourth of what TCP could carry,
// so that names are compressed (pointers reach 16 KiB, RFC 1035 section 4.1.4).
const maxTransfer = 16 << 10

// Transfer returns the messages of a transfer (RFC 5936 section 2.2), false where Answer has to be asked: the query is
// for no transfer of one of the zones by TCP, or the client may not have it. A client that asks for what changed gets
// all (RFC 1995 section 4).
func (all *Zones) Transfer(q *answer.Query) (iter.Seq[*dns.Msg], bool) {
	kind := q.Question().Qtype
	z := all.zones[q.Name()]
	if kind != dns.TypeAXFR && kind != dns.TypeIXFR || !q.TCP || z == nil || !z.gives(q) {
		return nil, false
	}
	return func(yield func(*dns.Msg) bool) {
		m, size := z.message(q), 0
		add := func(rr dns.RR) bool {
			if n := dns.Len(rr); size > 0 && size+n > maxTransfer {
				if !yield(m) {
					return false
				}
				m, size = z.message(q), 0
			}
			m.Answer = append(m.Answer, dns.Copy(rr))
			size += dns.Len(rr)
			return true
		}
		if !add(z.soa) {
			return
		}
		for _, r := range z.Records {
			if r.RR != dns.RR(z.soa) && !add(r.RR) {
				return
			}
		}
		if add(z.soa) {
			yield(m)
		}
	}, true
}

func (z *zone) message(q *answer.Query) *dns.Msg {
	m := answer.Reply(q, dns.RcodeSuccess)
	m.Authoritative, m.Compress = true, true
	m.Answer = slices.Grow(m.Answer, 64)
	return m
}
