package v4

import (
	"net/netip"

	"rempart/firstboot/dhcp/lease"
)

// asked goes on when the network has been asked; by is who has the address, empty: nobody.
func (x *exchange) asked(sub *subnet, o *offer, by string) {
	x.s.mu.Lock()
	defer x.s.mu.Unlock()
	if sub.pool.offers[o.addr] != o {
		return // it was withdrawn
	}
	x.now = x.s.Store.Now()
	o.asking = false
	x.m, x.packet.Message = o.latest, o.latest
	before, known := x.s.Store.Get(o.addr)
	known = known && before.State != lease.Declined
	if by == "" || known && before.Client == x.client.id {
		x.offer(sub, o.addr) // who answers is the client itself, which goes on using what it had
		return
	}
	sub.pool.drop(o)
	x.link.offers--
	if known {
		x.s.rarely("kept"+o.addr.String(), "an address whose lease has ended is in use: it is kept for its client a while",
			"link", x.packet.Link, "address", o.addr, "answered by", by)
		x.stays(before)
	} else {
		x.s.rarely("used"+o.addr.String(), "an address that nobody was given is in use: it is left alone for a while",
			"link", x.packet.Link, "address", o.addr, "answered by", by)
		x.shun(o.addr, nil)
	}
	if o.tries >= maxTries {
		return // the client asks again
	}
	if sub, a, _ := x.choose(); sub != nil && sub.pool.byClient[x.client.id] == nil {
		x.propose(sub, a, o.tries+1)
	}
}

// stays keeps an address for the client whose lease has ended, or was given back in its name by another, and which uses
// it all the same: it may renew.
func (x *exchange) stays(l lease.Lease) {
	l.State, l.Expires = lease.Bound, x.now+declineTime
	if err := x.s.Store.Put(l, nil); err != nil {
		x.s.Log.Warn("address in use by its last client not noted", "address", l.Addr, "error", err)
	}
}

// shun keeps an address from everybody for a while; done is as Store.Put's.
func (x *exchange) shun(a netip.Addr, done func(error)) {
	err := x.s.Store.Put(lease.Lease{Addr: a, Client: x.client.id, Hardware: x.hardware(), State: lease.Declined,
		Expires: x.now + declineTime}, done)
	if err != nil {
		x.s.Log.Warn("address in use by somebody else not noted", "address", a, "error", err)
	}
}
