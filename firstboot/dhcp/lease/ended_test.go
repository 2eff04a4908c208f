package lease

import (
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestFullOfEnded: leases that have ended make room for new ones, also over a restart.
func TestFullOfEnded(t *testing.T) {
	path, c := filepath.Join(t.TempDir(), "leases"), newClock()
	o := Options{Path: path, Most: 2, Clock: c.clock(), Log: slog.New(slog.DiscardHandler)}
	s, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	put(t, s, bound(1, s.Now()+10))
	put(t, s, bound(2, Forever))
	c.pass(11 * time.Second)
	if err := s.Put(bound(3, Forever), nil); !errors.Is(err, ErrFull) {
		t.Errorf("Put before the end of one was told = %v; want ErrFull", err)
	}
	s.Expired()
	put(t, s, bound(3, Forever))
	_ = s.Close()
	if s, err = Open(o); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, ok := s.Get(addr(1)); ok || s.Len() != 2 {
		t.Errorf("%d leases, the ended one among them: %v; want the two others", s.Len(), ok)
	}
}

// TestClockSetBack: a lease that has ended does not come to life again.
func TestClockSetBack(t *testing.T) {
	c := newClock()
	s, _ := open(t, "", c)
	put(t, s, bound(1, s.Now()+10))
	c.pass(11 * time.Second)
	s.Expired()
	c.set(-time.Hour)
	now := s.Now() // which notices that the clock was set
	if l, _ := s.Get(addr(1)); l.Active(now) {
		t.Error("the lease goes on after the clock was set back")
	}
	other := bound(1, Forever)
	other.Client = "somebody else"
	put(t, s, other)
}

// FuzzRead: whatever is in the file, reading it ends, and what it takes for leases keeps the bounds and survives being
// written and read again.
func FuzzRead(f *testing.F) {
	line := appendLine(nil, bound(1, 5), 4)
	f.Add([]byte(header + string(line)))
	f.Add([]byte(header + string(line[:20])))
	f.Add(line)
	f.Fuzz(func(t *testing.T, src []byte) {
		leases, _ := Read(src)
		for _, l := range leases {
			again, _, gone, err := parseLine(strings.TrimSuffix(string(appendLine(nil, l, 1)), "\n"))
			if err != nil || gone || again != l {
				t.Errorf("%+v is read back as %+v, %v", l, again, err)
			}
		}
	})
}

// BenchmarkPut is a renewal among 50,000 leases, on the disk before it is told; many at once as servers do.
func BenchmarkPut(b *testing.B) {
	s, err := Open(Options{Path: filepath.Join(b.TempDir(), "leases"), Clock: SystemClock(),
		Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	const many = 50_000
	for i := range many {
		if err := s.Put(bound(i, s.Now()+3600), nil); err != nil {
			b.Fatal(err)
		}
	}
	var told sync.WaitGroup
	i := 0
	for b.Loop() {
		i++
		told.Add(1)
		if err := s.Put(bound(i%many, s.Now()+3600), func(error) { told.Done() }); err != nil {
			b.Fatal(err)
		}
	}
	told.Wait()
}
