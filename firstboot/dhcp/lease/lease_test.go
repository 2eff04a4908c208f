package lease

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// stopped is a clock that a test moves.
type stopped struct {
	mu   sync.Mutex
	wall time.Time
	boot time.Duration
}

func newClock() *stopped { return &stopped{wall: time.Unix(1_700_000_000, 0)} }

// pass lets time pass; set sets the wall clock.
func (c *stopped) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wall, c.boot = c.wall.Add(d), c.boot+d
}

func (c *stopped) set(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wall = c.wall.Add(d)
}

func (c *stopped) clock() Clock {
	return Clock{Wall: func() time.Time { c.mu.Lock(); defer c.mu.Unlock(); return c.wall },
		Boot: func() time.Duration { c.mu.Lock(); defer c.mu.Unlock(); return c.boot }}
}

func open(t *testing.T, path string, c *stopped) (*Store, *bytes.Buffer) {
	t.Helper()
	var said bytes.Buffer
	s, err := Open(Options{Path: path, Clock: c.clock(), Log: slog.New(slog.NewTextHandler(&said, nil))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s, &said
}

func addr(n int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)})
}

func bound(n int, expires int64) Lease {
	return Lease{Addr: addr(n), Client: fmt.Sprintf("\x00client %d", n), Hardware: "\x52\x54\x00\x00\x00\x01",
		Name: "näme \"" + fmt.Sprint(n) + "\n", Expires: expires, State: Bound}
}

// put waits for the disk.
func put(t *testing.T, s *Store, l Lease) {
	t.Helper()
	told := make(chan error, 1)
	if err := s.Put(l, func(err error) { told <- err }); err != nil {
		t.Fatalf("Put(%v) = %v; want no error", l.Addr, err)
	}
	if err := <-told; err != nil {
		t.Fatalf("Put(%v) told %v; want nothing", l.Addr, err)
	}
}

// TestPass: a lease goes to another client as it is, and is that client's after a restart, too; nobody else's goes.
func TestPass(t *testing.T) {
	path, c := filepath.Join(t.TempDir(), "leases"), newClock()
	s, _ := open(t, path, c)
	l := bound(1, c.wall.Unix()+3600)
	put(t, s, l)
	for _, from := range []string{"another", ""} {
		if err := s.Pass(l.Addr, from, "thief"); err != nil {
			t.Errorf("Pass from %q = %v; want no error", from, err)
		}
	}
	has(t, s, l)
	if err := s.Pass(l.Addr, l.Client, strings.Repeat("x", MaxClient+1)); err == nil {
		t.Error("Pass to a client that is longer than any took place")
	}
	if err := s.Pass(l.Addr, l.Client, "printer"); err != nil {
		t.Errorf("Pass = %v; want no error", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Pass(l.Addr, "printer", "other"); !errors.Is(err, ErrClosed) {
		t.Errorf("Pass by a closed store = %v; want %v", err, ErrClosed)
	}
	former := l.Client
	s, _ = open(t, path, c)
	l.Client = "printer"
	has(t, s, l)
	if len(s.Of(former)) != 0 || len(s.Of("printer")) != 1 {
		t.Errorf("leases of who had it: %v, of who has it: %v", s.Of(former), s.Of("printer"))
	}
	c.pass(2 * time.Hour)
	if got := s.Expired(); len(got) != 1 || got[0].Client != "printer" {
		t.Errorf("Expired() = %v; want the one lease", got)
	}
}

func has(t *testing.T, s *Store, want Lease) {
	t.Helper()
	if got, ok := s.Get(want.Addr); !ok || got != want {
		t.Errorf("Get(%v) = %+v, %t; want %+v", want.Addr, got, ok, want)
	}
}

// TestAgain: what was put is there after the file is opened again, as it was last.
func TestAgain(t *testing.T) {
	path, c := filepath.Join(t.TempDir(), "leases"), newClock()
	s, _ := open(t, path, c)
	now := s.Now()
	first, ever := bound(1, now+100), bound(2, Forever)
	six := Lease{Addr: netip.MustParseAddr("fd00::100"), Bits: 60, Via: netip.MustParseAddr("fe80::1"),
		Client:  strings.Repeat("\xff", MaxClient),
		Expires: now + 50, State: Bound}
	for _, l := range []Lease{first, ever, six, bound(3, now+1)} {
		put(t, s, l)
	}
	freed := first
	freed.Expires, freed.State = now, Freed
	put(t, s, freed)
	if err := s.Remove(addr(3), nil); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Put(first, nil); !errors.Is(err, ErrClosed) {
		t.Errorf("Put after Close = %v; want ErrClosed", err)
	}
	again, said := open(t, path, c)
	for _, l := range []Lease{freed, ever, six} {
		has(t, again, l)
	}
	if again.Len() != 3 || said.Len() != 0 {
		t.Errorf("%d leases after opening again, said %q; want 3 and nothing", again.Len(), said)
	}
	if got := again.Of(six.Client); len(got) != 1 || got[0] != six {
		t.Errorf("Of(the DHCPv6 client) = %v; want its lease", got)
	}
}

// TestTaken: an address that one client has no other gets, until the lease ends or is given back.
func TestTaken(t *testing.T) {
	c := newClock()
	s, _ := open(t, "", c)
	put(t, s, bound(1, s.Now()+10))
	other := bound(1, s.Now()+10)
	other.Client = "other"
	if err := s.Put(other, nil); !errors.Is(err, ErrTaken) {
		t.Errorf("Put of an address another client has = %v; want ErrTaken", err)
	}
	c.pass(11 * time.Second)
	if got := s.Expired(); len(got) != 1 || got[0].Addr != addr(1) {
		t.Errorf("Expired() = %v; want the one lease", got)
	}
	if got := s.Expired(); len(got) != 0 {
		t.Errorf("Expired() again = %v; want none", got)
	}
	put(t, s, other)
	if got := s.Of(bound(1, 0).Client); len(got) != 0 {
		t.Errorf("the client before has %v; want nothing", got)
	}
}

// TestExpiredInOrder: the lease that ends first is told first.
func TestExpiredInOrder(t *testing.T) {
	c := newClock()
	s, _ := open(t, "", c)
	for i := range 100 {
		put(t, s, bound(i, s.Now()+int64(i*37%100)+1))
	}
	put(t, s, bound(500, Forever))
	c.pass(time.Hour)
	got := s.Expired()
	for i := 1; i < len(got); i++ {
		if got[i].Expires < got[i-1].Expires {
			t.Errorf("lease %d ends at %d, before the one told before it", i, got[i].Expires)
		}
	}
	if len(got) != 100 {
		t.Errorf("%d leases expired; want 100 of 101", len(got))
	}
}

// TestPowerCut cuts the file at every byte: what was on the disk when its client was told is there, and what was not
// yet written to its end is dropped and said.
func TestPowerCut(t *testing.T) {
	path, c := filepath.Join(t.TempDir(), "leases"), newClock()
	s, _ := open(t, path, c)
	var ends []int64 // of the file when lease i was told
	var leases []Lease
	for i := range 5 {
		l := bound(i%3, s.Now()+1000+int64(i))
		put(t, s, l)
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		ends, leases = append(ends, info.Size()), append(leases, l)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	cut := filepath.Join(t.TempDir(), "cut")
	for n := len(header); n <= len(whole); n++ {
		for _, tail := range []string{"", "\x00\x00\x00\x00"} { // what a filesystem may leave behind the last write
			if err := os.WriteFile(cut, append(bytes.Clone(whole[:n]), tail...), 0o600); err != nil {
				t.Fatal(err)
			}
			again, said := open(t, cut, c)
			want := map[netip.Addr]Lease{}
			torn := n > len(header)
			for i, end := range ends {
				if int64(n) >= end {
					want[leases[i].Addr] = leases[i]
				}
				if int64(n) == end {
					torn = false
				}
			}
			for _, l := range want {
				has(t, again, l)
			}
			if again.Len() != len(want) {
				t.Errorf("cut at %d: %d leases; want %d", n, again.Len(), len(want))
			}
			if torn = torn || tail != ""; torn != strings.Contains(said.String(), "not written to its end") {
				t.Errorf("cut at %d, torn %t, said %q", n, torn, said)
			}
			// What is put after that is not lost in the torn line.
			more := bound(9, again.Now()+10)
			put(t, again, more)
			if err := again.Close(); err != nil {
				t.Fatal(err)
			}
			last, said := open(t, cut, c)
			has(t, last, more)
			if last.Len() != len(want)+1 || said.Len() != 0 {
				t.Errorf("cut at %d, put and opened again: %d leases, said %q; want %d", n, last.Len(), said, len(want)+1)
			}
			_ = last.Close()
		}
	}
}

// TestDamage changes every byte of a file: at most the line it is in is lost, which is said, and the file as it was is
// set aside.
func TestDamage(t *testing.T) {
	dir, c := t.TempDir(), newClock()
	path := filepath.Join(dir, "leases")
	s, _ := open(t, path, c)
	const n = 4
	for i := range n {
		put(t, s, bound(i, s.Now()+1000))
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	bad := filepath.Join(dir, "bad")
	for i := range whole {
		damaged := bytes.Clone(whole)
		damaged[i] ^= 0x15
		if err := os.WriteFile(bad, damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		again, said := open(t, bad, c)
		lost := 1
		switch {
		case i < len(header)-1:
			lost = 0
		case whole[i] == '\n' && i == len(whole)-1:
			// The last line has lost its newline: it is as one not written to its end.
		case i == len(header)-1:
			lost = 1 // the header swallows the first line
		case whole[i] == '\n', damaged[i] == '\n':
			lost = 2 // at most: two lines become one
		}
		if again.Len() < n-lost {
			t.Errorf("byte %d changed: %d leases; want at least %d", i, again.Len(), n-lost)
		}
		if i < len(whole)-1 && !strings.Contains(said.String(), "file="+bad+Damaged) {
			t.Errorf("byte %d changed: said %q; want the file set aside named", i, said)
		}
		if i < len(whole)-1 {
			if aside, err := os.ReadFile(bad + Damaged); err != nil || !bytes.Equal(aside, damaged) {
				t.Errorf("byte %d changed: set aside %d bytes, %v; want the file as it was", i, len(aside), err)
			}
		}
		_ = again.Close()
	}
}

// TestNothingReadable: bytes that are no lease file at all do not keep the service from starting.
func TestNothingReadable(t *testing.T) {
	path := filepath.Join(t.TempDir(), "leases")
	for _, src := range []string{"", "\n", "\x00\x00\x00", strings.Repeat("x", 3*maxLine), strings.Repeat("y\n", 9),
		strings.Repeat("z", 3*maxLine) + "\n" + header} {
		if err := os.WriteFile(path, []byte(src), 0o600); err != nil {
			t.Fatal(err)
		}
		c := newClock()
		s, said := open(t, path, c)
		if src != "" && said.Len() == 0 {
			t.Errorf("Open of %.20q said nothing", src)
		}
		put(t, s, bound(1, s.Now()+5))
		_ = s.Close()
		if got, _ := open(t, path, c); got.Len() != 1 {
			t.Errorf("after Open of %.20q a lease is not kept", src)
		}
	}
}

// TestClockSet: whatever happens to the wall clock, what was left of a lease is left of it, also over a restart.
func TestClockSet(t *testing.T) {
	for _, by := range []time.Duration{56 * 365 * 24 * time.Hour, -30 * 365 * 24 * time.Hour, time.Hour, -time.Hour} {
		path, c := filepath.Join(t.TempDir(), "leases"), newClock()
		s, _ := open(t, path, c)
		put(t, s, bound(1, s.Now()+600))
		put(t, s, bound(2, Forever))
		c.pass(500 * time.Second)
		c.set(by)
		if got := s.Expired(); len(got) != 0 {
			t.Errorf("clock set by %v: %v expired; want none", by, got)
		}
		if l, _ := s.Get(addr(1)); l.Expires-s.Now() != 100 {
			t.Errorf("clock set by %v: %d s are left of the lease; want 100", by, l.Expires-s.Now())
		}
		if l, _ := s.Get(addr(2)); l.Expires != Forever {
			t.Errorf("clock set by %v: the endless lease ends", by)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		again, said := open(t, path, c)
		if l, _ := again.Get(addr(1)); l.Expires-again.Now() != 100 || said.Len() > 0 {
			t.Errorf("clock set by %v and opened again: %d s are left, said %q; want 100", by, l.Expires-again.Now(), said)
		}
		c.pass(101 * time.Second)
		if got := again.Expired(); len(got) != 1 {
			t.Errorf("clock set by %v: %d leases expired in the end; want 1", by, len(got))
		}
	}
}

// TestClockBehind: a guest that starts with its clock at the beginning of time forgets no lease.
func TestClockBehind(t *testing.T) {
	path, c := filepath.Join(t.TempDir(), "leases"), newClock()
	s, _ := open(t, path, c)
	put(t, s, bound(1, s.Now()+600))
	_ = s.Close()
	early := &stopped{wall: time.Unix(86400, 0)}
	again, said := open(t, path, early)
	if l, _ := again.Get(addr(1)); l.Expires-again.Now() != 600 {
		t.Errorf("opened with the clock at 1970: %d s are left of the lease; want 600", l.Expires-again.Now())
	}
	if !strings.Contains(said.String(), "the clock is behind") {
		t.Errorf("said %q; want that the clock is behind", said)
	}
	early.set(c.wall.Sub(early.wall)) // NTP
	if l, _ := again.Get(addr(1)); l.Expires-again.Now() > 600 || len(again.Expired()) > 0 {
		t.Error("the lease ended when the clock was set")
	}
}

// TestRewritten: a file does not grow with the changes, and nothing is lost over it; many at once share a write.
func TestRewritten(t *testing.T) {
	path, c := filepath.Join(t.TempDir(), "leases"), newClock()
	s, _ := open(t, path, c)
	var all sync.WaitGroup
	const clients, rounds = 50, 400
	for i := range clients {
		all.Go(func() {
			told := make(chan error, rounds)
			for r := range rounds {
				if err := s.Put(bound(i, s.Now()+int64(r)+1), func(err error) { told <- err }); err != nil {
					told <- err
				}
			}
			for range rounds {
				if err := <-told; err != nil {
					t.Errorf("Put: %v", err)
				}
			}
		})
	}
	all.Wait()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	src, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if lines := bytes.Count(src, []byte("\n")); lines > 2*clients+spare+clients*rounds/4 {
		t.Errorf("the file has %d lines for %d leases", lines, clients)
	}
	again, _ := open(t, path, c)
	for i := range clients {
		has(t, again, bound(i, again.Now()+rounds))
	}
}

// TestDiskFails: while the file cannot be written nobody is told of a lease; once it can, everybody is.
func TestDiskFails(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	path, c := filepath.Join(dir, "leases"), newClock()
	s, said := open(t, path, c)
	s.mu.Lock()
	_ = s.journal.file.Close() // what is written now fails
	s.mu.Unlock()
	if err := os.Rename(dir, dir+".away"); err != nil { // and the file cannot be written anew
		t.Fatal(err)
	}
	for range 2 {
		told := make(chan error, 1)
		if err := s.Put(bound(1, s.Now()+10), func(err error) { told <- err }); err != nil {
			t.Fatal(err)
		}
		if err := <-told; err == nil {
			t.Error("a lease was told that is not on the disk")
		}
	}
	if err := os.Rename(dir+".away", dir); err != nil {
		t.Fatal(err)
	}
	put(t, s, bound(2, s.Now()+10))
	_ = s.Close()
	if !strings.Contains(said.String(), "cannot be written") {
		t.Errorf("said %q; want that leases cannot be written", said)
	}
	if again, _ := open(t, path, c); again.Len() != 2 {
		t.Errorf("%d leases after the disk came back; want 2", again.Len())
	}
}

func TestFull(t *testing.T) {
	s, err := Open(Options{Most: 2, Clock: newClock().clock(), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	put(t, s, bound(1, Forever))
	put(t, s, bound(2, Forever))
	if err := s.Put(bound(3, Forever), nil); !errors.Is(err, ErrFull) {
		t.Errorf("Put above the bound = %v; want ErrFull", err)
	}
	put(t, s, bound(2, Forever))
}

// TestLongestLine: what a client can make the longest line of is within what the state disk is shared out by.
func TestLongestLine(t *testing.T) {
	far := netip.MustParseAddr("2001:db8:aaaa:bbbb:cccc:dddd:eeee:ffff")
	l := Lease{Addr: far, Bits: 128, Via: far, Client: strings.Repeat("\xff", MaxClient),
		Hardware: strings.Repeat("\xff", MaxHardware), Name: strings.Repeat("\x80", MaxName), Since: -Forever,
		Expires: Forever, State: Declined}
	line := appendLine(nil, l, -Forever)
	if len(line) > maxLine {
		t.Errorf("the longest line has %d bytes; want %d at most", len(line), maxLine)
	}
	if got, _, _, err := parseLine(string(line[:len(line)-1])); err != nil || got != l {
		t.Errorf("parseLine of the longest line = %+v, %v; want %+v", got, err, l)
	}
}
