// Package refresh takes things from elsewhere again and again, each on its schedule, and keeps the last good one of
// each: a file of the guest or what a web server gives out. What is good its Judge decides, which also says what of it
// is kept. The next one replaces it whole or not at all, whatever happens meanwhile, power cuts included.
//
// What it deliberately does not do: know what it fetches, or hold more of it in memory than it takes to copy.
package refresh

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"rempart/firstboot/refresh/get"
)

// Source is one thing that is taken again and again.
type Source struct {
	Name  string        // of the kept file: letters, digits, '.', '_', '-', not beginning with '.'
	URL   string        // of a web server; empty: File
	File  string        // path
	Every time.Duration // from one look to the next; more than zero
	Most  int64         // bytes it may have
	// Client reaches the server.
	Client *get.Client
	// Judge reads what was taken and writes what is to be kept of it, or says why it is no good. kept is what is kept now,
	// nil when there is nothing.
	Judge func(fresh, kept io.Reader, keep io.Writer) error
}

// from says where a source is: what was kept of another one under its name is not its.
func (s *Source) from() string {
	if s.URL != "" {
		return s.URL
	}
	return "file:" + s.File
}

// Status is how a source stands.
type Status struct {
	Name  string
	Taken time.Time // when what is kept was taken; zero: nothing is
	Seen  time.Time // when it was last seen to be still the one; zero: not since it was laid there
	Tried time.Time // the last try; zero: none since the start
	Next  time.Time // the next one
	Error string    // why the last try failed; empty: it did not
	Fails int       // how many tries failed since one did not
}

// Clock is the time a Keeper goes by.
type Clock struct {
	Now func() time.Time
	// Wait waits, or returns ctx's error.
	Wait func(ctx context.Context, d time.Duration) error
	// Random is from 0 to 1, not included.
	Random func() float64
}

// SystemClock is the machine's own.
func SystemClock() Clock {
	return Clock{Now: time.Now, Random: rand.Float64, Wait: func(ctx context.Context, d time.Duration) error {
		t := time.NewTimer(d)
		defer t.Stop()
		select {
		case <-t.C:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}}
}

// Keeper takes sources and keeps them in a Store.
type Keeper struct {
	Store *Store
	Clock Clock
	Log   *slog.Logger
	// Changed is told when another content is kept under a name, and Told when a status changes. They are not called
	// concurrently.
	Changed func(name string)
	Told    func(Status)

	turn sync.Mutex // one source at a time: what is judged is in memory
	tell sync.Mutex
}

// Times of tries. A guest that starts has its links a moment later, and a server that is away is not asked every second
// by all guests that miss it.
const (
	firstRetry = 5 * time.Second
	// fetchTime is what one fetch may take.
	fetchTime = 2 * time.Minute
	// jitter is how much earlier or later than Every a look may be, as a part of it: guests that started together do not
	// ask together for ever.
	jitter = 0.1
)

// Run takes the sources until ctx is done. Sources that fail are tried again after longer and longer, up to their
// Every.
func (k *Keeper) Run(ctx context.Context, sources []Source) {
	var all sync.WaitGroup
	for i := range sources {
		all.Go(func() { k.keep(ctx, &sources[i]) })
	}
	all.Wait()
}

// keep takes one source until ctx is done.
func (k *Keeper) keep(ctx context.Context, s *Source) {
	st := Status{Name: s.Name}
	meta, known := k.meta(s)
	if known {
		st.Taken, st.Seen = meta.Taken, meta.seen
	}
	now := k.Clock.Now()
	st.Next = now
	// Seen in the future: the clock was wrong then, or is now.
	if known && !meta.seen.After(now) && s.URL != "" {
		st.Next = later(now, meta.seen.Add(s.Every))
	}
	retry := min(firstRetry, s.Every)
	var looked fileState
	for {
		k.told(st)
		if k.Clock.Wait(ctx, st.Next.Sub(k.Clock.Now())) != nil {
			return
		}
		changed, err := k.look(ctx, s, &looked)
		if ctx.Err() != nil {
			return
		}
		now := k.Clock.Now()
		st.Tried, st.Error = now, ""
		if err != nil {
			st.Error = err.Error()
			st.Fails++
			st.Next = now.Add(k.spread(retry))
			retry = min(2*retry, s.Every)
			k.Log.Warn("list not renewed", "list", s.Name, "error", err, "next", st.Next.Sub(now).Round(time.Second))
			continue
		}
		retry = min(firstRetry, s.Every)
		st.Fails = 0
		st.Seen, st.Next = now, now.Add(k.spread(s.Every))
		if changed {
			st.Taken = now
			k.tell.Lock()
			k.Changed(s.Name)
			k.tell.Unlock()
		}
	}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// spread is about d.
func (k *Keeper) spread(d time.Duration) time.Duration {
	return d + time.Duration((2*k.Clock.Random()-1)*jitter*float64(d))
}

func (k *Keeper) told(st Status) {
	k.tell.Lock()
	defer k.tell.Unlock()
	k.Told(st)
}

// meta is what is known of what is kept of a source; false: nothing is.
func (k *Keeper) meta(s *Source) (Meta, bool) {
	kept, err := k.Store.OpenOf(s)
	if err != nil {
		if !errors.Is(err, os.ErrNotExist) {
			k.Log.Warn("what was kept of a list cannot be used", "list", s.Name, "error", err)
		}
		return Meta{}, false
	}
	defer kept.Close()
	return kept.Meta, true
}

// look takes a source once and tells whether another content is kept now.
func (k *Keeper) look(ctx context.Context, s *Source, looked *fileState) (changed bool, err error) {
	k.turn.Lock()
	defer k.turn.Unlock()
	kept, err := k.Store.OpenOf(s)
	if err != nil { // damaged: said when the guest started, and replaced now
		kept = nil
	} else {
		defer kept.Close()
	}
	if s.URL == "" {
		return k.lookAtFile(s, kept, looked)
	}
	var have get.Validators
	if kept != nil {
		have = kept.Validators
	}
	fresh, err := k.Store.scratch()
	if err != nil {
		return false, err
	}
	defer fresh.Close()
	ctx, stop := context.WithTimeout(ctx, fetchTime)
	defer stop()
	got, err := s.Client.Fetch(ctx, s.URL, have, s.Most, fresh)
	if errors.Is(err, get.ErrUnchanged) {
		return false, k.Store.touch(s.Name, k.Clock.Now())
	}
	if err != nil {
		return false, err
	}
	if _, err := fresh.Seek(0, io.SeekStart); err != nil {
		return false, err
	}
	return k.judge(s, fresh, kept, got)
}

// fileState tells whether a file is the one that was looked at.
type fileState struct {
	inode    uint64
	size     int64
	modified time.Time
	good     bool
}

func (k *Keeper) lookAtFile(s *Source, kept *Kept, looked *fileState) (changed bool, err error) {
	// No link is followed, and a pipe does not make us wait: who may write there may be a stranger by now.
	f, err := os.OpenFile(s.File, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return false, err
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return false, fmt.Errorf("%s: %w", s.File, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return false, fmt.Errorf("%s is no regular file", s.File)
	}
	if st.Size > s.Most {
		return false, fmt.Errorf("%s has %d bytes: %w: %d", s.File, st.Size, get.ErrTooLarge, s.Most)
	}
	now := fileState{st.Ino, st.Size, time.Unix(st.Mtim.Unix()), true}
	if *looked == now && kept != nil {
		return false, nil
	}
	if changed, err = k.judge(s, io.LimitReader(f, s.Most), kept, get.Validators{}); err == nil {
		*looked = now
	}
	return changed, err
}

// judge keeps what was taken if it is good.
func (k *Keeper) judge(s *Source, fresh io.Reader, kept *Kept, v get.Validators) (changed bool, err error) {
	var old io.Reader
	if kept != nil {
		old = kept
	}
	return k.Store.put(s.Name, Meta{From: s.from(), Taken: k.Clock.Now(), Validators: v}, kept,
		func(w io.Writer) error { return s.Judge(fresh, old, w) })
}
