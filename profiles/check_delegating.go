package profiles

import (
	"fmt"
	"net/netip"
	"slices"
)

// delegable is what routers may be delegated: global addresses (RFC 4291, section 2.4), and unique local ones (RFC
// 4193).
var delegable = []netip.Prefix{netip.MustParsePrefix("2000::/3"), netip.MustParsePrefix("fc00::/7")}

// delegates checks what routers on a link are delegated prefixes of. No other part of the profile may have anything to
// do with it: its addresses lead to these routers.
func (v *validator) delegates(d *DHCP6, bad func(field, hint, format string, args ...any)) {
	pool := d.Delegate
	if pool == nil {
		return
	}
	reject := func(hint, format string, args ...any) { bad("delegate", hint, format, args...) }
	p := pool.Prefix
	switch {
	case !p.IsValid() || !p.Addr().Is6() || p.Masked() != p || pool.Delegated && p.Bits() <= minDelegation:
		reject("for example from: 2001:db8:f::/56", "%s is no prefix to be delegated", pool.PrefixBlock)
		return
	case !pool.Delegated && !slices.ContainsFunc(delegable, func(o netip.Prefix) bool {
		return PrefixBlock{Prefix: o}.Contains(pool.PrefixBlock)
	}):
		reject("take one of yours, or one of fd00::/8", "%s: no network has such addresses", p)
		return
	case pool.Shortest < p.Bits() || pool.Longest < pool.Shortest || pool.Longest > subnetBits:
		reject("", "prefixes of %d to %d bits of %s, expected %d to %d", pool.Shortest, pool.Longest, pool.PrefixBlock,
			p.Bits(), subnetBits)
		return
	}
	for i := range v.p.DHCP6 {
		o := &v.p.DHCP6[i]
		if o == d {
			break
		}
		if o.Delegate != nil && o.Delegate.overlaps(pool.PrefixBlock) {
			reject("", "%s and %s of link %s overlap", pool.PrefixBlock, o.Delegate.PrefixBlock, clip(o.Link))
		}
	}
	if pool.Delegated {
		v.delegatesPart(d, reject)
	} else {
		v.delegatesOwn(d, reject)
	}
	v.delegatesInZone(d, reject)
	v.delegatesBesideHosts(d, reject)
}

// delegatesPart checks a pool in what the guest is delegated.
func (v *validator) delegatesPart(d *DHCP6, reject func(hint, format string, args ...any)) {
	from := v.p.DelegationLink()
	switch {
	case from == nil:
		reject("write delegation: any at the link that leads out", "no link asks for a prefix")
		return
	case from.Delegation.Length != 0:
		if _, ok := d.Delegate.In(netip.PrefixFrom(supposed.Addr(), from.Delegation.Length)); !ok {
			reject("", "%s is not in a prefix of %d bits", d.Delegate.PrefixBlock, from.Delegation.Length)
		}
	}
	if len(v.link(d.Link).Delegated) == 0 {
		reject("add an address such as delegated/0::1 to the link: it tells for how long the prefix is the guest's",
			"the link has no address in what is delegated")
	}
	for _, l := range v.p.Links {
		for _, own := range l.Delegated {
			if d.Delegate.overlaps(blockAt(own.Subnet, subnetBits)) {
				reject("choose another part", "%s has the subnet of %s of link %s", d.Delegate.PrefixBlock, own, clip(l.Name))
			}
		}
	}
}

// delegatesOwn checks a pool of the guest's own addresses.
func (v *validator) delegatesOwn(d *DHCP6, reject func(hint, format string, args ...any)) {
	pool := d.Delegate.Prefix
	for i := range v.p.Links {
		l := &v.p.Links[i]
		for _, own := range l.Addresses {
			if own.Masked().Overlaps(pool) {
				reject("choose another prefix", "%s overlaps with %s of link %s", pool, own.Masked(), clip(l.Name))
			}
		}
		for _, g := range l.Gateways {
			if pool.Contains(g.Addr) {
				reject("choose another prefix", "%s has the gateway %s of link %s", pool, g.Addr, clip(l.Name))
			}
		}
		for _, r := range l.Routes {
			if r.To.Bits() > 0 && r.To.Overlaps(pool) {
				reject("remove the route, or choose another prefix", "%s overlaps with the route to %s of link %s", pool, r.To,
					clip(l.Name))
			}
		}
	}
	for _, r := range v.p.Routes {
		if r.To.Bits() > 0 && r.To.Overlaps(pool) {
			reject("remove the route: what nobody was delegated is unreachable by itself", "%s overlaps with the route to %s",
				pool, r.To)
		}
	}
}

// delegatesInZone checks that the policy knows who is behind the routers: those in a zone of the link.
func (v *validator) delegatesInZone(d *DHCP6, reject func(hint, format string, args ...any)) {
	pool, in := d.Delegate, false
	for _, z := range v.p.Zones {
		for _, m := range z.Members {
			in = in || m.Link == d.Link && (len(m.Prefixes) == 0 || m.Rest)
			for _, p := range m.Prefixes {
				part := PrefixBlock{Prefix: p}
				in = in || m.Link == d.Link && part.Contains(pool.PrefixBlock)
				if m.Link != d.Link && part.overlaps(pool.PrefixBlock) {
					reject("choose another prefix", "%s overlaps with %s of zone %s", pool.PrefixBlock, p, clip(z.Name))
				}
			}
		}
	}
	if !in {
		reject("add the whole link to a zone, or what it delegates", "%s is in no zone, so nothing of it passes",
			pool.PrefixBlock)
	}
}

// delegatesBesideHosts refuses a pool on a link of which lines of the policy name hosts by the ends of their addresses
// alone: a host behind one of the routers may have the same end.
func (v *validator) delegatesBesideHosts(d *DHCP6, reject func(hint, format string, args ...any)) {
	for _, rule := range v.p.Policy {
		for _, m := range rule.Matches {
			for _, h := range slices.Concat(m.DelegatedSources, m.DelegatedDestinations) {
				if l := v.p.LinkOf(h); l != nil && l.Name == d.Link {
					reject("delegate on another link", "a line of the policy is about %s, which hosts behind routers of the same"+
						" link could pass for", h)
					return
				}
			}
		}
	}
}

// delegatedTo checks the prefix that is kept for a host.
func (v *validator) delegatedTo(d *DHCP6, h *DHCP6Host, bad func(hint, format string, args ...any)) {
	b := *h.Delegate
	switch {
	case d.Delegate == nil && v.behindAgents(h):
		return // that is said where its subnet is checked
	case d.Delegate == nil:
		bad(fmt.Sprintf("write dhcp6: {%s: {delegate: {from: PREFIX}}}", clip(d.Link)), "the link delegates nothing")
		return
	case !b.Prefix.IsValid() || b.Prefix.Masked() != b.Prefix || b.Prefix.Bits() > subnetBits ||
		!d.Delegate.Contains(b):
		bad("", "%s is not in %s, which the link delegates", b, d.Delegate.PrefixBlock)
		return
	}
	for i := range d.Hosts {
		o := &d.Hosts[i]
		if o.At == h.At {
			return
		}
		if o.Delegate != nil && o.Delegate.overlaps(b) {
			bad("", "%s and %s of %s overlap", b, *o.Delegate, clip(o.Name))
		}
	}
}

// delegated tells whether hosts behind routers on a link may have addresses of a prefix.
func (v *validator) delegated(l *Link, p netip.Prefix) bool {
	d := v.p.DHCP6Of(l.Name)
	return d != nil && d.Delegate != nil && d.Delegate.overlaps(PrefixBlock{Prefix: p})
}

// behindAgents tells whether a host is one of a subnet behind relay agents.
func (v *validator) behindAgents(h *DHCP6Host) bool {
	return slices.ContainsFunc(v.p.DHCP6, func(d DHCP6) bool {
		return slices.ContainsFunc(d.Relayed, func(s DHCP6Relayed) bool {
			return slices.ContainsFunc(s.Hosts, func(o DHCP6Host) bool { return o.At == h.At })
		})
	})
}
