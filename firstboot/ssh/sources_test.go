package ssh

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"
)

func TestSources(t *testing.T) {
	now := time.Unix(0, 0)
	s := newSources(func() time.Time { return now })
	bad, good := netip.MustParsePrefix("192.0.2.1/32"), netip.MustParsePrefix("192.0.2.2/32")
	tries := 0
	for range 100 {
		if s.enter(bad) == "" {
			tries++
			s.leave(bad, true)
		}
	}
	if tries > int(purse/failureCosts)+1 {
		t.Errorf("a source that fails was let try %d times at once", tries)
	}
	logins := 0
	for range int(purse) {
		if s.enter(good) == "" {
			logins++
			s.leave(good, false)
		}
	}
	if logins != int(purse) {
		t.Errorf("a source that logs in was let in %d times beside one that fails; want %d", logins, int(purse))
	}
	tries = 0
	for range 3600 {
		now = now.Add(time.Second)
		if s.enter(bad) == "" {
			tries++
			s.leave(bad, true)
		}
	}
	if want := int(3600*perSecond/(1+failureCosts)) + 1; tries > want || tries < want/2 {
		t.Errorf("in an hour a source that fails was let try %d times; want about %d", tries, want)
	}
}

func TestPendingAndForgetting(t *testing.T) {
	now := time.Unix(0, 0)
	s := newSources(func() time.Time { return now })
	slow := netip.MustParsePrefix("2001:db8::/64")
	for i := range maxPending + 1 {
		if got := s.enter(slow); (got == "") != (i < maxPending) {
			t.Errorf("pending try %d = %q", i+1, got)
		}
	}
	failed := netip.MustParsePrefix("192.0.2.1/32")
	for s.enter(failed) == "" {
		s.leave(failed, true)
	}
	for i := range 3 * maxSources {
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 32)
		if why := s.enter(p); why != "" {
			t.Fatalf("a new source, %s, was refused: %s", p, why)
		}
		s.leave(p, false)
		if len(s.all) > maxSources {
			t.Fatalf("%d sources are remembered", len(s.all))
		}
	}
	if s.enter(failed) == "" || s.enter(slow) == "" {
		t.Error("many new sources made the one that failed, or the one that waits, forgotten")
	}
}

func TestSourceOf(t *testing.T) {
	for addr, want := range map[string]string{"192.0.2.7:22": "192.0.2.7/32", "[2001:db8::1:2:3:4]:22": "2001:db8::/64",
		"[::ffff:192.0.2.7]:22": "192.0.2.7/32", "[fe80::1%lo]:22": "fe80::/64"} {
		a, err := net.ResolveTCPAddr("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(sourceOf(a)); got != want {
			t.Errorf("sourceOf(%s) = %s; want %s", addr, got, want)
		}
	}
}
