package ssh

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"
)

func TestLobby(t *testing.T) {
	prefix := func(n int) netip.Prefix { return netip.MustParsePrefix(fmt.Sprintf("192.0.2.%d/32", n)) }
	l := &lobby{places: 4}
	var in []*visitor
	for i, from := range []int{1, 2, 2, 3} {
		v, out := l.enter(nil, prefix(from))
		if out != nil {
			t.Fatalf("visitor %d put %v out of a lobby with room", i, out.from)
		}
		in = append(in, v)
	}
	// The greediest goes first, its oldest connection at that; among equals the oldest of all.
	for _, want := range []int{1, 0, 2} {
		if _, out := l.enter(nil, prefix(9+want)); out != in[want] {
			t.Errorf("put out was %v; want visitor %d", out.from, want)
		}
	}
	l.leave(in[3])
	l.leave(in[3]) // twice is harmless
	if _, out := l.enter(nil, prefix(20)); out != nil {
		t.Errorf("after one left %v was put out", out.from)
	}
}

// TestStrangersDoNotShutOut: with every place of the lobby taken by connections that say nothing, an administrator logs
// in, and with every place inside taken strangers change nothing.
func TestStrangersDoNotShutOut(t *testing.T) {
	admin, _ := newKey(t)
	r := startServer(t, admin)
	r.lobby.mu.Lock()
	r.lobby.places = 2 // fewer than one source may take: here all come from one
	r.lobby.mu.Unlock()
	for range 2 {
		conn, err := net.Dial("tcp", r.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := conn.Read(make([]byte, 1)); err != nil { // its version: the server has taken it in
			t.Fatal(err)
		}
	}
	c, err := r.dial(t, ssh.PublicKeys(admin))
	if err != nil {
		t.Fatalf("a login beside strangers that wait: %v", err)
	}
	s, err := c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	if out, err := s.Output("echo in"); err != nil || string(out) != "in\n" {
		t.Errorf("a command beside strangers = %q, %v", out, err)
	}
	if log := r.log.String(); !strings.Contains(log, "others wait to log in") {
		t.Errorf("the log tells nothing of the stranger that had to go:\n%s", log)
	}
	for len(r.inside) < cap(r.inside) {
		r.inside <- struct{}{}
	}
	if c, err := r.dial(t, ssh.PublicKeys(admin)); err == nil {
		if _, err := c.NewSession(); err == nil {
			t.Error("a login beyond the bound got a session")
		}
	}
	if s, err := c.NewSession(); err != nil {
		t.Errorf("who is in already: %v", err)
	} else {
		s.Close()
	}
	for len(r.inside) > 1 {
		<-r.inside
	}
}

func TestRefusalsAreSaidNowAndThen(t *testing.T) {
	log := &logText{}
	now := time.Unix(0, 0)
	r := &refusals{log: slog.New(slog.NewTextHandler(log, nil)), now: func() time.Time { return now }}
	for range 1000 {
		r.note(netip.MustParsePrefix("192.0.2.1/32"), "it failed")
	}
	if n := strings.Count(log.String(), "\n"); n != 1 || !strings.Contains(log.String(), "192.0.2.1/32") {
		t.Errorf("1000 refusals at once are %d lines; want 1 with the source:\n%s", n, log)
	}
	now = now.Add(refusalsEvery)
	r.note(netip.MustParsePrefix("192.0.2.2/32"), "it failed")
	if !strings.Contains(log.String(), "999 more") || strings.Count(log.String(), "\n") != 2 {
		t.Errorf("a minute later the log has\n%s\nwant the number of those not said", log)
	}
}

// TestSinceBoot: a clock that fails must not make a connection one that no policy can cut.
func TestSinceBoot(t *testing.T) {
	for name, x := range map[string]struct {
		get  func(int32, *unix.Timespec) error
		good bool
	}{
		"fails": {func(int32, *unix.Timespec) error { return errors.New("no clock") }, false},
		"zero":  {func(int32, *unix.Timespec) error { return nil }, false},
		"works": {unix.ClockGettime, true},
	} {
		if got := sinceBoot(x.get); got <= 0 || (got > 1e-3) != x.good {
			t.Errorf("a clock that %s: sinceBoot = %v; want more than 0, and a time only of one that works", name, got)
		}
	}
}
