package forward

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"rempart/firstboot/dns/answer"
	"rempart/firstboot/dns/cache"
	"rempart/firstboot/dns/wire"
)

// exchange is an Exchanger made of a function.
type exchange func(ctx context.Context, q *dns.Msg) (*dns.Msg, error)

func (e exchange) Exchange(ctx context.Context, q *dns.Msg) (*dns.Msg, error) { return e(ctx, q) }

// zone answers with the records given, as others would.
func zone(t testing.TB, rcode int, answers []string, authority ...string) exchange {
	t.Helper()
	parse := func(lines []string) (all []dns.RR) {
		for _, l := range lines {
			rr, err := dns.NewRR(l)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, rr)
		}
		return all
	}
	return func(_ context.Context, q *dns.Msg) (*dns.Msg, error) {
		m := new(dns.Msg)
		m.SetRcode(q, rcode)
		m.Answer, m.Ns = parse(answers), parse(authority)
		m.Extra = parse([]string{"evil.example. 60 A 192.0.2.66"})
		return m, nil
	}
}

func question(t testing.TB, name string, qtype uint16, do bool) *wire.Query {
	t.Helper()
	m := new(dns.Msg)
	m.SetQuestion(name, qtype)
	if do {
		m.SetEdns0(1232, true)
	}
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	q := new(wire.Query)
	if !q.Parse(b) {
		t.Fatalf("%s is not read", name)
	}
	return q
}

func forwarder(to answer.Exchanger, rebindOK ...string) *Forwarder {
	return New(cache.New(1<<20), []answer.Exchanger{to}, nil, rebindOK, slog.New(slog.DiscardHandler))
}

var client1 = netip.MustParseAddr("10.0.0.1")

// asked is the answer as a client gets it.
func asked(t testing.TB, f *Forwarder, q *wire.Query) *dns.Msg {
	t.Helper()
	r := f.Ask(t.Context(), q, 0, client1, cache.Found{}, 0)
	if r.Answer == nil {
		t.Fatal("the question was dropped")
	}
	m := new(dns.Msg)
	if err := m.Unpack(r.Answer.Append(nil, q, wire.Reply{TCP: true, Recursion: true})); err != nil {
		t.Fatal(err)
	}
	return m
}

// TestBailiwick: of what others say only what answers the question is taken.
func TestBailiwick(t *testing.T) {
	f := forwarder(zone(t, dns.RcodeSuccess, []string{"www.example. 300 CNAME a.example.", "a.example. 300 CNAME b.other.",
		"b.other. 100 A 192.0.2.1", "evil.example. 300 A 192.0.2.66", "b.other. 100 TXT x", "b.other. 100 RRSIG A 8 2 100 " +
			"20300101000000 20200101000000 1 other. AAAA"}, "example. 300 NS ns.evil.example.",
		"bank.example. 9 SOA a. b. 1 2 3 4 5"))
	m := asked(t, f, question(t, "WWW.example.", dns.TypeA, false))
	if len(m.Answer) != 3 || len(m.Ns) != 0 || len(m.Extra) != 0 {
		t.Errorf("answer to A: %v; want the two aliases and the address", m)
	}
	if m := asked(t, f, question(t, "www.example.", dns.TypeA, true)); len(m.Answer) != 4 {
		t.Errorf("answer with DO: %v; want the signature too", m)
	}
	if m := asked(t, f, question(t, "www.example.", dns.TypeCNAME, false)); len(m.Answer) != 1 {
		t.Errorf("answer to CNAME: %v; want one", m)
	}
	if m := asked(t, f, question(t, "unasked.example.", dns.TypeA, false)); len(m.Answer) != 0 {
		t.Errorf("answer to another name: %v; want nothing", m)
	}
}

func TestLoopsOfOthersEnd(t *testing.T) {
	f := forwarder(zone(t, dns.RcodeSuccess, []string{"a.example. 300 CNAME b.example.",
		"b.example. 300 CNAME a.example."}))
	if m := asked(t, f, question(t, "a.example.", dns.TypeA, false)); len(m.Answer) != 2 {
		t.Errorf("answer %v", m)
	}
}

// TestNegative: for how long it is kept that something does not exist (RFC 2308).
func TestNegative(t *testing.T) {
	for _, c := range []struct {
		authority []string
		rcode     int
		want      uint32
	}{
		{[]string{"example. 900 SOA a. b. 1 2 3 4 60"}, dns.RcodeNameError, 60},
		{[]string{"example. 30 SOA a. b. 1 2 3 4 60"}, dns.RcodeSuccess, 30},
		{[]string{"example. 900000 SOA a. b. 1 2 3 4 900000"}, dns.RcodeNameError, maxNegative},
		{nil, dns.RcodeNameError, 0}, // not kept at all
		{[]string{"other. 900 SOA a. b. 1 2 3 4 60"}, dns.RcodeNameError, 0},
		{nil, dns.RcodeServerFailure, 5},
	} {
		f := forwarder(zone(t, c.rcode, nil, c.authority...))
		r := f.Ask(t.Context(), question(t, "x.example.", dns.TypeA, false), 0, client1, cache.Found{}, 0)
		if r.Answer == nil || r.Answer.TTL != c.want || r.Answer.Rcode() != c.rcode {
			t.Errorf("rcode %d with %v is kept for %+v; want %d", c.rcode, c.authority, r.Answer, c.want)
		}
	}
}

func TestRebinding(t *testing.T) {
	for record, refused := range map[string]bool{
		"x.example. 60 A 192.168.0.1": true, "x.example. 60 A 10.0.0.1": true, "x.example. 60 A 172.31.0.1": true,
		"x.example. 60 A 127.0.0.1": true, "x.example. 60 A 169.254.1.1": true, "x.example. 60 A 0.0.0.0": true,
		"x.example. 60 A 100.64.0.1": true, "x.example. 60 A 192.0.2.1": false, "x.example. 60 AAAA ::1": true,
		"x.example. 60 AAAA fd00::1": true, "x.example. 60 AAAA fe80::1": true, "x.example. 60 AAAA ::ffff:10.0.0.1": true,
		"x.example. 60 AAAA 64:ff9b::a00:1": true, "x.example. 60 AAAA ::10.0.0.1": true,
		"x.example. 60 AAAA 2001:db8::1": false, "x.example. 60 HTTPS 1 . ipv4hint=10.0.0.1": true,
		"x.example. 60 HTTPS 1 . ipv6hint=fd00::1": true, "x.example. 60 SVCB 1 . ipv4hint=192.0.2.1": false,
	} {
		rr, err := dns.NewRR(record)
		if err != nil {
			t.Fatal(err)
		}
		to := zone(t, dns.RcodeSuccess, []string{record})
		q := question(t, "x.example.", rr.Header().Rrtype, false)
		if m := asked(t, forwarder(to), q); (m.Rcode == dns.RcodeRefused) != refused {
			t.Errorf("%s: %v; want refused %v", record, m, refused)
		}
		if m := asked(t, forwarder(to, "example."), q); m.Rcode == dns.RcodeRefused {
			t.Errorf("%s is refused below an exception", record)
		}
	}
	alias := zone(t, dns.RcodeSuccess, []string{"x.example. 60 CNAME y.inside.", "y.inside. 60 A 10.0.0.1"})
	if m := asked(t, forwarder(alias), question(t, "x.example.", dns.TypeA, false)); m.Rcode != dns.RcodeRefused {
		t.Errorf("an alias hides a private address: %v", m)
	}
	if m := asked(t, forwarder(alias, "inside."), question(t, "x.example.", dns.TypeA, false)); m.Rcode !=
		dns.RcodeRefused {
		t.Errorf("an alias of an expected name hides a private address: %v", m)
	}
}

func TestRoutes(t *testing.T) {
	main, corp := zone(t, dns.RcodeNameError, nil), zone(t, dns.RcodeSuccess, []string{"a.corp.example. 60 A 10.0.0.1"})
	f := New(cache.New(1<<20), []answer.Exchanger{main}, []Route{{"corp.example.", corp}, {"gone.corp.example.", nil}},
		nil,
		slog.New(slog.DiscardHandler))
	for name, rcode := range map[string]int{"a.corp.example.": 0, "A.Corp.Example.": 0, "x.gone.corp.example.": 3,
		"example.":       3,
		"acorp.example.": 3} {
		if m := asked(t, f, question(t, name, dns.TypeA, false)); m.Rcode != rcode {
			t.Errorf("%s: %v; want rcode %d", name, m, rcode)
		}
	}
	if !f.Routed("b.corp.example.") || f.Routed("example.") {
		t.Error("Routed does not say who is asked")
	}
}

// TestShared: equal questions that come while one is under way are one.
func TestShared(t *testing.T) {
	var mu sync.Mutex
	count, release := 0, make(chan struct{})
	answers := zone(t, dns.RcodeSuccess, []string{"a.example. 60 A 192.0.2.1"})
	f := forwarder(exchange(func(ctx context.Context, q *dns.Msg) (*dns.Msg, error) {
		mu.Lock()
		count++
		mu.Unlock()
		<-release
		return answers(ctx, q)
	}))
	const many = 50
	results := make(chan Result)
	for range many {
		go func() {
			results <- f.Ask(t.Context(), question(t, "a.example.", dns.TypeA, false), 0, client1, cache.Found{}, 0)
		}()
	}
	for f.Counts().Shared < many-1 { // the client's fair share is not at stake as long as there is room
		time.Sleep(time.Millisecond)
	}
	close(release)
	for range many {
		if r := <-results; r.Answer == nil {
			t.Error("one of equal questions was dropped")
		}
	}
	if count != 1 {
		t.Errorf("%d questions went out; want one for all", count)
	}
}

// TestCrowded: a client whose questions take all the room leaves enough for others.
func TestCrowded(t *testing.T) {
	release := make(chan struct{})
	answers := zone(t, dns.RcodeSuccess, nil)
	f := forwarder(exchange(func(ctx context.Context, q *dns.Msg) (*dns.Msg, error) {
		<-release
		return answers(ctx, q)
	}))
	var all sync.WaitGroup
	before := time.Now()
	for i := range 4 * MaxFlights {
		all.Go(func() {
			f.Ask(t.Context(), question(t, fmt.Sprintf("r%d.example.", i), dns.TypeA, false), 0, client1, cache.Found{}, 0)
		})
	}
	for f.Counts().Dropped < 4*MaxFlights-crowdedFlights-1 {
		if time.Since(before) > 20*time.Second {
			t.Fatalf("%+v; want all but %d dropped", f.Counts(), crowdedFlights)
		}
		time.Sleep(time.Millisecond)
	}
	got := make(chan Result)
	go func() {
		got <- f.Ask(t.Context(), question(t, "a.example.", dns.TypeA, false), 0, netip.MustParseAddr("10.0.0.2"),
			cache.Found{}, 0)
	}()
	for {
		f.mu.Lock()
		n := len(f.flights)
		f.mu.Unlock()
		if n > crowdedFlights {
			break
		}
		if time.Since(before) > 20*time.Second {
			t.Fatalf("%d flights: the other client's question is not under way", n)
		}
		time.Sleep(time.Millisecond)
	}
	close(release)
	if r := <-got; r.Answer == nil {
		t.Error("the other client's question was dropped")
	}
	all.Wait()
	if f.waiting != 0 || len(f.clients)+len(f.networks) != 0 || len(f.flights) != 0 {
		t.Errorf("%d wait, %d clients, %d flights after all is over", f.waiting, len(f.clients), len(f.flights))
	}
}

// TestCrowdedLink: on a link of IPv6, where all have one /64, a host with one address leaves enough for the others; one
// that has many leaves enough for other links.
func TestCrowdedLink(t *testing.T) {
	f := forwarder(nil)
	flood, neighbour := netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2")
	other := netip.MustParseAddr("2001:db8:0:1::1")
	f.clients[flood], f.networks[shareOf(flood).network] = crowdedFlights, crowdedFlights
	if f.more(shareOf(flood), crowdedFlights, crowdedFlights) || !f.more(shareOf(neighbour), crowdedFlights,
		crowdedFlights) {
		t.Error("one address takes its neighbours' share, or more than its own")
	}
	const most = crowdedFlights + crowdedFlights/2
	if f.more(shareOf(neighbour), most, crowdedFlights) || !f.more(shareOf(other), most, crowdedFlights) {
		t.Error("one /64 takes all there is")
	}
}

// onceTrue is the answer to a question for a.example. that was true a second.
func onceTrue(t *testing.T) *dns.Msg {
	t.Helper()
	m := new(dns.Msg)
	m.SetQuestion("a.example.", dns.TypeA)
	rr, err := dns.NewRR("a.example. 1 A 192.0.2.1")
	if err != nil {
		t.Fatal(err)
	}
	m.Answer = []dns.RR{rr}
	return m
}

// TestBogusIsNotStale: what was true once is given when nobody can be asked, not when what is answered now is forged.
func TestBogusIsNotStale(t *testing.T) {
	q := question(t, "a.example.", dns.TypeA, false)
	key := q.Key(nil, 0)
	m := onceTrue(t)
	for code, stale := range map[uint16]bool{
		dns.ExtendedErrorCodeDNSBogus: false, dns.ExtendedErrorCodeSignatureExpired: false,
		dns.ExtendedErrorCodeNSECMissing: false, dns.ExtendedErrorCodeDNSSECIndeterminate: true,
		dns.ExtendedErrorCodeOther: true, dns.ExtendedErrorCodeNetworkError: true, dns.ExtendedErrorCodeCachedError: true,
	} {
		f := forwarder(exchange(func(_ context.Context, q *dns.Msg) (*dns.Msg, error) {
			return answer.Explain(new(dns.Msg).SetRcode(q, dns.RcodeServerFailure), code, "as it is"), nil
		}))
		f.Cache.Put(key, pack(m, 0), f.Cache.Now()-int64(time.Hour), 0)
		for look := range 2 { // and that it was asked for lately changes nothing
			found := f.Cache.Get(key, f.Cache.Now(), 0)
			r := f.Ask(t.Context(), q, 0, client1, found, 0)
			if (r.Stale == staleTTL) != stale || !stale && r.Answer.Rcode() != dns.RcodeServerFailure {
				t.Errorf("a failure explained by %d, look %d: stale for %d s, %s; want it stale: %t", code, look, r.Stale,
					dns.RcodeToString[r.Answer.Rcode()], stale)
			}
		}
	}
}

// TestStale: what was true lately is given when nobody answers, and again at once for a while.
func TestStale(t *testing.T) {
	asks := 0
	f := forwarder(exchange(func(context.Context, *dns.Msg) (*dns.Msg, error) {
		asks++
		return nil, errors.New("nobody is there")
	}))
	q := question(t, "a.example.", dns.TypeA, false)
	key := q.Key(nil, 0)
	m := onceTrue(t)
	f.Cache.Put(key, pack(m, 0), f.Cache.Now()-int64(time.Hour), 0)
	for i := range 3 {
		found := f.Cache.Get(key, f.Cache.Now(), 0)
		if !found.Stale || found.Failed != (i > 0) {
			t.Fatalf("look %d: %+v", i, found)
		}
		if r := f.Ask(t.Context(), q, 0, client1, found, 0); r.Answer != found.Answer || r.Stale != staleTTL {
			t.Errorf("look %d: %+v; want the stale answer", i, r)
		}
	}
	if asks != 1 {
		t.Errorf("others were asked %d times; want once in %v", asks, 30*time.Second)
	}
	if r := f.Ask(t.Context(), question(t, "b.example.", dns.TypeA, false), 0, client1, cache.Found{},
		0); r.Answer == nil ||
		r.Answer.Rcode() != dns.RcodeServerFailure || len(r.Answer.Options) == 0 {
		t.Errorf("without a stale answer: %+v; want SERVFAIL, explained", r)
	}
}

// FuzzClean: whatever others say, what becomes of it can be sent, and is about the question.
func FuzzClean(f *testing.F) {
	m := new(dns.Msg)
	m.SetQuestion("a.example.", dns.TypeA)
	for _, l := range []string{"a.example. 300 CNAME b.example.", "example. 60 DNAME other.",
		"b.example. 300 A 10.0.0.1"} {
		rr, err := dns.NewRR(l)
		if err != nil {
			f.Fatal(err)
		}
		m.Answer = append(m.Answer, rr)
	}
	b, err := m.Pack()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte("\x00\x00\x80\x00\x00\x01\x00\x01\x00\x00\x00\x00\x01a\x00\x00\x01\x00\x01\xc0\x13\x00\x01\x00\x01"))
	query := new(dns.Msg)
	query.SetQuestion("a.example.", dns.TypeA)
	query.SetEdns0(1232, true)
	f.Fuzz(func(t *testing.T, b []byte) {
		var m dns.Msg
		if m.Unpack(b) != nil {
			return
		}
		out := clean(query, &m)
		fwd := forwarder(nil)
		fwd.rebinds("a.example.", out)
		explanations(&m)
		if a := pack(out, 0); a != nil {
			q := question(t, "a.example.", dns.TypeA, true)
			var back dns.Msg
			if err := back.Unpack(a.Append(nil, q, wire.Reply{TCP: true})); err != nil {
				t.Errorf("what was made of %v is not read: %v", &m, err)
			}
		}
	})
}
