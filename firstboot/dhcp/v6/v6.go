// Package v6 is a DHCPv6 server (RFC 8415) for the links the profile names: addresses from pools and for named hosts,
// prefixes for routers, stateless configuration, relay agents of the same link (RFC 6221) and of the subnets that the
// profile has behind them.
//
// A lease is the end of an address, 64 bits, that a client has in each of the link's prefixes, whatever these are. So a
// lease outlives a prefix: when another is delegated, clients have the same end in it once they ask, and the old
// addresses are taken back. No lifetime is longer than that of the prefix.
//
// A lease of a prefix likewise is a part of what is delegated here, whatever the guest itself is delegated. The way
// there is its router's, and is told to who routes: package downstream.
//
// Nothing is kept before a client requests it, so solicitations cost no memory; what is offered is found from who asks,
// and is the same when it is requested. A lease is on the disk before the reply leaves.
//
// What it deliberately does not do: temporary addresses, Reconfigure, authentication, excluding a prefix from what is
// delegated (RFC 6603), and keeping certain prefixes for routers behind relay agents.
package v6

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"

	"rempart/firstboot/dhcp/downstream"
	"rempart/firstboot/dhcp/lease"
	"rempart/firstboot/link/watch"
	"rempart/firstboot/onlink"
	"rempart/profiles"
)

// Names is told who has which address.
type Names interface {
	Bound(l lease.Lease, link string)
	Gone(a netip.Addr)
}

// Config is what a server works with.
type Config struct {
	DHCP6 []profiles.DHCP6
	Links []profiles.Link // of the guest
	Store *lease.Store
	Names Names
	// Lead is told where all delegated prefixes lead, whenever that changes; nil: nobody is.
	Lead func([]downstream.Way) error
	Log  *slog.Logger
}

// Server answers on all its links.
type Server struct {
	cfg   Config
	links map[string]*link
	// scopes are all that clients are given addresses of: the links, and the subnets behind relay agents on them.
	scopes []*link

	mu   sync.Mutex
	told map[netip.Addr][]netip.Addr   // by key of the lease: the addresses that names go with
	ways map[netip.Addr]downstream.Way // by key of the lease
	odd  map[netip.Addr]bool           // keys of leases of prefixes that are delegated otherwise now
	news chan struct{}                 // holds one while ways have changed that nobody was told of
	// clockSet is Store.ClockSet when names were last told.
	clockSet int
	tooMany  rate.Sometimes // ways

	first  sync.Once
	looked chan struct{} // closed when Look was called
}

// link is what the server knows of one link, or of a subnet behind relay agents.
type link struct {
	settings *profiles.DHCP6
	relayed  []*link // behind relay agents on the link
	// Of such a subnet: the link by which its agents send, the subnet, where they send from, and the router on the link
	// that leads there.
	behind *link
	subnet netip.Prefix
	from   []netip.Prefix
	way    netip.Addr

	net      uint64 // the upper half of the keys of its leases
	byDUID   map[string]*profiles.DHCP6Host
	byMAC    map[string]*profiles.DHCP6Host
	reserved map[netip.Addr]bool // ends of named hosts
	blocks   blocks              // what is delegated
	limit    *rate.Limiter
	full     rate.Sometimes

	mu        sync.Mutex
	now       watch.Link
	delegated []netip.Prefix // to the guest
	seen      time.Time
}

// Bounds of the work that clients can make.
const (
	// perSecond are the messages of a link that are read; what is above is dropped, clients repeat it. It is as many new
	// clients as a link of IPv4 may have, each of which sends two.
	perSecond  = 10_000
	burst      = 20_000
	complaints = time.Minute // between two lines of the log about a full pool
	maxMessage = 1500        // bytes; larger ones were fragmented, and no client sends such
	receive    = 256 << 10   // bytes that wait to be read
	portServer = 547         // RFC 8415, section 7.2
)

// servers is All_DHCP_Relay_Agents_and_Servers, RFC 8415 section 7.1.
var servers = net.ParseIP("ff02::1:2")

// New makes a server.
func New(cfg Config) *Server {
	s := &Server{cfg: cfg, links: map[string]*link{}, told: map[netip.Addr][]netip.Addr{},
		ways: map[netip.Addr]downstream.Way{}, odd: map[netip.Addr]bool{}, news: make(chan struct{}, 1),
		tooMany: rate.Sometimes{First: 1, Interval: complaints}, looked: make(chan struct{})}
	for i := range cfg.DHCP6 {
		d := &cfg.DHCP6[i]
		l := newLink(d, d.Link)
		s.links[d.Link] = l
		s.scopes = append(s.scopes, l)
		for _, r := range d.Relayed {
			sub := newLink(&profiles.DHCP6{Link: d.Link, DHCP6Scope: r.DHCP6Scope}, d.Link+" "+r.Prefix.String())
			sub.behind, sub.subnet, sub.from = l, r.Prefix, r.From
			if r.Delegate {
				sub.blocks = l.blocks
				sub.way = way(cfg.Links, d.Link, r.Prefix)
			}
			l.relayed = append(l.relayed, sub)
			s.scopes = append(s.scopes, sub)
		}
	}
	s.leadAll()
	return s
}

// newLink is what is to be known of a link or subnet; its leases go by the name.
func newLink(d *profiles.DHCP6, name string) *link {
	h := fnv.New64a()
	h.Write([]byte(name))
	l := &link{settings: d, net: h.Sum64(), byDUID: map[string]*profiles.DHCP6Host{},
		byMAC: map[string]*profiles.DHCP6Host{}, reserved: map[netip.Addr]bool{}, blocks: newBlocks(d),
		limit: rate.NewLimiter(perSecond, burst), full: rate.Sometimes{First: 1, Interval: complaints}}
	for j := range d.Hosts {
		h := &d.Hosts[j]
		if h.DUID != "" {
			l.byDUID[h.DUID] = h
		}
		if h.MAC != "" {
			l.byMAC[h.MAC] = h
		}
		l.reserved[h.Host] = h.Host.IsValid()
	}
	return l
}

// Links are the names of the links it serves.
func (s *Server) Links() (out []string) {
	for _, d := range s.cfg.DHCP6 {
		out = append(out, d.Link)
	}
	return out
}

// key is a lease's place in the store: the link, and the end of the address.
func (l *link) key(end netip.Addr) netip.Addr {
	b := end.As16()
	binary.BigEndian.PutUint64(b[:8], l.net)
	return netip.AddrFrom16(b)
}

// end is the end of an address.
func end(a netip.Addr) netip.Addr {
	b := a.As16()
	clear(b[:8])
	return netip.AddrFrom16(b)
}

// in is the address of an end in a prefix.
func in(p netip.Prefix, end netip.Addr) netip.Addr {
	b, e := p.Masked().Addr().As16(), end.As16()
	copy(b[8:], e[8:])
	return netip.AddrFrom16(b)
}

// Look takes over what the links are. Names go with the addresses that leases are in the prefixes there are.
func (s *Server) Look(v watch.View) {
	now := time.Now()
	for name, l := range s.links {
		l.mu.Lock()
		l.now, l.delegated, l.seen = v.Links[name], v.Delegated, now
		l.mu.Unlock()
	}
	s.nameAll()
	s.first.Do(func() { close(s.looked) })
}

// Looked is closed when the server knows what its links are and has told the names of all leases. Nobody is answered
// before: clients would be told that there are no addresses, and no name servers, where there are.
func (s *Server) Looked() <-chan struct{} { return s.looked }

// prefixes are the link's prefixes that hosts have addresses in, with what is left of their lifetimes, and what it is.
// A subnet behind relay agents has its own, for ever.
func (l *link) prefixes() ([]watch.Address, watch.Link) {
	if l.behind != nil {
		_, now := l.behind.prefixes()
		return []watch.Address{{Prefix: l.subnet, Valid: watch.Forever, Preferred: watch.Forever}}, now
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now.After(time.Since(l.seen))
	var out []watch.Address
	for _, a := range now.Addresses {
		if a.Prefix.Bits() == 64 {
			out = append(out, a)
		}
	}
	return out, now
}

// nameAll tells names of all leases anew.
func (s *Server) nameAll() {
	for _, l := range s.cfg.Store.All() {
		s.name(l)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for key := range s.told {
		if l, known := s.cfg.Store.Get(key); !known || !s.holds(l) {
			s.forget(key)
		}
	}
}

// holds tells whether a client has what a lease is of.
func (s *Server) holds(l lease.Lease) bool {
	return l.State == lease.Bound && l.Active(s.cfg.Store.Now())
}

// name tells the addresses of a lease, and takes back those it had before. What has become of it meanwhile counts: who
// changed it tells that, or has told it.
func (s *Server) name(of lease.Lease) {
	if of.Bits > 0 || !s.holds(of) {
		return
	}
	b := of.Addr.As16()
	number := binary.BigEndian.Uint64(b[:8])
	for _, l := range s.scopes {
		if l.net != number {
			continue
		}
		prefixes, _ := l.prefixes()
		s.mu.Lock()
		if now, known := s.cfg.Store.Get(of.Addr); !known || !s.holds(now) || now.Client != of.Client {
			s.mu.Unlock()
			return
		}
		before := s.told[of.Addr]
		var list []netip.Addr
		for _, p := range prefixes {
			if p.Preferred > 0 && len(list) < profiles.MaxAdvertPrefixes {
				one := of
				one.Addr = in(p.Prefix, end(of.Addr))
				list = append(list, one.Addr)
				s.cfg.Names.Bound(one, l.settings.Link)
			}
		}
		s.told[of.Addr] = list
		for _, a := range before {
			if !contains(list, a) {
				s.cfg.Names.Gone(a)
			}
		}
		s.mu.Unlock()
	}
}

func contains(list []netip.Addr, a netip.Addr) bool {
	for _, b := range list {
		if a == b {
			return true
		}
	}
	return false
}

// forget takes the names of a lease back; s.mu is held.
func (s *Server) forget(key netip.Addr) {
	for _, a := range s.told[key] {
		s.cfg.Names.Gone(a)
	}
	delete(s.told, key)
}

// Sweep takes back names of leases that have ended. It is to be called every now and then.
func (s *Server) Sweep() {
	s.mu.Lock()
	n := s.cfg.Store.ClockSet()
	again := n != s.clockSet
	s.clockSet = n
	s.mu.Unlock()
	if again {
		s.nameAll()
	}
	for _, l := range s.cfg.Store.Expired() {
		s.ended(l.Addr)
	}
}

// ended takes back what was told of a lease that has ended, unless it has been extended, or made another's, meanwhile:
// that may have been told already.
func (s *Server) ended(key netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l, known := s.cfg.Store.Get(key); known && s.holds(l) {
		return
	}
	s.forget(key)
	s.follow(key, nil)
	delete(s.odd, key)
}

// Serve answers on a link until ctx is done.
func (s *Server) Serve(ctx context.Context, on onlink.Link) error {
	l := s.links[on.Name]
	if l == nil {
		return fmt.Errorf("DHCPv6 on %s: not served", on.Name)
	}
	conn, err := listen(ctx, on)
	if err != nil {
		return fmt.Errorf("DHCPv6 on %s: %w", on.Name, err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	buf := make([]byte, maxMessage+1)
	for {
		n, from, err := conn.ReadFromUDPAddrPort(buf)
		switch {
		case ctx.Err() != nil || errors.Is(err, net.ErrClosed):
			return nil
		case err != nil:
			return fmt.Errorf("DHCPv6 on %s: receiving: %w", on.Name, err)
		case n > maxMessage || !l.limit.Allow():
			continue
		}
		if n > 0 && dhcpv6.MessageType(buf[0]) == dhcpv6.MessageTypeRelayForward {
			from = netip.AddrPortFrom(from.Addr(), portServer) // wherever it sends from (RFC 8415, section 7.2)
		}
		reply := func(b []byte) {
			if _, err := conn.WriteToUDPAddrPort(b, from); err != nil && ctx.Err() == nil {
				s.cfg.Log.Debug("a DHCPv6 reply was not sent", "link", on.Name, "to", from, "error", err)
			}
		}
		if err := s.message(l, on, from.Addr().WithZone(""), buf[:n], reply); err != nil {
			s.cfg.Log.Debug("ignored a DHCPv6 message", "link", on.Name, "from", from, "error", err)
		}
	}
}

// listen opens the server's port on one link alone.
func listen(ctx context.Context, on onlink.Link) (*net.UDPConn, error) {
	config := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var err error
		set := func(fd uintptr) {
			// To the link first: bound to all of them for a moment it would hear what is for others.
			err = errors.Join(unix.BindToDevice(int(fd), on.Name),
				unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1),
				unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, receive))
		}
		return errors.Join(raw.Control(set), err)
	}}
	conn, err := config.ListenPacket(ctx, "udp6", fmt.Sprintf("[::]:%d", portServer))
	if err != nil {
		return nil, err
	}
	err = ipv6.NewPacketConn(conn).JoinGroup(&net.Interface{Index: on.Index, Name: on.Name}, &net.UDPAddr{IP: servers})
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("joining the group of servers: %w", err)
	}
	return conn.(*net.UDPConn), nil
}

// sweepEvery is how often what has ended is taken back.
const sweepEvery = time.Second

// Run serves all links until ctx is done, as they and their prefixes come and go.
func (s *Server) Run(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	var all sync.WaitGroup
	defer all.Wait()
	defer stop()
	failed := make(chan error, 2)
	all.Go(func() { failed <- watch.Run(ctx, s.cfg.Log, s.Look) })
	all.Go(func() {
		select {
		case <-s.looked:
			failed <- onlink.Serve(ctx, s.Links(), s.cfg.Log, s.Serve)
		case <-ctx.Done():
		}
	})
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-failed:
			if err != nil || ctx.Err() != nil {
				return err
			}
			return errors.New("a part of the DHCPv6 server ended") // both run until ctx is done
		case <-s.news:
			s.tellWays()
		case <-tick.C:
			s.Sweep()
		}
	}
}
