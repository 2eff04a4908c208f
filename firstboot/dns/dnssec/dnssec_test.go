package dnssec

import (
	"testing"
	"time"

	"github.com/miekg/dns"
)

func validator(t testing.TB, u *upstream) *Validator {
	t.Helper()
	v, err := New(u, Config{Anchors: u.anchors})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func question(name string, kind uint16, do bool) *dns.Msg {
	q := new(dns.Msg)
	q.SetQuestion(name, kind)
	q.SetEdns0(1232, do)
	return q
}

// verdict is what an answer says of its data: "secure", "insecure", or the extended error of what is bogus; and its
// RCODE where it says that a name does not exist.
func verdict(m *dns.Msg, err error) string {
	if err != nil {
		return "error: " + err.Error()
	}
	if m.Rcode == dns.RcodeServerFailure {
		if opt := m.IsEdns0(); opt != nil {
			for _, o := range opt.Option {
				if e, ok := o.(*dns.EDNS0_EDE); ok {
					return dns.ExtendedErrorCodeToString[e.InfoCode]
				}
			}
		}
		return "SERVFAIL without a reason"
	}
	s := map[bool]string{true: "secure", false: "insecure"}[m.AuthenticatedData]
	if m.Rcode != dns.RcodeSuccess {
		s += " " + dns.RcodeToString[m.Rcode]
	}
	return s
}

type expectation struct {
	name string
	kind uint16
	want string
}

const (
	a   = dns.TypeA
	txt = dns.TypeTXT
	ds  = dns.TypeDS
)

// expectations are what is to be found in the tree; unbound agrees, see TestSameVerdictsAsUnbound.
func expectations() []expectation {
	all := []expectation{
		{".", dns.TypeSOA, "secure"},
		{"test.", dns.TypeDNSKEY, "secure"},
		{"nsec.test.", ds, "secure"},
		{"insecure.test.", ds, "secure"},
		{"nowhere.", a, "secure NXDOMAIN"},
		{"nothing.test.", a, "secure NXDOMAIN"},
		{"away.nsec3.test.", a, "secure"},
		{"away.insecure.test.", a, "insecure"},
		{"away.forged.test.", a, "secure"},
	}
	for _, z := range []string{"nsec.test.", "nsec3.test."} {
		all = append(all, []expectation{
			{z, dns.TypeSOA, "secure"}, {"www." + z, a, "secure"}, {"www." + z, dns.TypeAAAA, "secure"},
			{"www." + z, dns.TypeMX, "secure"}, {"alias." + z, a, "secure"}, {"alias." + z, dns.TypeMX, "secure"},
			{"x.wild." + z, a, "secure"}, {"x.y.wild." + z, a, "secure"}, {"x.wild." + z, txt, "secure"},
			{"nothing." + z, a, "secure NXDOMAIN"}, {"x.y.nothing." + z, a, "secure NXDOMAIN"},
			{"c." + z, a, "secure"}, {"b.c." + z, a, "secure"}, {"a.b.c." + z, txt, "secure"},
			{"x.b.c." + z, a, "secure NXDOMAIN"},
			{"x.d." + z, txt, "secure"}, {"y.d." + z, a, "secure NXDOMAIN"}, {"sub." + z, ds, "secure"},
			{"nothing." + z, ds, "secure NXDOMAIN"},
		}...)
	}
	all = append(all, []expectation{
		{"www.optout.test.", a, "secure"}, {"www.optout.test.", dns.TypeMX, "secure"},
		{"nothing.optout.test.", a, "insecure NXDOMAIN"}, {"sub.optout.test.", ds, "insecure"},
	}...)
	for _, z := range []string{"insecure.test.", "island.test.", "sha1ds.test."} {
		all = append(all, []expectation{{"www." + z, a, "insecure"}, {"nothing." + z, a, "insecure NXDOMAIN"},
			{"www." + z, dns.TypeMX, "insecure"}, {"alias." + z, a, "insecure"}, {"x.wild." + z, a, "insecure"}}...)
	}
	return append(all, []expectation{
		{"www.iterations.test.", a, "secure"}, {"nothing.iterations.test.", a, "insecure NXDOMAIN"},
		{"www.wrongds.test.", a, "DNSKEY Missing"}, {"nothing.wrongds.test.", a, "DNSKEY Missing"},
		{"www.expired.test.", a, "Signature Expired"}, {"nothing.expired.test.", a, "Signature Expired"},
		{"www.early.test.", a, "Signature Not Yet Valid"},
		{"www.forged.test.", a, "DNSSEC Bogus"}, {"alias.forged.test.", a, "DNSSEC Bogus"},
		{"www.forged.test.", dns.TypeAAAA, "secure"},
		{"www.unsigned.test.", a, "RRSIGs Missing"}, {"nothing.unsigned.test.", a, "RRSIGs Missing"},
		{"www.nokeys.test.", a, "DNSKEY Missing"},
		{"www.hidden.test.", a, "NSEC Missing"}, {"www.hidden3.test.", a, "NSEC Missing"},
		{"www.badsig.test.", a, "DNSSEC Bogus"}, {"x.wild.badsig.test.", a, "DNSSEC Bogus"},
	}...)
}

func TestVerdicts(t *testing.T) {
	u := &upstream{tree: theTree(t)}
	v := validator(t, u)
	for _, e := range expectations() {
		m, err := v.Exchange(t.Context(), question(e.name, e.kind, true))
		if got := verdict(m, err); got != e.want {
			t.Errorf("%s %s: %s; want %s\n%v", e.name, dns.Type(e.kind), got, e.want, m)
		}
		if m != nil && m.Rcode == dns.RcodeServerFailure && len(m.Answer)+len(m.Ns) > 0 {
			t.Errorf("%s %s: SERVFAIL with records:\n%v", e.name, dns.Type(e.kind), m)
		}
	}
	if c := v.Counts(); c.Secure == 0 || c.Insecure == 0 || c.Bogus == 0 ||
		c.Secure+c.Insecure+c.Bogus != uint64(len(expectations())) {
		t.Errorf("Counts() = %+v; want each answer counted once", c)
	}
	t.Logf("%d verdicts took %d questions", len(expectations()), len(u.asked))
}

// TestEachAlone: the same with a validator that knows nothing yet, each time.
func TestEachAlone(t *testing.T) {
	u := &upstream{tree: theTree(t)}
	most := 0
	for _, e := range expectations() {
		u.asked = nil
		m, err := validator(t, u).Exchange(t.Context(), question(e.name, e.kind, false))
		if got := verdict(m, err); got != e.want {
			t.Errorf("%s %s: %s; want %s\n%v", e.name, dns.Type(e.kind), got, e.want, m)
		}
		most = max(most, len(u.asked))
		if m == nil {
			continue
		}
		for _, rr := range append(m.Answer, m.Ns...) {
			switch rr.Header().Rrtype {
			case dns.TypeRRSIG, dns.TypeNSEC, dns.TypeNSEC3:
				t.Errorf("%s %s: without DO the answer has %v", e.name, dns.Type(e.kind), rr)
			}
		}
	}
	t.Logf("at most %d questions", most)
}

// TestTampering: of every record that any answer needs, each that is taken away makes it bogus, or leaves what it is;
// nothing becomes insecure by it, and no other answer comes of it.
func TestTampering(t *testing.T) {
	u := &upstream{tree: theTree(t)}
	for _, e := range []expectation{{"www.nsec.test.", a, ""}, {"x.wild.nsec.test.", a, ""}, {"nothing.nsec.test.", a, ""},
		{"www.nsec3.test.", dns.TypeMX, ""}, {"x.wild.nsec3.test.", a, ""}, {"nothing.nsec3.test.", a, ""},
		{"x.d.nsec.test.", txt, ""}, {"c.nsec3.test.", a, ""}} {
		u.change = nil
		want, err := validator(t, u).Exchange(t.Context(), question(e.name, e.kind, true))
		if err != nil || !want.AuthenticatedData {
			t.Fatalf("%s: %v, %v", e.name, want, err)
		}
		for n := 0; ; n++ { // the nth record of all that is answered
			seen, done := 0, false
			u.change = func(m *dns.Msg) {
				for _, section := range []*[]dns.RR{&m.Answer, &m.Ns} {
					for i := range *section {
						if seen++; seen == n+1 && !done {
							*section, done = append((*section)[:i:i], (*section)[i+1:]...), true
							return
						}
					}
				}
			}
			m, err := validator(t, u).Exchange(t.Context(), question(e.name, e.kind, true))
			if err != nil {
				t.Fatal(err)
			}
			if !done {
				break
			}
			if m.Rcode != dns.RcodeServerFailure && (!m.AuthenticatedData || m.Rcode != want.Rcode ||
				len(m.Answer) != len(want.Answer)) {
				t.Errorf("%s %s without record %d: %s\n%v", e.name, dns.Type(e.kind), n, verdict(m, nil), m)
			}
		}
	}
}

// TestReplacedAnswers: an answer of one name does not do for another, nor a denial of one for a name that exists.
func TestReplacedAnswers(t *testing.T) {
	u := &upstream{tree: theTree(t)}
	v := validator(t, u)
	denied := question("nothing.nsec.test.", a, true)
	denial, err := u.Exchange(t.Context(), denied)
	if err != nil {
		t.Fatal(err)
	}
	for name, instead := range map[string]*dns.Msg{"www.nsec.test.": denial, "www.nsec3.test.": denial,
		"x.wild.nsec.test.": denial} {
		u.change = func(m *dns.Msg) {
			if m.Question[0].Name == name {
				m.Rcode, m.Answer, m.Ns = instead.Rcode, nil, instead.Ns
			}
		}
		m, err := v.Exchange(t.Context(), question(name, a, true))
		if got := verdict(m, err); got != "NSEC Missing" {
			t.Errorf("%s with the denial of another: %s; want NSEC Missing", name, got)
		}
	}
	// An upstream that knows nothing of DNSSEC: nothing is believed.
	u.change = func(m *dns.Msg) { strip(m, 0) }
	m, err := validator(t, u).Exchange(t.Context(), question("www.nsec.test.", a, true))
	if got := verdict(m, err); got != "RRSIGs Missing" {
		t.Errorf("without any signatures: %s; want RRSIGs Missing", got)
	}
}

func TestWithoutAClock(t *testing.T) {
	u := &upstream{tree: theTree(t)}
	now := time.Unix(1000, 0)
	v, err := New(u, Config{Anchors: u.anchors, Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"www.nsec.test.": "insecure", "www.expired.test.": "insecure",
		"www.forged.test.": "DNSSEC Bogus"} {
		m, err := v.Exchange(t.Context(), question(name, a, true))
		if got := verdict(m, err); got != want {
			t.Errorf("%s before the clock is set: %s; want %s", name, got, want)
		}
	}
	now = time.Now()
	for name, want := range map[string]string{"www.nsec.test.": "secure", "www.expired.test.": "Signature Expired"} {
		m, err := v.Exchange(t.Context(), question(name, a, true))
		if got := verdict(m, err); got != want {
			t.Errorf("%s once the clock is set: %s; want %s", name, got, want)
		}
	}
}

func TestNegativeAnchors(t *testing.T) {
	u := &upstream{tree: theTree(t)}
	v, err := New(u, Config{Anchors: u.anchors, Unsigned: []string{"Forged.test", "corp.nsec.test."}})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"www.forged.test.": "insecure", "www.nsec.test.": "secure",
		"www.badsig.test.": "DNSSEC Bogus"} {
		m, err := v.Exchange(t.Context(), question(name, a, true))
		if got := verdict(m, err); got != want {
			t.Errorf("%s: %s; want %s", name, got, want)
		}
	}
}

// TestCheckingDisabled: who sets CD validates for itself.
func TestCheckingDisabled(t *testing.T) {
	u := &upstream{tree: theTree(t), change: func(m *dns.Msg) { m.AuthenticatedData = true }}
	q := question("www.forged.test.", a, true)
	q.CheckingDisabled = true
	m, err := validator(t, u).Exchange(t.Context(), q)
	if err != nil || m.Rcode != dns.RcodeSuccess || m.AuthenticatedData || len(m.Answer) != 2 {
		t.Errorf("with CD: %v, %v; want the answer as it came, without AD", m, err)
	}
}

func TestAnchors(t *testing.T) {
	if _, err := New(nil, Config{Anchors: []dns.RR{&dns.A{}}}); err == nil {
		t.Error("New with an anchor that is none = nil; want an error")
	}
	v, err := New(&upstream{tree: theTree(t)}, Config{})
	if err != nil {
		t.Fatal(err)
	}
	m, err := v.Exchange(t.Context(), question("www.nsec.test.", a, true))
	if got := verdict(m, err); got != "DNSKEY Missing" {
		t.Errorf("below a root of other keys: %s; want DNSKEY Missing", got)
	}
}
