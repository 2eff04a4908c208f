// Package lease remembers who has which address until when, for DHCPv4 and DHCPv6 alike. What it was told is on the
// disk before it says so; a process killed, or a machine without power, at any moment loses nothing it has said.
//
// # The file
//
// A header line, then one line for each change: the CRC-32C of the rest in hex, and what the lease has become. Reading
// it again in order gives the leases. A line that was not written to its end when the power failed has no newline: it
// is dropped, nobody was told of it. A line damaged elsewhere costs that line only, because every line stands for
// itself; the file is then kept aside under another name for people. When most lines are outdated the file is written
// anew beside the old one and takes its place in one step.
//
// Changes that arrive while the disk is busy are written together and share one fdatasync.
//
// # The clock
//
// A guest may have no clock worth the name until NTP sets it. Leases run by the time since the start; when the wall
// clock is set, by more than a minute either way, all leases move with it, so that what was left of each is left of it
// still. Found after a start with the clock behind the newest lease, they move likewise.
//
// What it deliberately does not do: choose addresses, or know what is a pool.
package lease

import (
	"cmp"
	"container/heap"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/netip"
	"slices"
	"sync"
	"time"

	"rempart/firstboot/boottime"
	"rempart/profiles"
)

// State is what a lease is.
type State byte

// The states.
const (
	Bound    State = 'b' // its client has it until it expires
	Freed    State = 'f' // its client gave it back; it may have it again before others
	Declined State = 'd' // somebody unknown uses the address: nobody gets it until it expires
)

// Forever is the Expires of a lease that does not end.
const Forever int64 = math.MaxInt64

// Bounds of a lease, in bytes. A client identifier is one option of DHCPv4 (RFC 2132 section 9.14) or a DUID (RFC 8415
// section 11.1) with an IAID; a hardware address is what chaddr of RFC 2131 holds.
const (
	MaxClient   = 512
	MaxHardware = 16
	MaxName     = 255
)

// Lease is who has an address until when.
type Lease struct {
	Addr     netip.Addr
	Bits     int        // of a delegated prefix; 0: Addr is an address
	Via      netip.Addr // of a delegated prefix: the router that has it; zero: not known
	Client   string     // bytes that identify the client; equal for equal clients
	Hardware string     // bytes of its hardware address, for people; may be empty
	Name     string     // what it calls itself, unsanitised; may be empty
	Since    int64      // Unix seconds: since when this client has it without a break; 0: not known
	Expires  int64      // Unix seconds by Store.Now; Forever
	State    State
}

// Active tells whether the address must not be given to anybody else at a time.
func (l Lease) Active(now int64) bool { return l.State != Freed && l.Expires > now }

var (
	// ErrTaken is the error of a lease for an address that another client has.
	ErrTaken = errors.New("the address is leased to another client")
	// ErrFull is the error of a lease above Options.Most.
	ErrFull = errors.New("no more leases are kept")
	// ErrClosed is the error of what a closed store is told.
	ErrClosed = errors.New("the lease store is closed")
)

// Clock is where time comes from.
type Clock struct {
	Wall func() time.Time
	Boot func() time.Duration // since the start, never set
}

// SystemClock is the machine's.
func SystemClock() Clock {
	return Clock{Wall: time.Now, Boot: boottime.Now}
}

// Options of a store.
type Options struct {
	Path  string // of the file; empty: leases are forgotten when the process ends
	Most  int    // leases kept; 0: DefaultMost
	Clock Clock
	Log   *slog.Logger
}

// DefaultMost bounds how many leases a store keeps, whatever clients do. Each takes some 300 bytes.
const DefaultMost = profiles.MaxLeases

// entry is a lease and where it stands.
type entry struct {
	Lease
	due  int    // place in the heap; -1: it has expired
	next *entry // of the same client
}

// Store keeps leases. Its methods may be called by several goroutines at once.
type Store struct {
	log   *slog.Logger
	clock Clock
	most  int

	mu       sync.Mutex
	base     time.Duration // Unix time minus the time since the start, as leases know it
	sets     int           // how often the clock was set
	byAddr   map[netip.Addr]*entry
	byClient map[string]*entry
	due      dueHeap
	journal  *journal // nil: there is none
	closed   bool
}

// Open reads the leases of a file, or begins a new one. What was damaged is logged.
func Open(o Options) (*Store, error) {
	s := &Store{log: o.Log, clock: o.Clock, most: o.Most, byAddr: map[netip.Addr]*entry{}, byClient: map[string]*entry{}}
	if s.most == 0 {
		s.most = DefaultMost
	}
	s.base = s.offset()
	if o.Path == "" {
		return s, nil
	}
	j, newest, err := openJournal(o.Path, s)
	if err != nil {
		return nil, err
	}
	s.journal = j
	now := s.now()
	for _, e := range s.byAddr {
		if e.Expires > now {
			heap.Push(&s.due, e)
		}
	}
	if behind := newest - now; behind > int64(clockStep/time.Second) {
		s.log.Warn("the clock is behind the newest lease: leases go on as they were when it was written",
			"behind", time.Duration(behind)*time.Second)
		s.move(-behind)
		if err := j.rewrite(s); err != nil {
			return nil, err
		}
	}
	go j.commit(s)
	return s, nil
}

// clockStep is how far the wall clock may drift from the time since the start before it counts as set.
const clockStep = time.Minute

// offset is what the wall clock is ahead of the time since the start.
func (s *Store) offset() time.Duration {
	return time.Duration(s.clock.Wall().UnixNano()) - s.clock.Boot()
}

func (s *Store) now() int64 { return int64((s.base + s.clock.Boot()) / time.Second) }

// Now is the time leases run by, in Unix seconds.
func (s *Store) Now() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.follow()
	return s.now()
}

// ClockSet counts how often the clock was set, and with it the end of every lease: what was told of them is wrong then.
func (s *Store) ClockSet() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.follow()
	return s.sets
}

// follow moves the leases when the wall clock was set.
func (s *Store) follow() {
	delta := s.offset() - s.base
	if delta < clockStep && delta > -clockStep {
		return
	}
	s.log.Info("the clock was set: leases keep what was left of them", "by", delta.Round(time.Second),
		"leases", len(s.byAddr))
	s.base += delta
	s.sets++
	s.move(int64(delta / time.Second))
	if delta < 0 { // what has ended stays so
		for _, e := range s.byAddr {
			if e.due < 0 && e.Expires != Forever {
				e.Expires += int64(delta / time.Second)
			}
		}
	}
	if s.journal != nil {
		s.journal.stale = true
		s.journal.wake()
	}
}

// move adds seconds to the end of every lease that has not ended; the order among them stays.
func (s *Store) move(seconds int64) {
	for _, e := range s.due {
		if e.Expires != Forever {
			e.Expires += seconds
		}
	}
}

// Get is the lease of an address, ended or not.
func (s *Store) Get(a netip.Addr) (Lease, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.byAddr[a]
	if e == nil {
		return Lease{}, false
	}
	return e.Lease, true
}

// Of are the leases of a client, ended ones too, those that end last first.
func (s *Store) Of(client string) []Lease {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []Lease
	for e := s.byClient[client]; e != nil; e = e.next {
		out = append(out, e.Lease)
	}
	slices.SortStableFunc(out, func(a, b Lease) int { return cmp.Compare(b.Expires, a.Expires) })
	return out
}

// Len is how many leases are kept, ended ones too.
func (s *Store) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.byAddr)
}

// All are all leases, ended ones too, in no order.
func (s *Store) All() []Lease {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]Lease, 0, len(s.byAddr))
	for _, e := range s.byAddr {
		out = append(out, e.Lease)
	}
	return out
}

// Expired returns the leases that have ended since it was called last, the first to end first. They are kept, so that
// their clients can have them again, until the address is given to somebody else or the store is full.
func (s *Store) Expired() []Lease {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.follow()
	now := s.now()
	var out []Lease
	for len(s.due) > 0 && s.due[0].Expires <= now {
		e := heap.Pop(&s.due).(*entry)
		out = append(out, e.Lease)
	}
	return out
}

// Put keeps a lease in place of the one its address had, and calls done, from another goroutine or this one, once it is
// on the disk or cannot be. When Put itself returns an error nothing has changed and done is never called.
func (s *Store) Put(l Lease, done func(error)) error {
	if !l.Addr.IsValid() || l.Addr.Zone() != "" || len(l.Client) > MaxClient || len(l.Hardware) > MaxHardware ||
		len(l.Name) > MaxName || l.Bits < 0 || l.Bits > l.Addr.BitLen() || l.Via.Zone() != "" {
		return fmt.Errorf("lease of %v: out of bounds", l.Addr)
	}
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return ErrClosed
	}
	s.follow()
	old := s.byAddr[l.Addr]
	var ended netip.Addr
	if old == nil && len(s.byAddr) >= s.most {
		ended = s.anEnded()
	}
	switch {
	case old == nil && len(s.byAddr) >= s.most && !ended.IsValid():
		s.mu.Unlock()
		return fmt.Errorf("%w than %d", ErrFull, s.most)
	case old != nil && old.Client != l.Client && old.Active(s.now()):
		s.mu.Unlock()
		return fmt.Errorf("%v: %w", l.Addr, ErrTaken)
	}
	if ended.IsValid() {
		s.forget(ended)
	}
	s.set(l)
	return s.told(func(j *journal) {
		if ended.IsValid() {
			j.remove(ended, s.now())
		}
		j.put(l, s.now())
	}, done)
}

// looked bounds how many leases are looked at for one that can be forgotten.
const looked = 256

// anEnded is the address of a lease that has ended, as Expired has told or its client: of some taken at random, the one
// that ended first. Invalid: there is none among them.
func (s *Store) anEnded() (a netip.Addr) {
	now, first, n := s.now(), int64(0), 0
	for addr, e := range s.byAddr {
		if e.due < 0 && !e.Active(now) && (!a.IsValid() || e.Expires < first) {
			a, first = addr, e.Expires
		}
		if n++; n == looked {
			break
		}
	}
	return a
}

// Pass makes the lease that a client has of an address another client's, which is the same machine under another name;
// what else it is stays. When nobody or somebody else has it nothing changes.
func (s *Store) Pass(a netip.Addr, from, to string) error {
	s.mu.Lock()
	e := s.byAddr[a]
	switch {
	case s.closed:
		s.mu.Unlock()
		return ErrClosed
	case len(to) > MaxClient:
		s.mu.Unlock()
		return fmt.Errorf("lease of %v: out of bounds", a)
	case e == nil || e.Client != from:
		s.mu.Unlock()
		return nil
	}
	l := e.Lease
	l.Client = to
	s.set(l)
	return s.told(func(j *journal) { j.put(l, s.now()) }, nil)
}

// Remove forgets an address, and calls done as Put does.
func (s *Store) Remove(a netip.Addr, done func(error)) error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return ErrClosed
	}
	s.forget(a)
	return s.told(func(j *journal) { j.remove(a, s.now()) }, done)
}

// told hands a change to the journal and gives the lock back.
func (s *Store) told(write func(*journal), done func(error)) error {
	if s.journal == nil {
		s.mu.Unlock()
		if done != nil {
			done(nil)
		}
		return nil
	}
	write(s.journal)
	if done != nil {
		s.journal.waiting = append(s.journal.waiting, done)
	}
	s.journal.wake()
	s.mu.Unlock()
	return nil
}

// set takes a lease into memory.
func (s *Store) set(l Lease) {
	s.forget(l.Addr)
	e := &entry{Lease: l, due: -1, next: s.byClient[l.Client]}
	s.byAddr[l.Addr], s.byClient[l.Client] = e, e
	if l.Expires > s.now() && s.journalRead() {
		heap.Push(&s.due, e)
	}
}

// journalRead is false while the file is read: the order of expiry is made once at the end of it.
func (s *Store) journalRead() bool { return s.journal == nil || !s.journal.reading }

func (s *Store) forget(a netip.Addr) {
	e := s.byAddr[a]
	if e == nil {
		return
	}
	delete(s.byAddr, a)
	if e.due >= 0 {
		heap.Remove(&s.due, e.due)
	}
	switch first := s.byClient[e.Client]; {
	case first == e && e.next == nil:
		delete(s.byClient, e.Client)
	case first == e:
		s.byClient[e.Client] = e.next
	default:
		for p := first; p != nil; p = p.next {
			if p.next == e {
				p.next = e.next
				break
			}
		}
	}
}

// Close writes what is to be written and ends the store. Whoever waits for the disk is called before it returns.
func (s *Store) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	j := s.journal
	s.mu.Unlock()
	if j == nil {
		return nil
	}
	close(j.end)
	<-j.ended
	return j.file.Close()
}

// dueHeap has the lease that ends first on top.
type dueHeap []*entry

func (h dueHeap) Len() int           { return len(h) }
func (h dueHeap) Less(i, j int) bool { return h[i].Expires < h[j].Expires }
func (h dueHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].due, h[j].due = i, j
}

func (h *dueHeap) Push(x any) {
	e := x.(*entry)
	e.due = len(*h)
	*h = append(*h, e)
}

func (h *dueHeap) Pop() any {
	old := *h
	e := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	e.due = -1
	return e
}
