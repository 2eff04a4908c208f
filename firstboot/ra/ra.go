// Package ra is the router's side of IPv6 router discovery on the links the profile names (RFC 4861, section 6.2; RFC
// 4191; RFC 8106; RFC 7084, section 4.3; RFC 9096, section 3): it tells hosts which prefixes the link has and for how
// long, which name servers there are, and whether the guest leads anywhere. It is a child of PID 1.
//
// What it says follows what the links are: a prefix that was delegated is advertised once the guest has an address in
// it, never for longer than it is delegated, and taken back when it goes, while the guest is off too: what was
// advertised is kept on the state disk. The guest is a default router only while it has a default route itself. Answers
// to solicitations go to everybody, so that a flood of these costs one packet in three seconds and no memory.
//
// Packets come and go beside the packet filter, by a packet socket on the one link, so the policy needs no opening; the
// kernel lets nobody on another link reach it.
//
// What it deliberately does not do: give addresses (package link), speak DHCPv6 (package dhcp), proxy another router's
// prefixes (RFC 4389), home agents, and secured discovery (RFC 3971).
package ra

import (
	"context"
	crand "crypto/rand"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"rempart/firstboot/boottime"
	"rempart/firstboot/child"
	"rempart/firstboot/contract"
	"rempart/firstboot/link/packet"
	"rempart/firstboot/link/watch"
	"rempart/profiles"
)

// Spec is the child, there when the profile advertises anything. CAP_NET_RAW is for packet sockets.
func Spec() child.Spec {
	return child.Spec{
		Name: "ra",
		Run:  Run,
		Needed: func(root string) bool {
			p, _, err := child.ReadProfile(root)
			return err == nil && len(p.RA) > 0
		},
		After:       []string{"policy", "state"},
		Follows:     true,
		UID:         contract.UIDRA,
		Caps:        []uintptr{unix.CAP_NET_RAW},
		Own:         []string{runDir},
		Write:       []string{stateDir},
		OOMScore:    300,
		MemoryLimit: 8 << 20,
	}
}

// Run advertises until ctx is done. When the guest stops, and on links that a changed profile does not name any more,
// it says last that it is no router.
func Run(ctx context.Context, env *child.Env) error {
	var seed [32]byte
	_, _ = crand.Read(seed[:]) // never fails (crypto/rand)
	s := server{env: env, wake: make(chan struct{}, 1), broken: make(chan error, 1), open: open}
	for _, said := range env.Profile.RA {
		a := &said
		if d := env.Profile.DHCP6Of(a.Link); d != nil {
			a.Managed, a.Other = a.Managed || d.Gives(), true
		}
		s.voices = append(s.voices, &voice{router: router{advert: a,
			schedule: schedule{random: rand.New(rand.NewChaCha8(seed)), interval: seconds(a.Interval)}}})
	}
	s.load()
	defer s.readers.Wait()
	defer s.closeAll()
	watching, stop := context.WithCancel(ctx)
	defer stop()
	views := make(chan watch.View)
	s.readers.Go(func() {
		err := watch.Run(watching, env.Log, func(v watch.View) {
			select {
			case views <- v:
			case <-watching.Done():
			}
		})
		s.fail(err)
	})
	env.Ready()
	if err := s.run(ctx, views); err != nil {
		return err
	}
	s.farewell()
	return nil
}

// server is all links.
type server struct {
	env     *child.Env
	voices  []*voice
	wake    chan struct{} // a host asked on some link
	broken  chan error
	readers sync.WaitGroup
	unkept  bool     // it was said that promises are not kept
	onDisk  []kept   // what the state disk has of them; nil: not known
	disk    *writing // what it is being given; nil: nothing
	// patience is how long a write to it is waited for; 0: diskPatience.
	patience time.Duration
	open     func(index int) (*packet.Socket, error)
}

// openAgain is after how long a socket that could not be opened is tried again: a link may be there and not ready, and
// what it lacks nobody announces.
const openAgain = time.Second

func open(index int) (*packet.Socket, error) {
	return packet.Open(index, unix.ETH_P_IPV6, solicitsOnly)
}

// voice is one link with its socket.
type voice struct {
	router
	socket    *packet.Socket // nil: none
	solicited atomic.Bool    // a host asked
	mute      bool           // it was said that nothing can be sent
	closed    bool           // it was said that the socket cannot be opened
}

// now is a clock that does not go back and that the next run shares.
func (s *server) now() time.Duration { return boottime.Now() }

func (s *server) fail(err error) {
	if err == nil {
		return
	}
	select {
	case s.broken <- err:
	default:
	}
}

func (s *server) run(ctx context.Context, views <-chan watch.View) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	var again <-chan time.Time
	look := func(view watch.View) {
		if again = nil; !s.look(view) {
			again = time.After(openAgain)
		}
	}
	for {
		wait := time.Hour
		for _, v := range s.voices {
			if at, ok := v.next(); ok {
				wait = min(wait, max(at-s.now(), 0))
			}
		}
		timer.Reset(wait)
		select {
		case <-ctx.Done():
			return nil
		case err := <-s.broken:
			return err
		case view := <-views:
			look(view)
		case <-again:
			view, err := watch.Look()
			if err != nil { // whoever watches says so
				again = time.After(openAgain)
				continue
			}
			look(view)
		case <-s.wake:
			for _, v := range s.voices {
				if v.solicited.Swap(false) && v.up {
					v.asked(s.now())
				}
			}
		case <-timer.C:
		}
		for _, v := range s.voices {
			if at, ok := v.next(); ok && at <= s.now() {
				s.speak(v)
			}
		}
	}
}

// look opens and closes sockets as links come and go; false: one that is to be opened could not be.
func (s *server) look(view watch.View) (opened bool) {
	opened = true
	for _, v := range s.voices {
		l, ok := view.Links[v.advert.Link]
		ok = ok && l.Running && l.LinkLocal.IsValid() && l.MAC != nil
		if v.socket != nil && (!ok || v.link.Index != l.Index) {
			v.socket.Close()
			v.socket = nil
		}
		if ok && v.socket == nil {
			socket, err := s.open(l.Index)
			if err != nil {
				if !v.closed {
					s.env.Log.Warn("not advertising yet", "link", v.advert.Link, "error", err)
				}
				ok, opened = false, false
				v.closed = true
			} else {
				v.socket, v.closed = socket, false
				s.readers.Go(func() { s.listen(v, socket) })
			}
		}
		out := maps.Clone(view.Out)
		delete(out, v.advert.Link)
		if was := v.uplink; was != (len(out) > 0) && v.up && !v.advert.Always {
			s.env.Log.Info("default router", "link", v.advert.Link, "uplink", !was)
		}
		v.look(s.now(), l, ok, len(out) > 0)
	}
	return opened
}

// listen hands on that hosts ask, until the socket is closed.
func (s *server) listen(v *voice, socket *packet.Socket) {
	buf := make([]byte, maxPacket)
	for {
		b, summed, err := socket.Receive(buf)
		switch {
		case errors.Is(err, os.ErrClosed):
			return
		case err != nil:
			s.fail(fmt.Errorf("router solicitations on %s: %w", v.advert.Link, err))
			return
		case checkSolicit(b, summed) != nil:
			continue
		}
		v.solicited.Store(true)
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
}

// speak advertises on a link. What it promises is kept first: a process that ends in between leaves its successor too
// much to take back, never too little.
func (s *server) speak(v *voice) {
	m := v.message(s.now())
	v.spoke(s.now(), m)
	s.save()
	if err := v.socket.Send(m.encode(), allNodesMAC); err != nil {
		if !v.mute {
			s.env.Log.Warn("an advertisement was not sent", "link", v.advert.Link, "error", err)
		}
		v.mute = true
	} else {
		v.mute = false
	}
}

func (s *server) closeAll() {
	for _, v := range s.voices {
		if v.socket != nil {
			v.socket.Close()
		}
	}
}

// farewell says on each link where the guest will not advertise any more that it is no router (RFC 4861, 6.2.5). Why
// this run ends is seen by the profile in force: when it is another one, the guest goes on by it.
func (s *server) farewell() {
	next := &profiles.Profile{}
	if p, _, err := child.ReadProfile(s.env.Root); err == nil && !reflect.DeepEqual(p, s.env.Profile) {
		next = p
	}
	for _, v := range s.voices {
		goesOn := slices.ContainsFunc(next.RA, func(a profiles.Advert) bool { return a.Link == v.advert.Link })
		if v.socket == nil || goesOn {
			continue
		}
		m := v.message(s.now())
		m.final = true
		if err := v.socket.Send(m.encode(), allNodesMAC); err != nil {
			s.env.Log.Debug("the last advertisement was not sent", "link", v.advert.Link, "error", err)
		}
	}
}
