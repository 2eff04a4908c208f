// Package v4 is a DHCPv4 server: RFC 2131 with the options of RFC 2132, relay agents (RFC 3046, 3527, 5107), and what a
// profile says of pools, hosts and classes. Server decides; it has no sockets. Serve is its wire on one link.
//
// Which address a client gets: the one the profile names for it; else the one it has or had; else the one it asks for,
// if free; else one that nobody ever had; else the one that has been free for longest. An address that is not its
// client's already is asked for on the network before it is offered. No acknowledgement leaves before the lease is on
// the disk.
//
// # Floods
//
// Offers cost an address until they are taken or time out; when there are too many, or no address is left, the oldest
// makes room, so a flood of discoveries pushes out its own. Clients that have a lease or are named are served whatever
// the pool holds. New clients of one link are bounded in rate.
//
// What it deliberately does not do: BOOTP, overloading answers (what does not fit into the client's message size is
// left out, what it did not ask for first), FORCERENEW, lease queries, and dynamic DNS: names go to whoever follows.
package v4

import (
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"rempart/firstboot/dhcp/lease"
	"rempart/profiles"
)

// Times and bounds, in seconds where they are numbers.
const (
	// offerTime is how long an address is kept for who it was offered to: several retransmissions (RFC 2131 section 4.1).
	offerTime = 30
	// youngOffer is how old an offer must be to make room for another one.
	youngOffer = 2
	// declineTime is how long an address that somebody else was found to use is given to nobody.
	declineTime = 600
	// maxOffers bounds the offers of one link that are not taken yet.
	maxOffers = 1024
	// maxTries is how many addresses are tried for one discovery when the network has them all in use.
	maxTries = 4
	// leastLease is the shortest lease a client may ask for.
	leastLease = 60
)

// Names is told who has which address: before the acknowledgement leaves, and when the lease has ended.
type Names interface {
	Bound(l lease.Lease, link string)
	Gone(a netip.Addr)
}

// Prober asks the network whether somebody has an address. It calls done once, from another goroutine: with who
// answered, a hardware address or what else is known of it; empty: nobody did.
type Prober interface {
	Probe(link string, a netip.Addr, local bool, done func(by string))
}

// Config is what a server needs. Names and Prober may be nil.
type Config struct {
	DHCP   []profiles.DHCP
	Store  *lease.Store
	Names  Names
	Prober Prober
	Log    *slog.Logger
}

// Server answers DHCP messages. Its methods may be called by several goroutines at once.
type Server struct {
	Config
	links map[string]*link

	mu    sync.Mutex
	clock func() time.Time  // of rates
	said  map[string]saying // of rarely
	// clockSet is Store.ClockSet when names were last told.
	clockSet int
}

// link is what is served on one link.
type link struct {
	dhcp    *profiles.DHCP
	subnets []*subnet
	hosts   []*host
	byMAC   map[string]*host
	byID    map[string]*host
	rate    bucket
	offers  int
}

// Packet is a message as it came.
type Packet struct {
	Link    string
	From    netip.AddrPort
	Message *dhcpv4.DHCPv4
}

// Reply is a message to be sent.
type Reply struct {
	Message []byte
	// Server is the source address; invalid: the kernel's choice.
	Server netip.Addr
	To     netip.AddrPort
	// Hardware is whom the frame is for, past the kernel's neighbours: the client has no address yet. Nil: by the kernel.
	Hardware []byte
}

// New makes a server of what the profile says and the leases there are.
func New(c Config) *Server {
	s := &Server{Config: c, links: map[string]*link{}, clock: time.Now, said: map[string]saying{}}
	for i := range c.DHCP {
		s.links[c.DHCP[i].Link] = newLink(&c.DHCP[i])
	}
	now := s.Store.Now()
	all := s.Store.All()
	slices.SortFunc(all, func(a, b lease.Lease) int { return int(max(min(a.Expires-b.Expires, 1), -1)) })
	for _, l := range all {
		sub, ln := s.subnetOf(l.Addr)
		switch {
		case l.Active(now):
			if ln != nil && l.State == lease.Bound && s.Names != nil {
				s.Names.Bound(l, ln.dhcp.Link)
			}
		case sub == nil || !sub.pool.has(l.Addr):
			_ = s.Store.Remove(l.Addr, nil) // nobody is waiting; if it fails it is there again next time
		default:
			sub.pool.ended.push(l.Addr)
		}
	}
	return s
}

// nameAll tells the names of all leases anew.
func (s *Server) nameAll(now int64) {
	if s.Names == nil {
		return
	}
	for _, l := range s.Store.All() {
		if _, ln := s.subnetOf(l.Addr); ln != nil && l.State == lease.Bound && l.Active(now) {
			s.Names.Bound(l, ln.dhcp.Link)
		}
	}
}

// subnetOf is the subnet that an address belongs to, and its link.
func (s *Server) subnetOf(a netip.Addr) (*subnet, *link) {
	for _, ln := range s.links {
		for _, sub := range ln.subnets {
			if sub.Prefix.Contains(a) {
				return sub, ln
			}
		}
	}
	return nil, nil
}

// Sweep takes back what has ended. Whoever runs the server calls it about once a second.
func (s *Server) Sweep() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sweep(s.Store.Now())
}

func (s *Server) sweep(now int64) {
	if n := s.Store.ClockSet(); n != s.clockSet {
		s.clockSet = n
		s.nameAll(now)
	}
	for _, l := range s.Store.Expired() {
		if sub, _ := s.subnetOf(l.Addr); sub != nil && sub.pool.has(l.Addr) {
			sub.pool.ended.push(l.Addr)
		}
		if s.Names != nil && l.State == lease.Bound {
			s.Names.Gone(l.Addr)
		}
	}
	for _, ln := range s.links {
		for _, sub := range ln.subnets {
			for o := sub.pool.oldest(); o != nil && o.until <= now; o = sub.pool.oldest() {
				s.withdraw(ln, sub, o)
			}
		}
	}
}

// Full are the subnets that have no address left for new clients.
func (s *Server) Full() []netip.Prefix {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []netip.Prefix
	for i := range s.DHCP {
		for _, sub := range s.links[s.DHCP[i].Link].subnets {
			if len(sub.Pools) > 0 && sub.pool.empty() {
				out = append(out, sub.Prefix)
			}
		}
	}
	return out
}

// Release ends the lease of an address, as an administrator wants it; false: nobody has one. done is as Store.Put's.
func (s *Server) Release(a netip.Addr, done func(error)) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	l, ok := s.Store.Get(a)
	if !ok || !l.Active(s.Store.Now()) {
		return false
	}
	sub, _ := s.subnetOf(a)
	s.free(sub, l, done)
	return true
}

// free gives an address back; its client may have it again.
func (s *Server) free(sub *subnet, l lease.Lease, done func(error)) {
	l.Expires, l.State = s.Store.Now(), lease.Freed
	a := l.Addr
	err := s.Store.Put(l, func(err error) {
		if s.Names != nil {
			s.Names.Gone(a)
		}
		if done != nil {
			done(err)
		}
	})
	if err != nil {
		s.Log.Warn("lease not ended", "address", a, "error", err)
		if done != nil {
			done(err)
		}
		return
	}
	if sub != nil && sub.pool.has(a) {
		sub.pool.ended.push(a)
	}
}

// bucket bounds a rate.
type bucket struct {
	tokens float64
	last   time.Time
}

// New clients that one link may bring: far above a site after a power cut, far below what would keep a small guest from
// serving those it knows.
const (
	newRate  = 5000 // a second
	newBurst = 10_000
)

func (b *bucket) take(now time.Time) bool {
	if b.last.IsZero() {
		b.tokens = newBurst
	} else {
		b.tokens = min(newBurst, b.tokens+now.Sub(b.last).Seconds()*newRate)
	}
	b.last = now
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}

// saying is when something was last said, and how often it was not since.
type saying struct {
	at    time.Time
	times int
}

// sayAgain is how often the same thing is said at most.
const sayAgain = time.Minute

// rarely logs a warning at most once a minute for each key, with how often it was meanwhile.
func (s *Server) rarely(key, what string, args ...any) {
	now := time.Now()
	last := s.said[key]
	if !last.at.IsZero() && now.Sub(last.at) < sayAgain {
		last.times++
		s.said[key] = last
		return
	}
	if len(s.said) >= maxOffers {
		clear(s.said)
	}
	s.said[key] = saying{at: now}
	if last.times > 0 {
		args = append(args, "times before", last.times)
	}
	s.Log.Warn(what, args...)
}
