package server

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"testing"

	"github.com/miekg/dns"

	"rempart/firstboot/dns/answer"
	"rempart/firstboot/dns/cache"
	"rempart/firstboot/dns/forward"
	"rempart/firstboot/dns/wire"
)

// outside answers every question with an address.
type outside struct{}

func (outside) Exchange(_ context.Context, q *dns.Msg) (*dns.Msg, error) {
	m := new(dns.Msg)
	m.SetReply(q)
	rr, err := dns.NewRR(q.Question[0].Name + " 300 A 192.0.2.1")
	m.Answer = []dns.RR{rr}
	return m, err
}

// local is a source that knows one name, which may change.
type local struct {
	name, record string
	generation   uint64
}

func (l *local) Generation() uint64 { return l.generation }

func (l *local) Answer(_ context.Context, q *answer.Query) (*dns.Msg, bool) {
	if q.Name() != l.name {
		return nil, false
	}
	m := answer.Reply(q, dns.RcodeSuccess)
	rr, err := dns.NewRR(l.record)
	if err != nil {
		return nil, true
	}
	m.Answer = []dns.RR{rr}
	return m, true
}

func newServer(sources ...answer.Source) *Server {
	log := slog.New(slog.DiscardHandler)
	f := forward.New(cache.New(1<<20), []answer.Exchanger{outside{}}, nil, nil, log)
	return New(sources, f, false, log)
}

var (
	lan      = netip.MustParsePrefix("10.0.0.0/24")
	inside   = netip.MustParseAddr("10.0.0.5")
	stranger = netip.MustParseAddr("198.51.100.7")
)

func ask(t testing.TB, name string, edit func(m *dns.Msg)) []byte {
	t.Helper()
	m := new(dns.Msg)
	m.SetQuestion(name, dns.TypeA)
	if edit != nil {
		edit(m)
	}
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// answerTo is what the server says to a query, nil for silence.
func answerTo(t testing.TB, s *Server, from netip.Addr, a *Access, tcp bool, in []byte) *dns.Msg {
	t.Helper()
	r := &request{from: from, access: a, tcp: tcp}
	out, v := s.short(r, in, nil)
	if v == longer {
		out, v = s.local(t.Context(), r, in, out[:0])
	}
	if v == longer {
		out, v = s.long(t.Context(), r, in, out[:0])
	}
	if v != answered {
		return nil
	}
	m := new(dns.Msg)
	if err := m.Unpack(out); err != nil {
		t.Fatalf("% x: %v", out, err)
	}
	return m
}

func TestAccess(t *testing.T) {
	own := &local{name: "own.example.", record: "own.example. 60 A 10.0.0.9"}
	everybody := []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}
	for name, c := range map[string]struct {
		access           *Access
		from             netip.Addr
		outside, ownName string // "": silence
	}{
		"on the link": {&Access{Subnets: func() []netip.Prefix { return []netip.Prefix{lan} }}, inside, "NOERROR",
			"NOERROR"},
		"not on the link": {&Access{Subnets: func() []netip.Prefix { return []netip.Prefix{lan} }}, stranger, "", ""},
		"no subnets":      {&Access{}, inside, "", ""},
		"named":           {&Access{From: []netip.Prefix{lan}}, inside, "NOERROR", "NOERROR"},
		"not named":       {&Access{From: []netip.Prefix{lan}}, stranger, "", ""},
		"may ask only": {&Access{From: everybody, Recurse: []netip.Prefix{lan}, Limit: 50}, stranger, "REFUSED",
			"NOERROR"},
		"may recurse": {&Access{From: everybody, Recurse: []netip.Prefix{lan}, Limit: 50}, inside, "NOERROR",
			"NOERROR"},
		"nobody may recurse": {&Access{From: everybody, NoRecursion: true, Limit: 50}, inside, "REFUSED", "NOERROR"},
	} {
		s := newServer(own)
		// Somebody else's answer is in the cache already: it is for those who may recurse.
		answerTo(t, s, inside, &Access{From: []netip.Prefix{lan}}, false, ask(t, "x.example.", nil))
		for asked, want := range map[string]string{"x.example.": c.outside, "own.example.": c.ownName} {
			got := ""
			if m := answerTo(t, s, c.from, c.access, false, ask(t, asked, nil)); m != nil {
				got = dns.RcodeToString[m.Rcode]
			}
			if got != want {
				t.Errorf("%s asks for %s: %q; want %q", name, asked, got, want)
			}
		}
	}
}

// TestUnusual: what is no ordinary query is answered as the RFCs say, or not at all.
func TestUnusual(t *testing.T) {
	s := newServer()
	a := &Access{From: []netip.Prefix{lan}}
	good := ask(t, "x.example.", nil)
	edit := func(at int, b byte) []byte { out := append([]byte{}, good...); out[at] = b; return out }
	for name, c := range map[string]struct {
		in   []byte
		want string
	}{
		"nothing": {nil, ""}, "a byte": {[]byte{1}, ""}, "an answer": {edit(2, 0x81), ""},
		"header only": {good[:12], "FORMERR"}, "cut": {good[:20], "FORMERR"},
		"notify": {edit(2, 0x21), "NOTIMP"}, "update": {edit(2, 0x29), "NOTIMP"},
		"two questions": {edit(5, 2), "FORMERR"}, "a loop": {append(append([]byte{}, good[:12]...), 0xc0, 12, 0, 1, 0, 1),
			"FORMERR"},
		"version 1": {ask(t, "x.example.", func(m *dns.Msg) { m.SetEdns0(512, false); m.IsEdns0().SetVersion(1) }),
			"BADVERS"},
		"class":    {ask(t, "x.example.", func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS }), "REFUSED"},
		"transfer": {ask(t, "x.example.", func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeAXFR }), "REFUSED"},
		"no RD":    {ask(t, "x.example.", func(m *dns.Msg) { m.RecursionDesired = false }), "REFUSED"},
	} {
		m := answerTo(t, s, inside, a, false, c.in)
		got := ""
		if m != nil {
			rcode := m.Rcode
			if opt := m.IsEdns0(); opt != nil {
				rcode |= opt.ExtendedRcode()
			}
			if got = dns.RcodeToString[rcode]; rcode == dns.RcodeBadVers {
				got = "BADVERS"
			}
		}
		if got != c.want {
			t.Errorf("%s: %q; want %q", name, got, c.want)
		}
	}
	m := answerTo(t, s, inside, a, false, ask(t, "x.example.", func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeANY }))
	if m == nil || len(m.Answer) != 1 || m.Answer[0].Header().Rrtype != dns.TypeHINFO {
		t.Errorf("ANY: %v; want one HINFO (RFC 8482)", m)
	}
}

// TestGeneration: a name that becomes a source's own is no longer answered from the cache.
func TestGeneration(t *testing.T) {
	source := &local{name: "none.", record: "new.example. 60 A 10.0.0.9"}
	s := newServer(source)
	a := &Access{From: []netip.Prefix{lan}}
	in := ask(t, "new.example.", nil)
	address := func() string {
		m := answerTo(t, s, inside, a, false, in)
		if m == nil || len(m.Answer) != 1 {
			t.Fatalf("answer %v", m)
		}
		return m.Answer[0].(*dns.A).A.String()
	}
	if got := address(); got != "192.0.2.1" {
		t.Errorf("before: %s", got)
	}
	source.generation++ // something else has changed
	if got := address(); got != "192.0.2.1" || s.Totals().Cached != 1 {
		t.Errorf("after another change: %s, %+v", got, s.Totals())
	}
	source.name = "new.example."
	source.generation++
	if got := address(); got != "10.0.0.9" {
		t.Errorf("after: %s; want the source's own", got)
	}
}

// TestChase: an alias of ours that leads outside is answered whole to who may recurse.
func TestChase(t *testing.T) {
	s := newServer(&local{name: "alias.example.", record: "alias.example. 60 CNAME www.example."})
	for _, recurse := range []bool{true, false} {
		a := &Access{From: []netip.Prefix{lan}, NoRecursion: !recurse, Limit: 50}
		m := answerTo(t, s, inside, a, false, ask(t, "alias.example.", nil))
		if want := 1 + map[bool]int{true: 1}[recurse]; m == nil || len(m.Answer) != want || m.Rcode != 0 {
			t.Errorf("recursion %v: %v; want %d records", recurse, m, want)
		}
	}
	loop := newServer(&local{name: "a.example.", record: "a.example. 60 CNAME a.example."})
	if m := answerTo(t, loop, inside, &Access{From: []netip.Prefix{lan}}, false, ask(t, "a.example.", nil)); m == nil {
		t.Error("a loop of aliases is not answered")
	}
}

// TestRate: a network that may be forged gets so many answers a second; of more every second one is cut short, and who
// has a cookie of ours or comes by TCP is not bounded.
func TestRate(t *testing.T) {
	s := newServer(&local{name: "own.example.", record: "own.example. 60 A 10.0.0.9"})
	a := &Access{From: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}, NoRecursion: true, Limit: 20}
	plain := ask(t, "own.example.", nil)
	full, cut, silent := 0, 0, 0
	const many = 400
	for i := range many {
		from := netip.AddrFrom4([4]byte{198, 51, 100, byte(i)}) // one /24
		switch m := answerTo(t, s, from, a, false, plain); {
		case m == nil:
			silent++
		case m.Truncated:
			cut++
		default:
			full++
		}
	}
	if full < a.Limit || full > 5*a.Limit || silent < many/4 || cut < many/4 {
		t.Errorf("%d whole, %d cut, %d not answered; want about %d whole and half of the others each", full, cut, silent,
			a.Limit)
	}
	if m := answerTo(t, s, stranger, a, true, plain); m == nil || m.Truncated {
		t.Errorf("by TCP: %v", m)
	}
	withCookie := func(hex string) []byte {
		return ask(t, "own.example.", func(m *dns.Msg) {
			m.SetEdns0(1232, false)
			m.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: hex}}
		})
	}
	var given string
	for given == "" {
		if m := answerTo(t, s, stranger, a, false, withCookie("0102030405060708")); m != nil {
			given = m.IsEdns0().Option[0].(*dns.EDNS0_COOKIE).Cookie
		}
	}
	for range many {
		if m := answerTo(t, s, stranger, a, false, withCookie(given)); m == nil || m.Truncated {
			t.Fatalf("with our cookie %s: %v", given, m)
		}
	}
	if s.cookies.ours([]byte("0102030405060708aaaaaaaa"), stranger) {
		t.Error("a cookie somebody made up is ours")
	}
	raw := s.cookies.append([]byte("01020304"), []byte("01020304"), stranger)
	if !s.cookies.ours(raw, stranger) || s.cookies.ours(raw, inside) {
		t.Error("a cookie is another address's")
	}
}

// TestAmplification: an answer by UDP to who may be forged is never longer than a packet, and the one to ANY shorter
// than five times the question.
func TestAmplification(t *testing.T) {
	s := newServer()
	a := &Access{From: []netip.Prefix{lan}}
	in := ask(t, "a-name-of-some-length.example.org.", func(m *dns.Msg) {
		m.Question[0].Qtype = dns.TypeANY
		m.SetEdns0(65535, true)
	})
	r := &request{from: inside, access: a}
	out, v := s.short(r, in, nil)
	if v == longer {
		out, v = s.local(t.Context(), r, in, out[:0])
	}
	if v != answered || len(out) > 2*len(in) {
		t.Errorf("ANY of %d bytes is answered with %d", len(in), len(out))
	}
}

// TestBudget: what an answer from the cache may cost.
func TestBudget(t *testing.T) {
	s := newServer(&local{name: "none."})
	a := &Access{From: []netip.Prefix{lan}}
	in := ask(t, "www.example.", func(m *dns.Msg) { m.SetEdns0(1232, false) })
	answerTo(t, s, inside, a, false, in)
	d := &datagram{out: make([]byte, 0, 4096)}
	d.from, d.access = inside, a
	if n := testing.AllocsPerRun(1000, func() {
		if out, v := s.short(&d.request, in, d.out[:0]); v != answered || len(out) == 0 {
			t.Fatal("not answered from the cache")
		}
	}); n != 0 {
		t.Errorf("an answer from the cache takes %v allocations; want none", n)
	}
}

func BenchmarkCached(b *testing.B) {
	s := newServer(&local{name: "none."})
	a := &Access{From: []netip.Prefix{lan}}
	in := ask(b, "www.example.", func(m *dns.Msg) { m.SetEdns0(1232, false) })
	answerTo(b, s, inside, a, false, in)
	d := &datagram{out: make([]byte, 0, 4096)}
	d.from, d.access = inside, a
	b.ReportAllocs()
	for b.Loop() {
		s.short(&d.request, in, d.out[:0])
	}
}

// FuzzServer: whatever comes, what goes back is read, answers it, and by UDP is no longer than was asked for.
func FuzzServer(f *testing.F) {
	f.Add(ask(f, "www.example.", nil), false)
	f.Add(ask(f, "alias.example.", func(m *dns.Msg) { m.SetEdns0(1232, true) }), true)
	f.Add([]byte(fmt.Sprintf("%012d\xc0\x0c", 0)), false)
	a := &Access{From: []netip.Prefix{lan}}
	f.Fuzz(func(t *testing.T, in []byte, tcp bool) {
		s := newServer(&local{name: "alias.example.", record: "alias.example. 60 CNAME www.example."})
		m := answerTo(t, s, inside, a, tcp, in)
		if m == nil {
			return
		}
		if !m.Response || len(in) < 2 || m.Id != uint16(in[0])<<8|uint16(in[1]) {
			t.Errorf("answer %v to % x", m, in)
		}
		m.Compress = true
		if !tcp && m.Len() > wire.UDPSize {
			t.Errorf("an answer of %d bytes by UDP", m.Len())
		}
	})
}
