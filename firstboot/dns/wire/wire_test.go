package wire

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// packedQuery is a query as miekg/dns writes it.
func packedQuery(t testing.TB, name string, edit func(m *dns.Msg)) []byte {
	t.Helper()
	m := new(dns.Msg)
	m.SetQuestion(name, dns.TypeA)
	m.Id = 4711
	if edit != nil {
		edit(m)
	}
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestParse(t *testing.T) {
	var q Query
	plain := packedQuery(t, "WWW.Example.org.", nil)
	if !q.Parse(plain) || q.ID != 4711 || q.Type != dns.TypeA || q.Class != dns.ClassINET || q.EDNS || q.Size() != 512 ||
		string(q.Name()) != "\x03www\x07example\x03org\x00" || q.Cookie() != nil {
		t.Errorf("Parse = %+v", q)
	}
	rich := packedQuery(t, "a.", func(m *dns.Msg) {
		m.SetEdns0(4096, true)
		m.CheckingDisabled = true
		opt := m.IsEdns0()
		opt.Option = append(opt.Option, &dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0102030405060708"},
			&dns.EDNS0_PADDING{Padding: make([]byte, 40)})
	})
	if !q.Parse(rich) || !q.DO || !q.CD() || q.Size() != UDPSize || !bytes.Equal(q.Cookie(), []byte{1, 2, 3, 4, 5, 6, 7,
		8}) {
		t.Errorf("Parse with OPT = %+v", q)
	}
	if !q.Parse(plain) || q.DO || q.EDNS || q.Cookie() != nil {
		t.Errorf("Parse keeps what was there before: %+v", q)
	}
	if allocs := testing.AllocsPerRun(100, func() { q.Parse(rich) }); allocs != 0 {
		t.Errorf("Parse takes %v allocations; want none", allocs)
	}
}

func TestParseRefuses(t *testing.T) {
	good := packedQuery(t, "a.b.", nil)
	edited := func(at int, b byte) []byte { out := bytes.Clone(good); out[at] = b; return out }
	cookie := func(hex string) []byte {
		return packedQuery(t, "a.", func(m *dns.Msg) {
			m.SetEdns0(512, false)
			m.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: hex}}
		})
	}
	for name, b := range map[string][]byte{
		"nothing": nil, "header only": good[:12], "cut name": good[:14], "cut type": good[:len(good)-1],
		"an answer": edited(2, 0x81), "opcode": edited(2, 0x29), "truncated": edited(2, 0x03), "rcode": edited(3, 2),
		"two questions": edited(5, 2), "an answer record": edited(7, 1), "authority": edited(9, 1),
		"additional that is not there": edited(11, 1), "two additional": edited(11, 2),
		"a pointer": edited(12, 0xc0), "a long label": edited(12, 64),
		"something follows": append(bytes.Clone(good), 0),
		"version":           packedQuery(t, "a.", func(m *dns.Msg) { m.SetEdns0(512, false); m.IsEdns0().SetVersion(1) }),
		"not an OPT": packedQuery(t, "a.", func(m *dns.Msg) {
			m.Extra = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: ".", Rrtype: dns.TypeA, Class: 1}, A: []byte{1, 2, 3, 4}}}
		}),
		"short cookie": cookie("01"), "cookie between": cookie("010203040506070809"),
		"long cookie": cookie(strings.Repeat("01", 41)),
	} {
		var q Query
		if q.Parse(b) {
			t.Errorf("Parse(%s) = true", name)
		}
	}
	long := strings.Repeat(strings.Repeat("a", 63)+".", 3)
	var q Query
	if name := long + strings.Repeat("a", 61) + "."; !q.Parse(packedQuery(t, name, nil)) || len(q.Name()) != MaxName {
		t.Errorf("Parse of a name of %d bytes = false", MaxName)
	}
}

// sample is an answer with records of several TTLs.
func sample(t testing.TB) *Answer {
	t.Helper()
	m := new(dns.Msg)
	m.SetQuestion("www.example.org.", dns.TypeA)
	m.Response, m.AuthenticatedData = true, true
	for _, text := range []string{"www.example.org. 300 A 192.0.2.1", "www.example.org. 200 A 192.0.2.2"} {
		rr, err := dns.NewRR(text)
		if err != nil {
			t.Fatal(err)
		}
		m.Answer = append(m.Answer, rr)
	}
	m.Compress = true
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	a, err := NewAnswer(b, 0)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestAppend(t *testing.T) {
	a := sample(t)
	if a.TTL != 200 {
		t.Errorf("TTL = %d; want 200, the lowest", a.TTL)
	}
	a.Options = AppendError(nil, dns.ExtendedErrorCodeForgedAnswer, "why")
	var q Query
	if !q.Parse(packedQuery(t, "wWw.eXample.org.", func(m *dns.Msg) {
		m.SetEdns0(1232, true)
		m.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0102030405060708"}}
	})) {
		t.Fatal("the query is not read")
	}
	var m dns.Msg
	out := a.Append([]byte("xy"), &q, Reply{Age: 150, Recursion: true, Cookie: []byte("12345678")})
	if err := m.Unpack(out[2:]); err != nil {
		t.Fatal(err)
	}
	opt := m.IsEdns0()
	if m.Id != 4711 || !m.Response || !m.RecursionAvailable || !m.RecursionDesired || m.Truncated ||
		!m.AuthenticatedData ||
		m.Question[0].Name != "wWw.eXample.org." || len(m.Answer) != 2 || m.Answer[0].Header().Ttl != 150 ||
		m.Answer[1].Header().Ttl != 50 || opt == nil || !opt.Do() || opt.UDPSize() != UDPSize || len(opt.Option) != 2 {
		t.Errorf("Append = %v", &m)
	}
	stale := a.Append(nil, &q, Reply{Age: 1 << 30, Stale: 30})
	if err := m.Unpack(stale); err != nil || m.Answer[0].Header().Ttl != 30 || m.RecursionAvailable {
		t.Errorf("Append of a stale answer = %v, %v; want TTLs of 30", &m, err)
	}
	if fresh := a.Append(nil, &q, Reply{Age: 1000}); m.Unpack(fresh) != nil || m.Answer[1].Header().Ttl != 0 {
		t.Errorf("Append after its time = %v; want TTLs of 0", &m)
	}
	plain := Query{}
	if !plain.Parse(packedQuery(t, "www.example.org.", nil)) {
		t.Fatal("the query is not read")
	}
	if b := a.Append(nil, &plain, Reply{}); m.Unpack(b) != nil || m.IsEdns0() != nil || m.AuthenticatedData {
		t.Errorf("Append for a plain client = %v; want no OPT and no AD", &m)
	}
	dst := make([]byte, 0, 2048)
	if n := testing.AllocsPerRun(100, func() { a.Append(dst, &q, Reply{Age: 1}) }); n != 0 {
		t.Errorf("Append takes %v allocations; want none", n)
	}
}

func TestTruncates(t *testing.T) {
	m := new(dns.Msg)
	m.SetQuestion("www.example.org.", dns.TypeTXT)
	m.Response = true
	for range 8 {
		m.Answer = append(m.Answer, &dns.TXT{Hdr: dns.RR_Header{Name: "www.example.org.", Rrtype: dns.TypeTXT, Class: 1,
			Ttl: 9},
			Txt: []string{strings.Repeat("x", 200)}})
	}
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	a, err := NewAnswer(b, 0)
	if err != nil {
		t.Fatal(err)
	}
	for size, edns := range map[int]bool{PlainSize: false, UDPSize: true} {
		var q Query
		if !q.Parse(packedQuery(t, "www.example.org.", func(m *dns.Msg) {
			m.Question[0].Qtype = dns.TypeTXT
			if edns {
				m.SetEdns0(65535, false)
			}
		})) {
			t.Fatal("the query is not read")
		}
		var got dns.Msg
		udp := a.Append(nil, &q, Reply{})
		if err := got.Unpack(udp); err != nil || !got.Truncated || len(got.Answer) != 0 || len(udp) > size {
			t.Errorf("by UDP with %d bytes: %v, %v; want it cut", size, &got, err)
		}
		if err := got.Unpack(a.Append(nil, &q, Reply{TCP: true})); err != nil || got.Truncated || len(got.Answer) != 8 {
			t.Errorf("by TCP: %v, %v; want it whole", &got, err)
		}
	}
}

func TestNewAnswerRefuses(t *testing.T) {
	a := sample(t)
	withOPT := new(dns.Msg)
	withOPT.SetQuestion("a.", 1)
	withOPT.SetEdns0(512, false)
	opt, err := withOPT.Pack()
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{"nothing": nil, "header": a.Msg[:12], "cut": a.Msg[:len(a.Msg)-1],
		"more": append(bytes.Clone(a.Msg), 0), "an OPT": opt} {
		if _, err := NewAnswer(bytes.Clone(b), 0); err == nil {
			t.Errorf("NewAnswer(%s) takes it", name)
		}
	}
	huge := bytes.Clone(a.Msg)
	huge[len(huge)-10] = 0xff // the first byte of the last TTL
	if b, err := NewAnswer(huge, 0); err != nil || b.TTL > 86400 {
		t.Errorf("NewAnswer with a TTL of a century = %+v, %v", b, err)
	}
}

// FuzzParse: what Parse takes, miekg/dns reads the same of it.
func FuzzParse(f *testing.F) {
	f.Add(packedQuery(f, "www.example.org.", nil))
	f.Add(packedQuery(f, "a.", func(m *dns.Msg) { m.SetEdns0(4096, true) }))
	f.Add([]byte("\x00\x00\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\xc0\x0c\x00\x01\x00\x01"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var q Query
		if !q.Parse(b) {
			return
		}
		var m dns.Msg
		if err := m.Unpack(b); err != nil {
			return // options it is stricter about
		}
		name := make([]byte, 256)
		n, err := dns.PackDomainName(strings.ToLower(m.Question[0].Name), name, 0, nil, false)
		if err != nil || !bytes.EqualFold(name[:n], q.Name()) || m.Question[0].Qtype != q.Type || m.Id != q.ID {
			t.Errorf("Parse = %q %d; miekg/dns reads %v (%v)", q.Name(), q.Type, m.Question, err)
		}
		if opt := m.IsEdns0(); (opt != nil) != q.EDNS || opt != nil && opt.Do() != q.DO {
			t.Errorf("Parse: EDNS %v, DO %v; miekg/dns reads %v", q.EDNS, q.DO, opt)
		}
		var back dns.Msg
		if err := back.Unpack(q.AppendEmpty(nil, dns.RcodeRefused, 0, Reply{}, nil)); err != nil || back.Rcode != 5 {
			t.Errorf("AppendEmpty is not read: %v", err)
		}
	})
}

// TestPadding: who pads gets an answer whose length tells nothing (RFC 8467 4.1), but only where that is said to be
// worth it; and who asks by TCP hears how long a connection may be idle (RFC 7828).
func TestPadding(t *testing.T) {
	a := sample(t)
	ask := func(options ...dns.EDNS0) *Query {
		q := new(Query)
		if !q.Parse(packedQuery(t, "www.example.org.", func(m *dns.Msg) {
			m.SetEdns0(1232, false)
			m.IsEdns0().Option = options
		})) {
			t.Fatal("the query is not read")
		}
		return q
	}
	const limit = 10 * time.Second
	padding := &dns.EDNS0_PADDING{Padding: make([]byte, 3)}
	keepalive := &dns.EDNS0_TCP_KEEPALIVE{Code: dns.EDNS0TCPKEEPALIVE}
	for name, c := range map[string]struct {
		q      *Query
		r      Reply
		padded bool
		idle   bool
	}{
		"by TLS":                  {ask(padding), Reply{TCP: true, Padded: true}, true, false},
		"by TLS, both":            {ask(padding, keepalive), Reply{TCP: true, Padded: true, Idle: limit}, true, true},
		"by TLS, without padding": {ask(), Reply{TCP: true, Padded: true}, false, false},
		"by TCP":                  {ask(padding, keepalive), Reply{TCP: true, Idle: limit}, false, true},
		"by UDP":                  {ask(padding, keepalive), Reply{Idle: limit}, false, false},
	} {
		for kind, out := range map[string][]byte{"answer": a.Append(nil, c.q, c.r),
			"refusal": c.q.AppendEmpty(nil, dns.RcodeRefused, 0, c.r, nil)} {
			var m dns.Msg
			if err := m.Unpack(out); err != nil {
				t.Fatalf("%s, %s: %v", name, kind, err)
			}
			idle := uint16(0)
			for _, o := range m.IsEdns0().Option {
				if k, ok := o.(*dns.EDNS0_TCP_KEEPALIVE); ok {
					idle = k.Timeout
				}
			}
			if padded := len(out)%block == 0; padded != c.padded || (idle == 100) != c.idle {
				t.Errorf("%s, %s: %d bytes, idle %d; want padded %v, idle %v", name, kind, len(out), idle, c.padded, c.idle)
			}
		}
	}
}

// FuzzAnswer: whatever the bytes, NewAnswer takes or refuses them, and what it takes can be sent; and what was packed
// from them, as all is that is kept, is read wherever the original is.
func FuzzAnswer(f *testing.F) {
	f.Add(sample(f).Msg)
	// A name that leads into a TTL, which changes: no packer makes that.
	f.Add([]byte("0000\x00\x01\x00\x02\x00\x00\x00\x00\a0000000\x03000\x000000\xc0000000000\x00\x040000\xc000\x010\x010" +
		"\x0000\x00\x040000"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var q Query
		if a, err := NewAnswer(bytes.Clone(b), 5); err == nil {
			a.Append(nil, &q, Reply{Age: 7, TCP: true})
		}
		var m dns.Msg
		if m.Unpack(b) != nil {
			return
		}
		m.Compress = true
		b, err := m.Pack()
		if err != nil {
			return
		}
		a, err := NewAnswer(bytes.Clone(b), 5)
		if err != nil {
			return
		}
		// The question of the answer itself, asked again.
		end, ok := skipName(b, HeaderSize)
		if !ok || !q.Parse(append([]byte{0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0}, b[HeaderSize:end+4]...)) {
			return
		}
		out := a.Append(nil, &q, Reply{Age: 7, TCP: true})
		var before, after dns.Msg
		if before.Unpack(b) == nil && after.Unpack(out) != nil {
			t.Errorf("Append makes % x of % x", out, b)
		}
	})
}

func BenchmarkAppend(b *testing.B) {
	a := sample(b)
	raw := packedQuery(b, "www.example.org.", func(m *dns.Msg) { m.SetEdns0(1232, false) })
	dst := make([]byte, 0, 2048)
	b.ReportAllocs()
	for b.Loop() {
		var q Query
		q.Parse(raw)
		a.Append(dst, &q, Reply{Age: 1})
	}
}
