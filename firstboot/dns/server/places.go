package server

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"time"
)

// Bounds of connections (RFC 7766 6.2), of all links together: each takes memory and a descriptor for as long as its
// client likes.
const (
	// MaxConnections is how many there are, and maxOfClient of them one address's.
	MaxConnections = 256
	maxOfClient    = 16
)

// places are where connections are. Whoever comes finds one: when all are taken, or all that one client may have, the
// connection is ended that was idle longest of who has the most of them, on the link that has the most. So nobody
// keeps others out by holding on to what he does not use, who comes from many addresses at once loses his own, and a
// crowd outside takes nothing from the links inside.
type places struct {
	mu    sync.Mutex
	all   map[*place]bool
	of    map[owner]int
	ended uint64 // to make room
}

// owner is whose a place is: a client on a link.
type owner struct {
	link   *Access
	client netip.Addr
}

// place is that of one connection.
type place struct {
	owner
	conn net.Conn
	stop context.CancelFunc // ends what is under way for it
	busy int                // queries under way
	// used is when the connection came, or its last query came or was answered.
	used time.Time
}

func newPlaces() *places { return &places{all: map[*place]bool{}, of: map[owner]int{}} }

// enter gives a connection its place, and ends another where that takes one. stop ends what is under way for it.
func (p *places) enter(conn net.Conn, who owner, stop context.CancelFunc) *place {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.of[who] >= maxOfClient {
		p.end(p.idlest(func(n *place) bool { return n.owner == who }))
	} else if len(p.all) >= MaxConnections {
		link, most := p.fullest(who.link), 0
		for o, n := range p.of {
			if o.link == link {
				most = max(most, n)
			}
		}
		p.end(p.idlest(func(n *place) bool { return n.link == link && p.of[n.owner] == most }))
	}
	n := &place{owner: who, conn: conn, stop: stop, used: time.Now()}
	p.all[n] = true
	p.of[who]++
	return n
}

// fullest is the link that has the most places; of several the one that is asked about.
func (p *places) fullest(link *Access) *Access {
	taken := map[*Access]int{}
	for o, n := range p.of {
		taken[o.link] += n
	}
	for l, n := range taken {
		if n > taken[link] {
			link = l
		}
	}
	return link
}

// idlest is the place that was used least lately of those that are asked for. One whose query is under way is not idle.
func (p *places) idlest(asked func(*place) bool) (found *place) {
	for n := range p.all {
		switch {
		case !asked(n):
		case found == nil, (n.busy > 0) == (found.busy > 0) && n.used.Before(found.used), n.busy == 0 && found.busy > 0:
			found = n
		}
	}
	return found
}

// end takes a place from a connection and closes that. Its queries end with it: who comes again and again would have
// any number of them under way otherwise, of connections that nobody counts any more.
func (p *places) end(n *place) {
	p.ended++
	p.remove(n)
	n.stop()
	n.conn.Close()
}

func (p *places) remove(n *place) {
	if !p.all[n] {
		return
	}
	delete(p.all, n)
	if p.of[n.owner]--; p.of[n.owner] == 0 {
		delete(p.of, n.owner)
	}
}

// leave gives a place back.
func (p *places) leave(n *place) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.remove(n)
}

// use notes that a query came, by 1, or that it was answered, by -1.
func (p *places) use(n *place, by int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	n.busy += by
	n.used = time.Now()
}

// made is how many connections were ended to make room.
func (p *places) made() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ended
}
