package names

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"rempart/firstboot/contract"
	"rempart/firstboot/door"
)

// Bounds of followers.
const (
	maxFollowers = 8
	maxBatch     = 64               // lines in one write
	patience     = 10 * time.Second // with a follower that does not read
)

// readers are the users that may follow, besides root and the feed's own.
var readers = []uint32{contract.UIDDNS, contract.UIDAdmin}

// Feed holds the bindings and hands them to followers. Its methods may be called from any goroutine.
type Feed struct {
	mu        sync.Mutex
	bindings  map[netip.Addr]held
	puts      uint64 // the number of the last binding of an address that had none
	followers map[*follower]struct{}
}

type held struct {
	Binding
	number uint64 // order of the first put
}

// NewFeed returns a feed without bindings.
func NewFeed() *Feed {
	return &Feed{bindings: map[netip.Addr]held{}, followers: map[*follower]struct{}{}}
}

// Put makes b the binding of its address. A name that is too long is cut, one that is no UTF-8 mended. It never waits
// for a follower. The error is ErrBinding when b is beyond the bounds or the feed is full; nothing changed then.
func (f *Feed) Put(b Binding) error {
	b.Name = clean(b.Name)
	if err := b.Check(); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	old, known := f.bindings[b.Addr]
	switch {
	case known && old.Binding == b:
		return nil
	case !known && len(f.bindings) >= MaxBindings:
		return fmt.Errorf("%w: there are %d already; %s goes without a name", ErrBinding, MaxBindings, b.Addr)
	case !known:
		f.puts++
		old.number = f.puts
	}
	f.bindings[b.Addr] = held{b, old.number}
	f.tell(b.Addr)
	return nil
}

// Remove forgets the binding of an address, if it has one.
func (f *Feed) Remove(addr netip.Addr) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, known := f.bindings[addr]; known {
		delete(f.bindings, addr)
		f.tell(addr)
	}
}

// tell lets every follower know that something became of an address; f.mu is held.
func (f *Feed) tell(addr netip.Addr) {
	for follower := range f.followers {
		follower.queue(addr)
	}
}

// follower is one that reads. It remembers addresses, not changes: however slowly it reads, there is no more to
// remember than there are addresses, and what it reads is as new as can be.
type follower struct {
	waiting []netip.Addr // addresses to tell of, each once
	queued  map[netip.Addr]struct{}
	first   int           // how many of them are still of the whole state
	whole   bool          // the end of the whole state has been told
	wake    chan struct{} // holds one when something is waiting
}

func (w *follower) queue(addr netip.Addr) {
	if _, is := w.queued[addr]; is {
		return
	}
	w.queued[addr] = struct{}{}
	w.waiting = append(w.waiting, addr)
	w.rouse()
}

func (w *follower) rouse() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// join adds a follower, to whom everything is to be told, in the order of the first puts.
func (f *Feed) join() *follower {
	f.mu.Lock()
	defer f.mu.Unlock()
	all := make([]held, 0, len(f.bindings))
	for _, b := range f.bindings {
		all = append(all, b)
	}
	slices.SortFunc(all, func(a, b held) int { return cmp.Compare(a.number, b.number) })
	w := &follower{queued: make(map[netip.Addr]struct{}, len(all)), first: len(all), wake: make(chan struct{}, 1)}
	for _, b := range all {
		w.queue(b.Addr)
	}
	w.rouse() // no bindings at all are a whole state, too
	f.followers[w] = struct{}{}
	return w
}

func (f *Feed) leave(w *follower) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.followers, w)
}

// next returns what to tell a follower next; nothing: it knows everything.
func (f *Feed) next(w *follower) []line {
	f.mu.Lock()
	defer f.mu.Unlock()
	var lines []line
	for len(lines) < maxBatch {
		if w.first == 0 && !w.whole {
			w.whole = true
			lines = append(lines, line{Whole: true})
			continue
		}
		if len(w.waiting) == 0 {
			w.waiting = nil // and its array with it
			break
		}
		addr := w.waiting[0]
		w.waiting = w.waiting[1:]
		delete(w.queued, addr)
		if w.first > 0 {
			w.first--
		}
		if b, known := f.bindings[addr]; known {
			lines = append(lines, line{Put: &b.Binding})
		} else {
			lines = append(lines, line{Gone: &addr})
		}
	}
	return lines
}

// entrance is the socket, and who may follow: root, this child itself and the readers.
func entrance(log *slog.Logger) door.Door {
	return door.Door{Name: "socket of names", Allowed: append([]uint32{0, uint32(os.Getuid())}, readers...),
		Most: maxFollowers, Log: log}
}

// Listen opens the socket at a path, in place of what a predecessor left there. The directory is the caller's.
func Listen(path string) (*net.UnixListener, error) { return entrance(nil).Listen(path) }

// Serve tells the followers that come by l until ctx is done. It closes l.
func (f *Feed) Serve(ctx context.Context, l door.Listener, log *slog.Logger) {
	entrance(log).Serve(ctx, l, func(ctx context.Context, conn *net.UnixConn, _ uint32) {
		defer context.AfterFunc(ctx, func() { conn.Close() })()
		f.serve(conn)
	})
}

// serve tells one follower until it is gone. Why it went is its own business: it comes back when it wants to.
func (f *Feed) serve(conn net.Conn) {
	w := f.join()
	defer f.leave(w)
	gone := make(chan struct{})
	go func() { // a follower says nothing; the end of what it says is the end of it
		defer close(gone)
		_, _ = conn.Read(make([]byte, 1))
	}()
	for {
		select {
		case <-w.wake:
		case <-gone:
			return
		}
		for lines := f.next(w); len(lines) > 0; lines = f.next(w) {
			var b []byte
			for _, l := range lines {
				one, err := json.Marshal(l)
				if err != nil { // none of its fields can fail
					return
				}
				b = append(append(b, one...), '\n')
			}
			if conn.SetWriteDeadline(time.Now().Add(patience)) != nil {
				return
			}
			if _, err := conn.Write(b); err != nil {
				return
			}
		}
	}
}
