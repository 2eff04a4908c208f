package ssh

import (
	"net"
	"net/netip"
	"sync"
	"time"
)

// Rates of one source, which is an IPv4 address or an IPv6 /64. A connection costs one, a failed login more; the
// purse fills again with time.
const (
	purse        = 30.0
	perSecond    = 0.1 // 6 connections a minute for ever, 30 at once
	failureCosts = 5.0 // six failures empty a purse: then one try in 50 s
	maxPending   = 4   // not yet logged in, at a time
	maxSources   = 4096
)

// sources slows down those who fail, each for itself: nobody can shut out another.
type sources struct {
	now func() time.Time
	mu  sync.Mutex
	all map[netip.Prefix]*source
}

type source struct {
	left    float64
	at      time.Time
	pending int
}

func newSources(now func() time.Time) *sources {
	return &sources{now: now, all: map[netip.Prefix]*source{}}
}

// sourceOf is what counts as one source.
func sourceOf(a net.Addr) netip.Prefix {
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return netip.Prefix{}
	}
	addr := ap.Addr().Unmap().WithZone("")
	bits := 64
	if addr.Is4() {
		bits = 32
	}
	p, err := addr.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}

// enter tells why a source may not try to log in now; empty: it may, and must leave.
func (s *sources) enter(from netip.Prefix) (why string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	x := s.all[from]
	if x == nil {
		if len(s.all) >= maxSources {
			s.forget(now)
		}
		x = &source{left: purse, at: now}
		s.all[from] = x
	}
	x.fill(now)
	switch {
	case x.pending >= maxPending:
		return "too many connections of it wait to log in"
	case x.left < 1:
		return "it came too often, or failed to log in"
	}
	x.left--
	x.pending++
	return ""
}

// leave tells how a try ended. One that offered nothing to log in with, as ssh-keyscan's, is no failure.
func (s *sources) leave(from netip.Prefix, failed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	x := s.all[from]
	if x == nil {
		return
	}
	x.pending--
	if failed {
		x.left -= failureCosts
	}
}

func (x *source) fill(now time.Time) {
	x.left = min(purse, x.left+perSecond*max(0, now.Sub(x.at).Seconds()))
	x.at = now
}

// forget makes room: those whose purse is full again go, and if there are none, the fullest.
func (s *sources) forget(now time.Time) {
	var fullest netip.Prefix
	most := -purse
	for from, x := range s.all {
		x.fill(now)
		if x.pending > 0 {
			continue
		}
		if x.left >= purse {
			delete(s.all, from)
		} else if x.left > most {
			fullest, most = from, x.left
		}
	}
	if len(s.all) >= maxSources {
		delete(s.all, fullest)
	}
}
