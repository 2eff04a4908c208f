package v4

import (
	"container/list"
	"net/netip"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"rempart/firstboot/dhcp/lease"
	"rempart/profiles"
)

// subnet is one subnet and what of it is free.
type subnet struct {
	*profiles.DHCPSubnet
	pool *pool
}

func newLink(d *profiles.DHCP) *link {
	ln := &link{dhcp: d, byMAC: map[string]*host{}, byID: map[string]*host{}}
	reserved := map[netip.Addr]bool{}
	for i := range d.Hosts {
		ln.addHost(&d.Hosts[i])
		reserved[d.Hosts[i].Address] = true
	}
	for i := range d.Subnets {
		sub := &d.Subnets[i]
		ln.subnets = append(ln.subnets, &subnet{sub, newPool(sub.Pools, reserved)})
	}
	return ln
}

// pool is the addresses of a subnet that are for whoever comes. None of its operations goes through its addresses, but
// for the first walk along them.
type pool struct {
	ranges   profiles.Ranges
	reserved map[netip.Addr]bool // for hosts of the profile
	// next is the first address of ranges[at] that was not yet looked at: nobody had it, or it was asked for by name.
	at   int
	next netip.Addr
	// back are addresses that nobody ever had and that were offered in vain.
	back  map[netip.Addr]bool
	ended queue // those that somebody had, the one that has been free for longest first

	offers   map[netip.Addr]*offer
	byClient map[string]*offer
	byAge    *list.List
}

// offer is an address that a client may take.
type offer struct {
	addr    netip.Addr
	client  string
	until   int64
	element *list.Element
	// asking is set while the network is asked whether the address is in use; latest is then what will be answered.
	asking bool
	latest *dhcpv4.DHCPv4
	tries  int
}

func newPool(ranges profiles.Ranges, reserved map[netip.Addr]bool) *pool {
	p := &pool{ranges: ranges, reserved: reserved, back: map[netip.Addr]bool{}, ended: newQueue(),
		offers: map[netip.Addr]*offer{}, byClient: map[string]*offer{}, byAge: list.New()}
	if len(ranges) > 0 {
		p.next = ranges[0].First
	}
	return p
}

// has tells whether an address is in the pool, free or not.
func (p *pool) has(a netip.Addr) bool { return p.ranges.Contains(a) && !p.reserved[a] }

// take is a free address for a client nobody knows; invalid: there is none.
func (p *pool) take(s *lease.Store) netip.Addr {
	for a := range p.back {
		delete(p.back, a)
		return a
	}
	for p.at < len(p.ranges) {
		a := p.next
		if a == p.ranges[p.at].Last {
			if p.at++; p.at < len(p.ranges) {
				p.next = p.ranges[p.at].First
			}
		} else {
			p.next = a.Next()
		}
		if _, known := s.Get(a); !known && p.offers[a] == nil && !p.reserved[a] {
			return a
		}
	}
	return p.ended.pop()
}

// empty tells whether there is no free address, as far as was looked.
func (p *pool) empty() bool {
	return p.at == len(p.ranges) && len(p.back) == 0 && p.ended.order.Len() == 0 && len(p.offers) == 0
}

// claim takes a certain address for a client if it is free.
func (p *pool) claim(s *lease.Store, a netip.Addr, now int64) bool {
	if !p.has(a) || p.offers[a] != nil {
		return false
	}
	if l, known := s.Get(a); known && l.Active(now) {
		return false
	}
	p.ended.remove(a)
	delete(p.back, a)
	return true
}

// put gives an address back that was not leased: to the front, for it has been free for longest.
func (p *pool) put(s *lease.Store, a netip.Addr, now int64) {
	if !p.has(a) {
		return
	}
	l, known := s.Get(a)
	switch {
	case !known:
		p.back[a] = true
	case !l.Active(now):
		p.ended.pushFront(a)
	}
}

// oldest is the offer that was made first; nil: there is none.
func (p *pool) oldest() *offer {
	if e := p.byAge.Front(); e != nil {
		return e.Value.(*offer)
	}
	return nil
}

func (p *pool) add(o *offer) {
	o.element = p.byAge.PushBack(o)
	p.offers[o.addr], p.byClient[o.client] = o, o
}

func (p *pool) drop(o *offer) {
	p.byAge.Remove(o.element)
	delete(p.offers, o.addr)
	delete(p.byClient, o.client)
}

// queue is addresses in order, of which any can be removed.
type queue struct {
	order *list.List
	where map[netip.Addr]*list.Element
}

func newQueue() queue { return queue{list.New(), map[netip.Addr]*list.Element{}} }

func (q queue) push(a netip.Addr) {
	q.remove(a)
	q.where[a] = q.order.PushBack(a)
}

func (q queue) pushFront(a netip.Addr) {
	q.remove(a)
	q.where[a] = q.order.PushFront(a)
}

func (q queue) remove(a netip.Addr) {
	if e := q.where[a]; e != nil {
		q.order.Remove(e)
		delete(q.where, a)
	}
}

func (q queue) pop() netip.Addr {
	e := q.order.Front()
	if e == nil {
		return netip.Addr{}
	}
	a := q.order.Remove(e).(netip.Addr)
	delete(q.where, a)
	return a
}
