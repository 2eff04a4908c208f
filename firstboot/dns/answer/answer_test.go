package answer

import (
	"strings"
	"testing"

	"github.com/miekg/dns"
)

func query(name string, do bool) *Query {
	m := new(dns.Msg)
	m.SetQuestion(name, dns.TypeA)
	if do {
		m.SetEdns0(1232, true)
	}
	return &Query{Msg: m}
}

func TestQuery(t *testing.T) {
	q := query("WWW.Example.ORG.", true)
	if got := q.Name(); got != "www.example.org." {
		t.Errorf("Name() = %q; want it in lower case", got)
	}
	if q.Question().Name != "WWW.Example.ORG." {
		t.Errorf("Question() = %v; want it as it was asked", q.Question())
	}
	if !q.WantsDNSSEC() || query("a.", false).WantsDNSSEC() {
		t.Error("WantsDNSSEC() does not say what DO says")
	}
}

func TestReply(t *testing.T) {
	q := query("WWW.Example.ORG.", true)
	m := Reply(q, dns.RcodeNameError)
	if m.Id != q.Msg.Id || !m.Response || m.Rcode != dns.RcodeNameError || m.Question[0] != q.Question() ||
		!m.RecursionDesired || m.RecursionAvailable || m.Authoritative {
		t.Errorf("Reply = %v", m)
	}
}

func TestExplain(t *testing.T) {
	m := Reply(query("a.", false), dns.RcodeServerFailure)
	Explain(m, dns.ExtendedErrorCodeDNSBogus, strings.Repeat("x", 500))
	Explain(m, dns.ExtendedErrorCodeOther, "y")
	if len(m.Extra) != 1 {
		t.Fatalf("%d additional records; want one OPT", len(m.Extra))
	}
	options := m.IsEdns0().Option
	first, ok := options[0].(*dns.EDNS0_EDE)
	if len(options) != 2 || !ok || len(first.ExtraText) != maxText || first.InfoCode != dns.ExtendedErrorCodeDNSBogus {
		t.Errorf("options = %v; want two errors, the first cut at %d", options, maxText)
	}
	if _, err := m.Pack(); err != nil {
		t.Error(err)
	}
}
