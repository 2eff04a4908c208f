package v4

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"rempart/firstboot/dhcp/lease"
	"rempart/profiles"
)

// exchange is one message on its way to an answer.
type exchange struct {
	s       *Server
	link    *link
	packet  Packet
	m       *dhcpv4.DHCPv4
	client  client
	subnets []*subnet // that the client may be in, in order
	now     int64
	send    func(Reply)
}

// Handle answers a message: it calls send, at once or later from another goroutine, once or never.
func (s *Server) Handle(p Packet, send func(Reply)) {
	m := p.Message
	s.mu.Lock()
	defer s.mu.Unlock()
	ln := s.links[p.Link]
	nobody := len(m.ClientHWAddr) == 0 && len(m.Options[dhcpv4.OptionClientIdentifier.Code()]) == 0
	if ln == nil || m.OpCode != dhcpv4.OpcodeBootRequest || nobody {
		return
	}
	x := &exchange{s: s, link: ln, packet: p, m: m, now: s.Store.Now(), send: send}
	s.sweep(x.now)
	if x.subnets = x.place(); len(x.subnets) == 0 {
		return
	}
	if x.client = ln.clientOf(m); x.client.ignore || len(x.client.id) > lease.MaxClient {
		return
	}
	x.adopt()
	switch m.MessageType() {
	case dhcpv4.MessageTypeDiscover:
		x.discover()
	case dhcpv4.MessageTypeRequest:
		x.request()
	case dhcpv4.MessageTypeDecline:
		x.decline()
	case dhcpv4.MessageTypeRelease:
		x.release()
	case dhcpv4.MessageTypeInform:
		x.inform()
	}
}

// addr4 is an address of the fixed part or an option; invalid for none and for 0.0.0.0.
func addr4(b []byte) netip.Addr {
	if ip := net.IP(b).To4(); ip != nil && !ip.IsUnspecified() {
		return netip.AddrFrom4([4]byte(ip))
	}
	return netip.Addr{}
}

// Suboptions of option 82: the subnet the client is in where giaddr does not tell (RFC 3527), and the address the relay
// agent wants to be taken for the server (RFC 5107).
const (
	optionRelay       = 82
	suboptionLink     = 5
	suboptionServerID = 11
)

// suboption is one of option 82.
func suboption(m *dhcpv4.DHCPv4, code byte) []byte {
	for b := m.Options[optionRelay]; len(b) >= 2 && int(b[1]) <= len(b)-2; {
		end := 2 + int(b[1]) // as a byte it would wrap: the option is longer than 255 bytes when it comes in parts
		if b[0] == code {
			return b[2:end]
		}
		b = b[end:]
	}
	return nil
}

// place are the subnets that the sender may be in.
func (x *exchange) place() []*subnet {
	var out []*subnet
	if relay := addr4(x.m.GatewayIPAddr); relay.IsValid() {
		in := relay
		if b := suboption(x.m, suboptionLink); len(b) == 4 && addr4(b).IsValid() {
			in = addr4(b)
		}
		from := x.packet.From.Addr().Unmap()
		for _, sub := range x.link.subnets {
			if !sub.Server.IsValid() && sub.Prefix.Contains(in) && contains(sub.Relays, from) {
				out = append(out, sub)
			}
		}
		if len(out) == 0 {
			x.s.rarely("relay"+from.String(), "a relay agent asks for a subnet that the profile does not give it",
				"link", x.packet.Link, "from", from, "subnet of", in)
		}
		return out
	}
	// Who renews speaks to us itself, from behind the relay agent too.
	has := addr4(x.m.ClientIPAddr)
	for _, sub := range x.link.subnets {
		if sub.Server.IsValid() || has.IsValid() && sub.Prefix.Contains(has) && x.packet.From.Addr().Unmap() == has {
			out = append(out, sub)
		}
	}
	return out
}

func contains(list []netip.Prefix, a netip.Addr) bool {
	for _, p := range list {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// in is the subnet of the client's that an address is in.
func (x *exchange) in(a netip.Addr) *subnet {
	for _, sub := range x.subnets {
		if sub.Prefix.Contains(a) {
			return sub
		}
	}
	return nil
}

// mine tells whether the client may have an address by what the profile says now: its own, or one of the pool.
func (x *exchange) mine(sub *subnet, a netip.Addr) bool {
	return x.client.host != nil && x.client.host.Address == a || sub.pool.has(a)
}

// held is the lease the client has in a subnet, ended or not.
func (x *exchange) held(sub *subnet) (lease.Lease, bool) {
	for _, l := range x.s.Store.Of(x.client.id) {
		if l.State != lease.Declined && sub.Prefix.Contains(l.Addr) && x.mine(sub, l.Addr) {
			return l, true
		}
	}
	return lease.Lease{}, false
}

// choose finds an address for the client. sure is set when it is the client's already, so that nobody need be asked.
func (x *exchange) choose() (sub *subnet, a netip.Addr, sure bool) {
	if h := x.client.host; h != nil && h.Address.IsValid() {
		if sub := x.in(h.Address); sub != nil {
			l, known := x.s.Store.Get(h.Address)
			switch {
			case known && l.Active(x.now) && l.Client == x.client.id && l.State == lease.Bound:
				return sub, h.Address, true
			case !known || !l.Active(x.now):
				return sub, h.Address, false
			}
			x.s.rarely("taken"+h.Name, "the address of a host of the profile is in use by another client", "host", h.Name,
				"address", h.Address)
		}
	}
	for _, sub := range x.subnets {
		if o := sub.pool.byClient[x.client.id]; o != nil {
			return sub, o.addr, false
		}
	}
	for _, sub := range x.subnets {
		if l, ok := x.held(sub); ok {
			if l.Active(x.now) {
				return sub, l.Addr, true
			}
			if sub.pool.claim(x.s.Store, l.Addr, x.now) {
				return sub, l.Addr, false
			}
		}
	}
	if !x.link.rate.take(x.s.clock()) {
		x.s.rarely("rate"+x.packet.Link, "more new DHCP clients than a link may bring are not answered", "link",
			x.packet.Link)
		return nil, a, false
	}
	wish := addr4(x.m.Options[dhcpv4.OptionRequestedIPAddress.Code()])
	for _, sub := range x.subnets {
		if wish.IsValid() && sub.pool.claim(x.s.Store, wish, x.now) {
			return sub, wish, false
		}
	}
	for _, sub := range x.subnets {
		if a := sub.pool.take(x.s.Store); a.IsValid() {
			return sub, a, false
		}
		if o := sub.pool.oldest(); o != nil && o.until <= x.now+offerTime-youngOffer {
			x.s.withdraw(x.link, sub, o)
			if a := sub.pool.take(x.s.Store); a.IsValid() {
				return sub, a, false
			}
		}
	}
	x.s.rarely("full"+x.subnets[0].Prefix.String(), "the pool is full: new clients get no address, known ones keep theirs",
		"link", x.packet.Link, "subnet", x.subnets[0].Prefix)
	return nil, a, false
}

// withdraw takes an offer back.
func (s *Server) withdraw(ln *link, sub *subnet, o *offer) {
	sub.pool.drop(o)
	ln.offers--
	sub.pool.put(s.Store, o.addr, s.Store.Now())
}

func (x *exchange) discover() {
	sub, a, sure := x.choose()
	switch {
	case sub == nil:
	case sure:
		x.offer(sub, a)
	case sub.pool.byClient[x.client.id] != nil:
		o := sub.pool.byClient[x.client.id]
		if o.latest = x.m; !o.asking {
			x.offer(sub, a)
		}
	default:
		x.propose(sub, a, 1)
	}
}

// propose notes an offer, asks the network, and makes it.
func (x *exchange) propose(sub *subnet, a netip.Addr, tries int) {
	if x.link.offers >= maxOffers {
		if o := sub.pool.oldest(); o != nil {
			x.s.withdraw(x.link, sub, o)
		}
	}
	o := &offer{addr: a, client: x.client.id, until: x.now + offerTime, latest: x.m, tries: tries}
	sub.pool.add(o)
	x.link.offers++
	if x.s.Prober == nil || x.link.dhcp.NoProbe {
		x.offer(sub, a)
		return
	}
	o.asking = true
	x.s.Prober.Probe(x.packet.Link, a, sub.Server.IsValid(), func(by string) { x.asked(sub, o, by) })
}

func (x *exchange) hardware() string {
	return string(x.m.ClientHWAddr[:min(len(x.m.ClientHWAddr), lease.MaxHardware)])
}

func (x *exchange) offer(sub *subnet, a netip.Addr) {
	x.send(x.reply(dhcpv4.MessageTypeOffer, sub, a, x.term(sub)))
}

// request is section 4.3.2 of RFC 2131.
func (x *exchange) request() {
	server := addr4(x.m.Options[dhcpv4.OptionServerIdentifier.Code()])
	wish := addr4(x.m.Options[dhcpv4.OptionRequestedIPAddress.Code()])
	has := addr4(x.m.ClientIPAddr)
	if server.IsValid() {
		x.selecting(server, wish)
		return
	}
	a := wish // INIT-REBOOT
	if has.IsValid() {
		a = has // RENEWING or REBINDING
	}
	if !a.IsValid() {
		return
	}
	sub := x.in(a)
	if sub == nil {
		x.nak("the address is of another network") // whoever serves there, here it does not work
		return
	}
	l, known := x.s.Store.Get(a)
	switch {
	case x.link.dhcp.Quiet && !known:
		// Another server's client.
	case x.elsewhere(a):
		x.nak("the profile has another address for you")
	case known && l.Client == x.client.id && l.State != lease.Declined && x.mine(sub, a):
		x.grant(sub, a)
	case known && l.Active(x.now), !x.mine(sub, a), sub.pool.offers[a] != nil:
		x.nak("the address is not yours")
	default:
		// Free, and the client says it had it: we have forgotten, or it was long away.
		x.grant(sub, a)
	}
}

// selecting answers who takes an offer, ours or somebody else's.
func (x *exchange) selecting(server, a netip.Addr) {
	mine := false
	for _, sub := range x.subnets {
		mine = mine || server == x.serverID(sub)
	}
	if !mine {
		for _, sub := range x.subnets {
			if o := sub.pool.byClient[x.client.id]; o != nil {
				x.s.withdraw(x.link, sub, o)
			}
		}
		return
	}
	sub := x.in(a)
	if !a.IsValid() || sub == nil {
		x.nak("the address is of another network")
		return
	}
	if o := sub.pool.byClient[x.client.id]; o != nil && o.addr == a && !o.asking {
		x.grant(sub, a)
		return
	}
	if l, known := x.s.Store.Get(a); known && l.Client == x.client.id && l.Active(x.now) && l.State == lease.Bound &&
		x.mine(sub, a) {
		x.grant(sub, a)
		return
	}
	// The offer timed out, or was made before we were started anew.
	if sub.pool.claim(x.s.Store, a, x.now) {
		x.grant(sub, a)
		return
	}
	x.nak("the address is no longer free")
}

// grant leases an address, and acknowledges once that is on the disk.
func (x *exchange) grant(sub *subnet, a netip.Addr) {
	term := x.term(sub)
	l := lease.Lease{Addr: a, Client: x.client.id, Hardware: x.hardware(), Name: x.client.name, State: lease.Bound,
		Expires: x.now + int64(term)}
	if term == forever {
		l.Expires = lease.Forever
	}
	if x.client.host != nil {
		l.Name = x.client.host.Name
	}
	l.Since = x.now
	if before, known := x.s.Store.Get(a); known && before.Client == l.Client && before.Active(x.now) {
		l.Since = before.Since
	}
	ack := x.reply(dhcpv4.MessageTypeAck, sub, a, term)
	name, send, on := x.s.Names, x.send, x.packet.Link
	err := x.s.Store.Put(l, func(err error) {
		if err != nil {
			return // said by the store; the client asks again
		}
		if name != nil {
			name.Bound(l, on)
		}
		send(ack)
	})
	if o := sub.pool.offers[a]; o != nil && o.client == x.client.id {
		sub.pool.drop(o)
		x.link.offers--
	}
	switch {
	case errors.Is(err, lease.ErrTaken):
		x.nak("the address is not yours")
		return
	case err != nil:
		x.s.rarely("put", "a lease is not given", "error", err)
		return
	}
	sub.pool.ended.remove(a)
	delete(sub.pool.back, a)
	x.leave(sub, a)
}

// decline is what a client says that finds somebody else at the address.
func (x *exchange) decline() {
	a := addr4(x.m.Options[dhcpv4.OptionRequestedIPAddress.Code()])
	sub := x.in(a)
	if !a.IsValid() || sub == nil || !x.forUs() {
		return
	}
	l, known := x.s.Store.Get(a)
	if !known || l.Client != x.client.id || !l.Active(x.now) {
		return
	}
	x.s.rarely("decline"+a.String(), "a client found its address in use by somebody else: nobody gets it for a while",
		"link", x.packet.Link, "address", a, "client", x.m.ClientHWAddr)
	x.shun(a, func(error) { // after what was told of the lease, which may still wait for the disk
		if x.s.Names != nil {
			x.s.Names.Gone(a)
		}
	})
}

// forUs tells whether a message names this server, or none.
func (x *exchange) forUs() bool {
	server := addr4(x.m.Options[dhcpv4.OptionServerIdentifier.Code()])
	for _, sub := range x.subnets {
		if !server.IsValid() || server == x.serverID(sub) {
			return true
		}
	}
	return false
}

func (x *exchange) release() {
	a := addr4(x.m.ClientIPAddr)
	sub := x.in(a)
	if !a.IsValid() || sub == nil || !x.forUs() {
		return
	}
	if l, known := x.s.Store.Get(a); known && l.Client == x.client.id && l.State == lease.Bound && l.Active(x.now) {
		x.s.free(sub, l, nil)
	}
}

// inform tells who has its address from elsewhere what else there is to know.
func (x *exchange) inform() {
	has := addr4(x.m.ClientIPAddr)
	if !has.IsValid() {
		has = x.packet.From.Addr().Unmap()
	}
	if sub := x.in(has); sub != nil {
		x.send(x.reply(dhcpv4.MessageTypeAck, sub, netip.Addr{}, 0))
	}
}

// forever is the lease time that never ends (RFC 2131 section 3.3).
const forever = 1<<32 - 1

// term is for how long the client gets an address, in seconds.
func (x *exchange) term(sub *subnet) uint32 {
	n := sub.Lease
	if x.client.host != nil && x.client.host.Lease > 0 {
		n = x.client.host.Lease
	}
	if b := x.m.Options[dhcpv4.OptionIPAddressLeaseTime.Code()]; len(b) == 4 {
		n = min(n, max(binary.BigEndian.Uint32(b), leastLease))
	}
	return n
}

// scopes are where the client's options come from, the closest first.
func (x *exchange) scopes(sub *subnet) []*profiles.DHCPSettings {
	var out []*profiles.DHCPSettings
	if x.client.host != nil {
		out = append(out, &x.client.host.DHCPSettings)
	}
	for _, k := range x.client.classes {
		out = append(out, &k.DHCPSettings)
	}
	return append(out, &sub.DHCPSettings)
}
