package ssh

import (
	"net"
	"net/netip"
	"sync"
)

// lobby holds the connections that have not logged in yet. They have places of their own: strangers, who never get
// further, take none from administrators. When all are taken, whoever comes takes the place of the oldest of the source
// that holds the most, so that a login, which takes a fraction of a second, is shut out by nobody who only waits.
type lobby struct {
	places  int
	mu      sync.Mutex
	waiting []*visitor // the oldest first
}

// visitor is a connection in the lobby.
type visitor struct {
	conn net.Conn
	from netip.Prefix
}

// enter takes a connection in, and returns the one that has to go for it; nil: there was room.
func (l *lobby) enter(conn net.Conn, from netip.Prefix) (in, out *visitor) {
	in = &visitor{conn, from}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.waiting) >= l.places {
		held := map[netip.Prefix]int{}
		for _, v := range l.waiting {
			held[v.from]++
		}
		oldest := 0
		for i, v := range l.waiting {
			if held[v.from] > held[l.waiting[oldest].from] {
				oldest = i
			}
		}
		out = l.waiting[oldest]
		l.waiting = append(l.waiting[:oldest], l.waiting[oldest+1:]...)
	}
	l.waiting = append(l.waiting, in)
	return in, out
}

// leave gives a place back, whatever the connection became.
func (l *lobby) leave(in *visitor) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, v := range l.waiting {
		if v == in {
			l.waiting = append(l.waiting[:i], l.waiting[i+1:]...)
			return
		}
	}
}
