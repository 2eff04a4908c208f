package v6

import (
	"cmp"
	"encoding/binary"
	"hash/fnv"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"

	"rempart/firstboot/boottime"
	"rempart/firstboot/dhcp/downstream"
	"rempart/firstboot/dhcp/lease"
	"rempart/firstboot/link/watch"
	"rempart/profiles"
)

// blocks is what a link delegates. A lease is of a block: in the upper 64 bits of its place in the pool, which every
// router has a slot of for itself, as large as the largest block there is.
type blocks struct {
	pool     *profiles.PrefixPool // nil: none
	net      uint64               // the upper half of the keys of its leases
	reserved []netip.Prefix       // for named hosts, in order; they do not overlap
	hosts    map[netip.Prefix]bool
}

func newBlocks(d *profiles.DHCP6) blocks {
	h := fnv.New64a()
	h.Write([]byte(d.Link + "/")) // neither a link nor a subnet behind it is called so
	b := blocks{pool: d.Delegate, net: h.Sum64(), hosts: map[netip.Prefix]bool{}}
	for _, host := range d.Hosts {
		if host.Delegate != nil {
			b.reserved = append(b.reserved, host.Delegate.Prefix)
			b.hosts[host.Delegate.Prefix] = true
		}
	}
	slices.SortFunc(b.reserved, func(a, o netip.Prefix) int { return a.Addr().Compare(o.Addr()) })
	return b
}

// key is the place of a block's lease in the store.
func (b *blocks) key(block netip.Prefix) netip.Addr {
	from, to := block.Addr().As16(), [16]byte{}
	binary.BigEndian.PutUint64(to[:8], b.net)
	copy(to[8:], from[:8])
	return netip.AddrFrom16(to)
}

// place is the block of a lease; false: it is none of this link.
func (b *blocks) place(l lease.Lease) (netip.Prefix, bool) {
	from, to := l.Addr.As16(), [16]byte{}
	if b.pool == nil || l.Bits == 0 || l.Bits > subnetBits || binary.BigEndian.Uint64(from[:8]) != b.net {
		return netip.Prefix{}, false
	}
	copy(to[:8], from[8:])
	return netip.PrefixFrom(netip.AddrFrom16(to), l.Bits), true
}

// of is the block of a lease; false: it is none of what the link delegates now, or of other lengths.
func (b *blocks) of(l lease.Lease) (netip.Prefix, bool) {
	block, ok := b.place(l)
	if !ok || b.hosts[block] {
		return block, ok
	}
	return block, block == block.Masked() && l.Bits >= b.pool.Shortest && l.Bits <= b.pool.Longest &&
		b.slot(block).Addr() == block.Addr() && b.open(block)
}

// subnetBits is the length of the smallest prefix that is delegated.
const subnetBits = 64

// slot is the slot that a block is in.
func (b *blocks) slot(block netip.Prefix) netip.Prefix {
	p, _ := block.Addr().Prefix(b.pool.Shortest) // an IPv6 address has as many bits
	return p
}

// open tells whether whoever asks may have the slot of a block.
func (b *blocks) open(block netip.Prefix) bool {
	slot := b.slot(block)
	if !b.pool.Contains(profiles.PrefixBlock{Prefix: slot, Delegated: b.pool.Delegated}) {
		return false
	}
	i, _ := slices.BinarySearchFunc(b.reserved, slot, func(r, s netip.Prefix) int { return r.Addr().Compare(s.Addr()) })
	return (i == len(b.reserved) || !b.reserved[i].Overlaps(slot)) && (i == 0 || !b.reserved[i-1].Overlaps(slot))
}

// sized is a block of the length that is wanted, as far as it may be, at the beginning of a slot. 0: any.
func (b *blocks) sized(slot netip.Prefix, bits int) netip.Prefix {
	return netip.PrefixFrom(slot.Addr(), max(min(bits, b.pool.Longest), b.pool.Shortest))
}

// nth is a slot of the pool.
func (b *blocks) nth(n uint64) netip.Prefix {
	a := b.pool.Prefix.Addr().As16()
	binary.BigEndian.PutUint64(a[:8], binary.BigEndian.Uint64(a[:8])|n<<(subnetBits-b.pool.Shortest))
	return netip.PrefixFrom(netip.AddrFrom16(a), b.pool.Shortest)
}

// in is a block as it is within what the guest is delegated, where it is of that.
func (b *blocks) in(block, delegated netip.Prefix) (netip.Prefix, bool) {
	return profiles.PrefixBlock{Prefix: block, Delegated: b.pool.Delegated}.In(delegated)
}

// sources are the prefixes that the guest is delegated, for as long as it is, and that the link delegates of; one
// without an address when it delegates of the guest's own.
func (l *link) sources() (out []watch.Address) {
	if l.blocks.pool == nil {
		return nil
	}
	if !l.blocks.pool.Delegated {
		return []watch.Address{{Valid: watch.Forever, Preferred: watch.Forever}}
	}
	at := l
	if l.behind != nil {
		at = l.behind
	}
	addresses, _ := at.prefixes()
	at.mu.Lock()
	defer at.mu.Unlock()
	for _, p := range at.delegated {
		// The guest has an address of the link in it for just as long.
		i := slices.IndexFunc(addresses, func(a watch.Address) bool { return p.Contains(a.Prefix.Addr()) })
		if _, ok := l.blocks.pool.In(p); ok && i >= 0 {
			out = append(out, watch.Address{Prefix: p, Valid: addresses[i].Valid, Preferred: addresses[i].Preferred})
		}
	}
	return out
}

// delegation is RFC 8415, sections 18.3.2, 18.3.4 and 18.3.5 for prefixes; see association.
func (w *work) delegation(ia *dhcpv6.OptIAPD, keep bool) *dhcpv6.OptIAPD {
	out := &dhcpv6.OptIAPD{IaId: ia.IaId}
	b := &w.l.blocks
	sources := w.l.sources()
	client := string(w.req.client) + string(ia.IaId[:])
	block, ok := netip.Prefix{}, false
	if len(sources) > 0 && w.router() {
		block, ok = w.chooseBlock(client, ia, sources)
	}
	if !ok {
		out.Options.Add(w.none(statusNoPrefix, "no prefixes are left, or none are delegated here"))
		return out
	}
	w.taken[b.key(block)] = client
	given, shortest := map[netip.Prefix]bool{}, time.Duration(0)
	for _, s := range sources {
		valid, preferred := w.lifetimes(s)
		p, _ := b.in(block, s.Prefix)
		if preferred == 0 && !slices.Contains(asked(ia), p) {
			continue // deprecated: nobody new is given of it
		}
		given[p] = true
		out.Options.Add(&dhcpv6.OptIAPrefix{Prefix: ipNet(p), PreferredLifetime: preferred, ValidLifetime: valid})
		shortest = sooner(shortest, preferred)
	}
	if len(given) == 0 {
		out.Options.Add(&dhcpv6.OptStatusCode{StatusCode: statusNoPrefix, StatusMessage: "there is no prefix now"})
		return out
	}
	out.T1, out.T2 = again(shortest)
	if w.req.MessageType != dhcpv6.MessageTypeSolicit {
		for _, old := range asked(ia) { // what it has and must leave
			if !old.Addr().IsUnspecified() && !given[old] && len(given) < 2*maxAssociations {
				given[old] = true
				out.Options.Add(&dhcpv6.OptIAPrefix{Prefix: ipNet(old)})
			}
		}
	}
	if keep {
		w.remember(lease.Lease{Addr: b.key(block), Bits: block.Bits(), Via: w.via(), Client: client})
		w.leave(client, b.key(block), func(l lease.Lease) bool { _, ours := b.place(l); return ours })
	}
	return out
}

// via is the router on the link by which what is delegated is reached: who asks, or the one before the subnet it is in.
// That one's agents have a route to what they see delegated (RFC 8987, section 4).
func (w *work) via() netip.Addr {
	if w.l.behind != nil {
		return w.l.way
	}
	return w.from
}

// way is the router on a link by which the profile leads to a subnet.
func way(links []profiles.Link, name string, subnet netip.Prefix) (via netip.Addr) {
	for i := range links {
		if links[i].Name == name {
			via = links[i].Way(subnet)
		}
	}
	return via
}

// router tells whether what is delegated can be led to who asks.
func (w *work) router() bool {
	via := w.via()
	own := func(a watch.Address) bool { return a.Prefix.Addr() == via }
	return downstream.Router(w.cfg.Links, w.l.settings.Link, via) && via != w.self.LinkLocal &&
		!slices.ContainsFunc(w.self.Addresses, own)
}

// asked are the prefixes that a client says it has or wants; those of an unspecified address say just a length.
func asked(ia *dhcpv6.OptIAPD) (out []netip.Prefix) {
	for _, o := range ia.Options.Prefixes() {
		if o.Prefix == nil {
			continue
		}
		a, ok := netip.AddrFromSlice(o.Prefix.IP.To16())
		if bits, _ := o.Prefix.Mask.Size(); ok && a.Is6() {
			out = append(out, netip.PrefixFrom(a, bits).Masked())
		}
	}
	return out
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// chooseBlock finds the block of a router as choose does the end of an address: its own by the profile, the one it has
// or had, the one it wants, or one that nobody has.
func (w *work) chooseBlock(client string, ia *dhcpv6.OptIAPD, sources []watch.Address) (netip.Prefix, bool) {
	b := &w.l.blocks
	if h := w.req.host; h != nil && h.Delegate != nil && w.free(b.key(h.Delegate.Prefix), client) {
		return h.Delegate.Prefix, true
	}
	wanted := asked(ia)
	length := 0
	for _, p := range wanted {
		length = cmp.Or(length, p.Bits())
	}
	others := w.others(client)
	alone := func(slot netip.Prefix) bool { return !slices.ContainsFunc(others, slot.Overlaps) }
	for _, have := range w.cfg.Store.Of(client) {
		if block, ok := b.of(have); ok && !b.hosts[block] && w.free(have.Addr, client) {
			if more := b.sized(block, cmp.Or(length, block.Bits())); alone(more) {
				return more, true
			}
			return block, true
		}
	}
	for _, p := range wanted {
		for _, s := range sources {
			block, ok := within(p, s.Prefix)
			if !ok || p.Addr().IsUnspecified() {
				continue
			}
			if slot := b.slot(block); b.open(slot) && w.free(b.key(slot), client) && alone(slot) {
				return b.sized(slot, length), true
			}
		}
	}
	w.mu.Lock()
	full := len(w.ways) >= downstream.Most
	w.mu.Unlock()
	n, ok := uint64(0), false
	if !full {
		all := []span{{0, 1 << (b.pool.Shortest - b.pool.Prefix.Bits())}}
		n, ok = w.unused(client, all, func(n uint64) (netip.Addr, bool) {
			slot := b.nth(n)
			return b.key(slot), b.open(slot) && alone(slot)
		})
	}
	if !ok {
		w.l.full.Do(func() {
			w.cfg.Log.Warn("no prefix is left: only routers that have one are served", "link", w.l.settings.Link)
		})
		return netip.Prefix{}, false
	}
	return b.sized(b.nth(n), length), true
}

// within is the place of a prefix in what the guest is delegated; that is invalid: the prefix is one of its own.
func within(p, delegated netip.Prefix) (netip.Prefix, bool) {
	if !delegated.IsValid() {
		return p, true
	}
	if !delegated.Contains(p.Addr()) || p.Bits() < delegated.Bits() {
		return netip.Prefix{}, false
	}
	a, d := p.Addr().As16(), delegated.Addr().As16()
	for i := range a {
		a[i] ^= d[i]
	}
	return netip.PrefixFrom(netip.AddrFrom16(a), p.Bits()), true
}

// others are the blocks that others have by leases of another profile: of other lengths, so that one may have a part of
// a slot, or one that the slot is a part of.
func (w *work) others(client string) (out []netip.Prefix) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := w.cfg.Store.Now()
	for key := range w.odd {
		l, known := w.cfg.Store.Get(key)
		if block, ok := w.l.blocks.place(l); known && ok && l.Client != client && l.Active(now) {
			out = append(out, block)
		}
	}
	return out
}

// giveBackPrefixes is for prefixes that routers release.
func (w *work) giveBackPrefixes(now int64) {
	b := &w.l.blocks
	for _, ia := range w.req.Options.IAPD() {
		client := string(w.req.client) + string(ia.IaId[:])
		known := false
		for _, have := range w.cfg.Store.Of(client) {
			block, ok := b.of(have)
			if !ok || !have.Active(now) {
				continue
			}
			for _, s := range w.l.sources() {
				if p, ok := b.in(block, s.Prefix); ok && slices.Contains(asked(ia), p) {
					known = true
					w.end(have, lease.Freed, now)
				}
			}
		}
		if !known {
			none := &dhcpv6.OptIAPD{IaId: ia.IaId}
			none.Options.Add(&dhcpv6.OptStatusCode{StatusCode: statusNoBinding})
			w.out.AddOption(none)
		}
	}
}

// lead notes where what is delegated by a lease leads now.
func (s *Server) lead(l lease.Lease) {
	now := s.cfg.Store.Now()
	for name, on := range s.links {
		block, ok := on.blocks.of(l)
		if !ok {
			continue
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if l.State != lease.Bound || !l.Active(now) || !l.Via.IsValid() {
			s.follow(l.Addr, nil)
			return
		}
		s.follow(l.Addr, &downstream.Way{Link: name, Via: l.Via, Until: boottime.Now() + seconds(l.Expires-now),
			Block: profiles.PrefixBlock{Prefix: block, Delegated: on.blocks.pool.Delegated}})
		return
	}
}

// follow notes a way, or that there is none any more; s.mu is held.
func (s *Server) follow(key netip.Addr, way *downstream.Way) {
	if way != nil {
		s.ways[key] = *way
	} else if _, known := s.ways[key]; known {
		delete(s.ways, key)
	} else {
		return
	}
	s.stir()
}

// stir has ways told.
func (s *Server) stir() {
	select {
	case s.news <- struct{}{}:
	default:
	}
}

// leadAll notes where all that is delegated leads, as the leases say that there are.
func (s *Server) leadAll() {
	for _, l := range s.cfg.Store.All() {
		if l.Bits == 0 {
			continue
		}
		s.lead(l)
		for _, on := range s.links {
			_, known := on.blocks.of(l)
			if _, ours := on.blocks.place(l); ours && !known {
				s.odd[l.Addr] = true
			}
		}
	}
	s.stir() // what a predecessor told may be of other leases
}

// tellWays says where everything leads.
func (s *Server) tellWays() {
	if s.cfg.Lead == nil {
		return
	}
	if err := s.cfg.Lead(s.allWays()); err != nil {
		s.cfg.Log.Error("delegated prefixes lead nowhere new", "error", err)
	}
}

// allWays are the ways there are, in order, downstream.Most at most. Requests that came while others waited for the
// disk, and named routers, may make them more: then those are left out whose routers have theirs for the shortest time.
func (s *Server) allWays() []downstream.Way {
	type known struct {
		downstream.Way
		since int64
	}
	s.mu.Lock()
	ways := make([]known, 0, len(s.ways))
	for key, w := range s.ways {
		l, _ := s.cfg.Store.Get(key)
		ways = append(ways, known{w, l.Since})
	}
	s.mu.Unlock()
	if over := len(ways) - downstream.Most; over > 0 {
		slices.SortFunc(ways, func(a, b known) int {
			return cmp.Or(cmp.Compare(a.since, b.since), a.Block.Prefix.Compare(b.Block.Prefix))
		})
		ways = ways[:downstream.Most]
		s.tooMany.Do(func() {
			s.cfg.Log.Warn("more prefixes are delegated than ways are kept: the latest lead nowhere", "left out", over)
		})
	}
	all := make([]downstream.Way, len(ways))
	for i, w := range ways {
		all[i] = w.Way
	}
	slices.SortFunc(all, func(a, b downstream.Way) int {
		return cmp.Or(cmp.Compare(a.Link, b.Link), a.Block.Prefix.Compare(b.Block.Prefix))
	})
	return all
}
