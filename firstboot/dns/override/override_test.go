package override

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"rempart/firstboot/dns/answer"
	"rempart/profiles"
	"rempart/profiles/blocklist"
)

// said is what a source says: "-" for not mine, else the RCODE and the records.
func said(s answer.Source, name string, qtype uint16) string {
	m := new(dns.Msg)
	m.SetQuestion(name, qtype)
	got, mine := s.Answer(context.Background(), &answer.Query{Msg: m})
	if !mine {
		return "-"
	}
	words := []string{dns.RcodeToString[got.Rcode]}
	for _, rr := range got.Answer {
		_, data, _ := strings.Cut(rr.String(), rr.Header().String())
		words = append(words, data)
	}
	if len(got.Answer) == 0 && len(got.Ns) != 1 {
		words = append(words, "without SOA")
	}
	return strings.Join(words, " ")
}

type look struct {
	name  string
	qtype uint16
	want  string
}

func check(t *testing.T, s answer.Source, looks []look) {
	t.Helper()
	for _, l := range looks {
		if got := said(s, l.name, l.qtype); got != l.want {
			t.Errorf("%s %s: %q; want %q", l.name, dns.TypeToString[l.qtype], got, l.want)
		}
	}
}

func TestNames(t *testing.T) {
	addrs := func(all ...string) (out []netip.Addr) {
		for _, a := range all {
			out = append(out, netip.MustParseAddr(a))
		}
		return out
	}
	check(t, NewNames([]profiles.DNSName{
		{Name: "a.example", Addresses: addrs("10.0.0.1", "10.0.0.2", "fd00::1")}, {Name: "b.example", Alias: "a.example"},
		{Name: "out.example", Alias: "www.example.org"}, {Name: "*.w.example", Addresses: addrs("10.0.0.3")},
		{Name: "x.w.example", Addresses: addrs("10.0.0.4")},
	}), []look{
		{"a.example.", dns.TypeA, "NOERROR 10.0.0.1 10.0.0.2"}, {"A.Example.", dns.TypeAAAA, "NOERROR fd00::1"},
		{"a.example.", dns.TypeMX, "NOERROR"}, {"b.example.", dns.TypeA, "NOERROR a.example. 10.0.0.1 10.0.0.2"},
		{"b.example.", dns.TypeCNAME, "NOERROR a.example."}, {"out.example.", dns.TypeA, "NOERROR www.example.org."},
		{"y.w.example.", dns.TypeA, "NOERROR 10.0.0.3"}, {"y.z.w.example.", dns.TypeA, "NOERROR 10.0.0.3"},
		{"x.w.example.", dns.TypeA, "NOERROR 10.0.0.4"}, {"w.example.", dns.TypeA, "-"}, {"example.", dns.TypeA, "-"},
		{"aa.example.", dns.TypeA, "-"}, {".", dns.TypeA, "-"},
	})
}

func TestBlocked(t *testing.T) {
	var b blocklist.Builder
	b.Add("file.example", true)
	raw, _, err := b.Table()
	if err != nil {
		t.Fatal(err)
	}
	table, err := blocklist.Open(raw)
	if err != nil {
		t.Fatal(err)
	}
	rules := profiles.Block{Names: []string{"ads.example"}, Allow: []string{"good.ads.example", "ok.file.example"},
		Answer: profiles.BlockNXDomain}
	none := func(string) bool { return false }
	check(t, NewBlocked(&rules, table, none), []look{{"ads.example.", dns.TypeA, "NXDOMAIN"}, {"X.ADS.example.", dns.TypeA,
		"NXDOMAIN"},
		{"good.ads.example.", dns.TypeA, "-"}, {"x.good.ads.example.", dns.TypeA, "-"}, {"bads.example.", dns.TypeA, "-"},
		{"file.example.", dns.TypeAAAA, "NXDOMAIN"}, {"ok.file.example.", dns.TypeA, "-"}, {".", dns.TypeNS, "-"}})
	rules.Answer = profiles.BlockZero
	s := NewBlocked(&rules, table, none)
	check(t, s, []look{{"ads.example.", dns.TypeA, "NOERROR 0.0.0.0"}, {"ads.example.", dns.TypeAAAA, "NOERROR ::"},
		{"ads.example.", dns.TypeMX, "NOERROR"}})
	if s.Count() != 3 {
		t.Errorf("Count() = %d; want 3", s.Count())
	}
}

// TestPrivate: names that never leave, and those that must.
func TestPrivate(t *testing.T) {
	s := NewPrivate(func(name string) bool { return dns.IsSubDomain("5.10.in-addr.arpa.", name) })
	check(t, s, []look{
		{"printer.", dns.TypeA, "NXDOMAIN"}, {"printer.", dns.TypeAAAA, "NXDOMAIN"}, {"com.", dns.TypeDS, "-"},
		{"com.", dns.TypeNS, "-"}, {".", dns.TypeNS, "-"}, {".", dns.TypeDNSKEY, "-"}, {"example.org.", dns.TypeA, "-"},
		{"localhost.", dns.TypeA, "NOERROR 127.0.0.1"}, {"x.localhost.", dns.TypeAAAA, "NOERROR ::1"},
		{"localhost.", dns.TypeMX, "NOERROR"}, {"1.0.0.10.in-addr.arpa.", dns.TypePTR, "NXDOMAIN"},
		{"10.in-addr.arpa.", dns.TypeSOA, "NOERROR"}, {"1.1.5.10.in-addr.arpa.", dns.TypePTR, "-"},
		{"1.0.16.172.in-addr.arpa.", dns.TypePTR, "NXDOMAIN"}, {"1.0.32.172.in-addr.arpa.", dns.TypePTR, "-"},
		{"1.0.64.100.in-addr.arpa.", dns.TypePTR, "NXDOMAIN"}, {"1.0.63.100.in-addr.arpa.", dns.TypePTR, "-"},
		{"8.8.8.8.in-addr.arpa.", dns.TypePTR, "-"}, {"printer.local.", dns.TypeA, "NXDOMAIN"},
		{"x.onion.", dns.TypeA, "NXDOMAIN"}, {"x.home.arpa.", dns.TypeA, "NXDOMAIN"}, {"home.arpa.", dns.TypeDS, "NOERROR"},
		{"x.invalid.", dns.TypeA, "NXDOMAIN"}, {"local.", dns.TypeNS, "NOERROR"},
	})
	six, err := dns.ReverseAddr("fd00::1")
	if err != nil {
		t.Fatal(err)
	}
	check(t, s, []look{{six, dns.TypePTR, "NXDOMAIN"}})
	for n := range 256 {
		want := "-"
		if n >= 16 && n <= 31 {
			want = "NXDOMAIN"
		}
		check(t, s, []look{{fmt.Sprintf("1.1.%d.172.in-addr.arpa.", n), dns.TypePTR, want}})
	}
}
