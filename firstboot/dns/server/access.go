package server

import (
	"net/netip"
	"sync"
	"time"
)

// Access is who may do what on one link. Its zero value lets nobody ask.
type Access struct {
	Link string
	View uint8 // which upstreams are asked for its hosts
	// From may ask at all. Empty: whoever is in Subnets.
	From []netip.Prefix
	// Recurse are those of them for whom others are asked; empty: all, or none with NoRecursion.
	Recurse     []netip.Prefix
	NoRecursion bool
	// Limit is how many answers a second a /24 or /56 gets by UDP that may not recurse and has no cookie of ours.
	Limit int
	// Subnets returns the subnets of the link as they are now. Looked at when somebody asks who was in none before, once a
	// second at most.
	Subnets func() []netip.Prefix

	mu      sync.Mutex
	current []netip.Prefix
	looked  time.Time
}

// lookAgain is how long an answer of Subnets holds for who is in none of them.
const lookAgain = time.Second

// may tells what a client may do.
func (a *Access) may(from netip.Addr) (ask, recurse bool) {
	if len(a.From) > 0 {
		ask = contains(a.From, from)
	} else {
		ask = a.onLink(from)
	}
	if !ask || a.NoRecursion {
		return ask, false
	}
	return ask, len(a.Recurse) == 0 || contains(a.Recurse, from)
}

func contains(all []netip.Prefix, a netip.Addr) bool {
	for i := range all {
		if all[i].Contains(a) {
			return true
		}
	}
	return false
}

// onLink tells whether an address is in one of the link's subnets.
func (a *Access) onLink(from netip.Addr) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if contains(a.current, from) {
		return true
	}
	if a.Subnets == nil || !a.looked.IsZero() && time.Since(a.looked) < lookAgain {
		return false
	}
	a.current, a.looked = a.Subnets(), time.Now()
	return contains(a.current, from)
}
