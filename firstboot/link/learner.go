package link

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"rempart/firstboot/contract"
)

// restartPause is the wait before a client whose socket failed is started again.
const restartPause = 2 * time.Second

// protocol is what the clients of one protocol have of their own. S is what one learns, T what it is told of its link.
type protocol[S, T any] struct {
	name   string // for people: "DHCP"
	what   string // that is learnt, for people: "lease"
	suffix string // of the files an S is kept in
	asks   func(Link) bool
	check  func(S, time.Duration) error
	tell   func(Interface) T
	// run is a client until ctx is done: on a link, told of it, with what was learnt before (nil: nothing). It hands on
	// what it learns; nil: that is at its end.
	run func(ctx context.Context, l Link, on wire[T], restored *S, changed func(*S)) error
	// take is called when something new was learnt, after it can be seen.
	take func(link string, before, now S)
}

// wire is the link of a client.
type wire[T any] struct {
	index int
	mac   net.HardwareAddr
	told  <-chan T // holds the newest value not yet read
}

// learner keeps the clients of one protocol, one for each link that asks for it and is there, and what they learnt.
type learner[S, T any] struct {
	protocol[S, T]
	*uplinks
	running map[string]*client[T] // by link

	mu     sync.Mutex // clients ask for what others learnt
	states map[string]S
}

type client[T any] struct {
	nic     NIC
	cancel  context.CancelFunc
	told    chan T
	running bool   // whether the link had carrier when it was looked at last
	flaps   uint32 // of its carrier, then
}

// stale tells whether what a client knows of its link is of another link: another device, or another cable that was
// plugged in faster than anybody looked. It begins anew with what it learnt, and asks whether that still holds.
func (c *client[T]) stale(nic NIC, now Interface) bool {
	return c.nic.Index != nic.Index || c.nic.MAC != nic.MAC || c.running && now.Running && c.flaps != now.Flaps
}

func newLearner[S, T any](u *uplinks, p protocol[S, T]) *learner[S, T] {
	k := &learner[S, T]{protocol: p, uplinks: u, running: map[string]*client[T]{}, states: map[string]S{}}
	for _, l := range u.plan.Links {
		if !p.asks(l) {
			continue
		}
		// What the run before this one learnt holds from the first look on, so that it finds nothing to change.
		if s, err := k.load(l.Name); err == nil {
			k.states[l.Name] = s
		} else if !errors.Is(err, fs.ErrNotExist) {
			u.env.Log.Warn("ignored a kept "+p.what, "link", l.Name, "error", err)
		}
	}
	return k
}

// current is a copy of what was learnt, by link.
func (k *learner[S, T]) current() map[string]S {
	k.mu.Lock()
	defer k.mu.Unlock()
	return maps.Clone(k.states)
}

// learn notes what a client learnt; nil: that is at its end.
func (k *learner[S, T]) learn(link string, s *S) {
	k.mu.Lock()
	before := k.states[link]
	if s == nil {
		delete(k.states, link)
	} else {
		k.states[link] = *s
	}
	now := k.states[link]
	k.mu.Unlock()
	if err := k.keep(link, s); err != nil {
		k.env.Log.Warn("the "+k.what+" will not be known to the next run", "link", link, "error", err)
	}
	k.take(link, before, now)
}

// follow starts and stops clients so that just the links that are there have one, and tells them of their links.
func (k *learner[S, T]) follow(ctx context.Context, assigned []Assignment, have []Interface, poke chan<- struct{}) {
	present := map[string]bool{}
	for _, as := range assigned {
		l := k.plan.Links[as.Link]
		at := slices.IndexFunc(have, func(h Interface) bool { return h.Index == as.NIC.Index })
		if !k.asks(l) || at < 0 || have[at].Name != l.Name {
			continue
		}
		present[l.Name] = true
		c := k.running[l.Name]
		if c != nil && c.stale(as.NIC, have[at]) {
			c.cancel()
			c = nil
		}
		if c == nil {
			c = k.start(ctx, l, as.NIC, poke)
			k.running[l.Name] = c
		}
		select { // only the newest value matters
		case <-c.told:
		default:
		}
		c.told <- k.tell(have[at])
		c.running, c.flaps = have[at].Running, have[at].Flaps
	}
	for name, c := range k.running {
		if !present[name] {
			c.cancel()
			delete(k.running, name)
		}
	}
}

func (k *learner[S, T]) start(ctx context.Context, l Link, nic NIC, poke chan<- struct{}) *client[T] {
	ctx, cancel := context.WithCancel(ctx)
	c := &client[T]{nic: nic, cancel: cancel, told: make(chan T, 1)}
	mac, _ := net.ParseMAC(nic.MAC) // it came from the kernel; the client checks its length
	changed := func(s *S) {
		select {
		case k.news <- func() { k.learn(l.Name, s) }:
		case <-ctx.Done():
		}
	}
	k.done.Go(func() {
		for ctx.Err() == nil {
			var restored *S
			if s, ok := k.current()[l.Name]; ok {
				restored = &s
			}
			if err := k.run(ctx, l, wire[T]{nic.Index, mac, c.told}, restored, changed); err != nil {
				k.env.Log.Warn("the "+k.name+" client ended and is started again", "error", err)
			}
			select {
			case <-ctx.Done():
			case <-time.After(restartPause):
			}
			select { // so that the next one is told of its link
			case poke <- struct{}{}:
			default:
			}
		}
	})
	return c
}

// kept is a state in a file. /run forgets it at the next boot, as CLOCK_BOOTTIME does its times.
type kept[S any] struct {
	Link  string `json:"link"`
	State S      `json:"state"`
}

const maxKept = 64 << 10 // bytes of such a file

func (k *learner[S, T]) file(link string) string {
	return k.path(filepath.Join(contract.LinkDir, link+k.suffix))
}

func (k *learner[S, T]) load(link string) (s S, err error) {
	file := k.file(link)
	b, err := os.ReadFile(file)
	switch {
	case err != nil:
		return s, err
	case len(b) > maxKept:
		return s, fmt.Errorf("%s: %d bytes, more than %d", file, len(b), maxKept)
	}
	var in kept[S]
	if err := json.Unmarshal(b, &in); err != nil {
		return s, fmt.Errorf("%s: %w", file, err)
	}
	if in.Link != link {
		return s, fmt.Errorf("%s: it is for link %q", file, in.Link)
	}
	return in.State, k.check(in.State, k.now())
}

func (k *learner[S, T]) keep(link string, s *S) error {
	if s == nil {
		if err := os.Remove(k.file(link)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	b, err := json.Marshal(kept[S]{link, *s})
	if err != nil {
		return err
	}
	return writeWhole(k.file(link), b)
}
