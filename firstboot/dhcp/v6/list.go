package v6

import (
	"net/netip"

	"rempart/firstboot/dhcp/lease"
)

// Leases are all leases, ended ones too, in no order, as people know them: by the addresses that each is in the
// prefixes there are now, and what is delegated by its prefix. One that is in none now is left out.
func (s *Server) Leases() (out []lease.Lease) {
	for _, l := range s.cfg.Store.All() {
		for _, on := range s.scopes {
			if block, ok := on.blocks.of(l); ok && on.behind == nil { // those have of the link's
				for _, source := range on.sources() {
					if p, ok := on.blocks.in(block, source.Prefix); ok {
						l.Addr = p.Addr()
						out = append(out, l)
					}
				}
			}
			if l.Bits > 0 || on.key(end(l.Addr)) != l.Addr {
				continue
			}
			e := end(l.Addr)
			prefixes, _ := on.prefixes()
			for _, p := range prefixes {
				l.Addr = in(p.Prefix, e)
				out = append(out, l)
			}
			break
		}
	}
	return out
}

// Release ends the lease of an address, or of the delegated prefix that it is in, or of a delegated prefix, as an
// administrator wants it; false: nobody has one. done is as Store.Put's.
func (s *Server) Release(p netip.Prefix, done func(error)) bool {
	now := s.cfg.Store.Now()
	for _, l := range s.cfg.Store.All() {
		if l.Active(now) && s.has(l, p) {
			l.State, l.Expires = lease.Freed, now
			if err := s.cfg.Store.Put(l, func(err error) { s.settle(l); done(err) }); err != nil {
				done(err)
			}
			return true
		}
	}
	return false
}

// has tells whether a lease is of an address, of a prefix with it, or of a prefix.
func (s *Server) has(l lease.Lease, wanted netip.Prefix) bool {
	a, one := wanted.Addr(), wanted.IsSingleIP()
	for _, on := range s.scopes {
		if block, ok := on.blocks.of(l); ok && on.behind == nil { // those have of the link's
			for _, source := range on.sources() {
				if p, ok := on.blocks.in(block, source.Prefix); ok && (p == wanted || one && p.Contains(a)) {
					return true
				}
			}
		}
		if l.Bits == 0 && one && on.holds(a) && on.key(end(a)) == l.Addr {
			return true
		}
	}
	return false
}
