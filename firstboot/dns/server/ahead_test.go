package server

import (
	"bytes"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"rempart/firstboot/dns/answer"
	"rempart/firstboot/dns/cache"
	"rempart/firstboot/dns/forward"
	"rempart/firstboot/dns/wire"
)

// TestPrefetch: what is asked for shortly before its time is over is fetched anew meanwhile, once, and the client gets
// what there is at once.
func TestPrefetch(t *testing.T) {
	s := newServer()
	a := &Access{From: []netip.Prefix{lan}}
	in := ask(t, "www.example.", nil)
	answerTo(t, s, inside, a, false, in)
	var q wire.Query
	if !q.Parse(in) {
		t.Fatal("the query is not read")
	}
	c := s.Forward.Cache
	key := q.Key(nil, 0)
	kept := c.Get(key, c.Now(), 0).Answer
	if kept == nil || kept.TTL != 300 {
		t.Fatalf("kept is %+v; want an answer for 300 s", kept)
	}
	c.Put(key, kept, c.Now()-int64(299*time.Second), 0)
	for range 3 {
		if m := answerTo(t, s, inside, a, false, in); m == nil || len(m.Answer) != 1 || m.Answer[0].Header().Ttl > 300 {
			t.Fatalf("answer %v; want one at once", m)
		}
	}
	for end := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		if f := c.Get(key, c.Now(), 0); f.Answer != nil && f.Age < 10 && !f.Stale {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the answer was not fetched anew")
		}
	}
	if n := s.Forward.Counts().Refreshed; n != 1 {
		t.Errorf("%d answers were fetched ahead; want 1", n)
	}
}

// TestQueryLog: nobody's queries are written down unless the profile says so.
func TestQueryLog(t *testing.T) {
	for _, wanted := range []bool{false, true} {
		var said bytes.Buffer
		log := slog.New(slog.NewTextHandler(&said, &slog.HandlerOptions{Level: slog.LevelDebug}))
		f := forward.New(cache.New(1<<20), []answer.Exchanger{outside{}}, nil, nil, log)
		s := New(nil, f, wanted, log)
		a := &Access{From: []netip.Prefix{lan}}
		for range 2 { // from outside, and from the cache
			answerTo(t, s, inside, a, false, ask(t, "secret.example.", nil))
		}
		want := 0
		if wanted {
			want = 2
		}
		if got := strings.Count(said.String(), "name=secret.example. type=A from="+inside.String()); got != want ||
			!wanted && strings.Contains(said.String(), "secret") {
			t.Errorf("with the log of queries %v it says %d times who asked for what; want %d\n%s", wanted, got, want, &said)
		}
		if s.Totals().Queries != 2 {
			t.Errorf("%d queries are counted; want 2, log or not", s.Totals().Queries)
		}
	}
}
