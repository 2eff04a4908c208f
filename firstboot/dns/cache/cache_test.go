package cache

import (
	"fmt"
	"testing"
	"time"

	"github.com/miekg/dns"

	"rempart/firstboot/dns/wire"
)

func made(t testing.TB, ttl uint32) *wire.Answer {
	t.Helper()
	m := new(dns.Msg)
	m.SetQuestion("www.example.org.", dns.TypeA)
	m.Response = true
	m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: "www.example.org.", Rrtype: dns.TypeA, Class: 1, Ttl: ttl},
		A: []byte{192, 0, 2, 1}}}
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	a, err := wire.NewAnswer(b, 0)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

const second = int64(time.Second)

func TestTimes(t *testing.T) {
	c := New(1 << 20)
	key := []byte("k")
	if c.Get(key, 0, 0).Answer != nil {
		t.Error("an empty cache has an answer")
	}
	c.Put(key, made(t, 100), 0, 1)
	day := int64(MaxStale)
	for _, w := range []struct {
		at                           int64
		generation                   uint64
		there, stale, old, refreshed bool
		age                          uint32
	}{
		{at: 0, generation: 1, there: true},
		{at: 50*second + 1, generation: 2, there: true, old: true, age: 50},
		{at: 89 * second, generation: 1, there: true, age: 89},
		{at: 95 * second, generation: 1, there: true, age: 95, refreshed: true},
		{at: 96 * second, generation: 1, there: true, age: 96}, // somebody does already
		{at: 100 * second, generation: 1, there: true, stale: true, age: 100},
		{at: 99*second + day, generation: 1, there: true, stale: true, age: 99 + 86400},
		{at: 100*second + day, generation: 1},
	} {
		f := c.Get(key, w.at, w.generation)
		if (f.Answer != nil) != w.there || f.Stale != w.stale || f.Old != w.old || f.Refresh != w.refreshed ||
			f.Age != w.age {
			t.Errorf("Get after %v = %+v; want %+v", time.Duration(w.at), f, w)
		}
	}
	if u := c.Usage(); u.Entries != 0 || u.Bytes != 0 {
		t.Errorf("what is too old is kept: %+v", u)
	}
	if n := testing.AllocsPerRun(100, func() { c.Get(key, 0, 0) }); n != 0 {
		t.Errorf("Get takes %v allocations", n)
	}
}

// TestFailuresEnd: that nobody had an answer is never given once its time is over.
func TestFailuresEnd(t *testing.T) {
	c := New(1 << 20)
	for _, rcode := range []byte{dns.RcodeServerFailure, dns.RcodeRefused} {
		key, a := []byte{rcode}, made(t, 5)
		a.Msg[3] |= rcode
		c.Put(key, a, 0, 0)
		if f := c.Get(key, 4*second, 0); f.Answer == nil || f.Stale {
			t.Errorf("RCODE %d after 4 s of 5: %+v; want it", rcode, f)
		}
		if f := c.Get(key, 5*second, 0); f.Answer != nil {
			t.Errorf("RCODE %d after its 5 s: %+v; want nothing", rcode, f)
		}
	}
}

func TestStampAndFail(t *testing.T) {
	c := New(1 << 20)
	key := []byte("k")
	a := made(t, 10)
	if c.Fail(key, 0) {
		t.Error("Fail of what is not there = true")
	}
	c.Put(key, a, 0, 1)
	c.Stamp(key, made(t, 10), 2) // another answer has come: it was not that one
	if !c.Get(key, 0, 2).Old {
		t.Error("Stamp of another answer counts")
	}
	if c.Stamp(key, a, 2); c.Get(key, 0, 2).Old {
		t.Error("Stamp does not count")
	}
	if !c.Fail(key, 20*second) || !c.Get(key, 49*second, 2).Failed || c.Get(key, 51*second, 2).Failed {
		t.Error("a failure does not hold for 30 s")
	}
	if c.Put(key, made(t, 0), 0, 0); c.Get(key, 0, 2).Answer != a {
		t.Error("an answer without a lifetime takes the place of one with")
	}
	if c.Flush(); c.Get(key, 0, 2).Answer != nil || c.Usage().Bytes != 0 {
		t.Error("Flush leaves something")
	}
}

// TestFlood: names asked for once neither take more than the bound nor drive out what is asked for again.
func TestFlood(t *testing.T) {
	const limit = 1 << 20
	c := New(limit)
	a := made(t, 3600)
	hot := func(i int) []byte { return fmt.Appendf(nil, "hot%d", i) }
	const known = 500
	for i := range known {
		c.Put(hot(i), a, 0, 0)
		c.Get(hot(i), 0, 0)
	}
	for i := range 200_000 {
		c.Put(fmt.Appendf(nil, "random%d.example", i), a, 0, 0)
		if i%10 == 0 {
			c.Get(hot(i/10%known), 0, 0)
		}
	}
	lost := 0
	for i := range known {
		if c.Get(hot(i), 0, 0).Answer == nil {
			lost++
		}
	}
	u := c.Usage()
	if u.Bytes > limit || u.Bytes < limit/2 || lost > 0 {
		t.Errorf("after a flood: %+v, %d of %d known names lost; want at most %d bytes and none lost", u, lost, known, limit)
	}
	t.Logf("%d entries in %d bytes", u.Entries, u.Bytes)
}

func TestLarge(t *testing.T) {
	c := New(1 << 20)
	m := new(dns.Msg)
	m.SetQuestion("a.", dns.TypeTXT)
	for range 200 {
		m.Answer = append(m.Answer, &dns.TXT{Hdr: dns.RR_Header{Name: "a.", Rrtype: dns.TypeTXT, Class: 1, Ttl: 9},
			Txt: []string{string(make([]byte, 200))}})
	}
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	a, err := wire.NewAnswer(b, 0)
	if err != nil {
		t.Fatal(err)
	}
	if c.Put([]byte("k"), a, 0, 0); c.Usage().Entries != 0 {
		t.Errorf("an answer of %d bytes is kept in shards of %d", a.Size(), c.shards[0].limit)
	}
}

func BenchmarkGet(b *testing.B) {
	c := New(1 << 20)
	key := []byte("k")
	c.Put(key, made(b, 3600), 0, 0)
	b.ReportAllocs()
	for b.Loop() {
		c.Get(key, second, 0)
	}
}
