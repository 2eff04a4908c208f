package profiles

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
)

// Bounds of a DHCPv6 server.
const (
	maxPools6 = 16
	minLease6 = 120 // seconds: clients come back at three eighths of it
	maxLease6 = 365 * 24 * 60 * 60
	// A DUID has a type of 2 bytes and 1 to 128 more (RFC 8415, section 11.1).
	minDUID = 3
	maxDUID = 130
)

// dhcp6 checks the DHCPv6 server of each link.
func (v *validator) dhcp6() {
	if len(v.p.DHCP6) > maxLinks {
		v.reject(v.p.DHCP6[maxLinks].At, "", "dhcp6: more than %d links", maxLinks)
		return
	}
	seen := map[string]bool{}
	var relayed []netip.Prefix // behind relay agents, on any link
	for i := range v.p.DHCP6 {
		d := &v.p.DHCP6[i]
		if !v.insideLink("dhcp6", d.Link, d.At, seen) {
			continue
		}
		bad := v.fieldOf("dhcp6", d.Link, d.At)
		if d.Lease < minLease6 || d.Lease > maxLease6 {
			bad("lease", "", "%d s, expected %d to %d", d.Lease, minLease6, maxLease6)
		}
		if v.nameService(d.DNS, d.Search, bad); d.Rapid && !d.Gives() {
			bad("rapid", "add a pool, or remove it", "no addresses are given")
		}
		v.pools6(&d.DHCP6Scope, v.ownSuffixes(d.Link), bad)
		v.delegates(d, bad)
		v.hosts6("dhcp6."+clip(d.Link), d, v.ownSuffixes(d.Link))
		for k := range d.Relayed {
			v.relayed6(d, &d.Relayed[k], relayed)
			relayed = append(relayed, d.Relayed[k].Prefix)
		}
	}
}

// relayed6 checks a subnet behind relay agents; others are those before it, of all links.
func (v *validator) relayed6(d *DHCP6, s *DHCP6Relayed, others []netip.Prefix) {
	name := fmt.Sprintf("dhcp6.%s.relayed.%s", clip(d.Link), s.Prefix)
	reject := func(hint, format string, args ...any) {
		v.reject(s.At, hint, "%s: %s", name, fmt.Sprintf(format, args...))
	}
	l, p := v.link(d.Link), s.Prefix
	switch {
	case !p.IsValid() || p.Masked() != p || p.Bits() != subnetBits || !p.Addr().IsGlobalUnicast():
		reject("for example 2001:db8:20::/64", "it is no IPv6 subnet of 64 bits that hosts are in")
		return
	case slices.Contains(others, p):
		reject("remove one", "the subnet comes twice")
	case slices.ContainsFunc(l.Addresses, func(own netip.Prefix) bool { return own.Masked().Overlaps(p) }):
		reject("", "it is a subnet of the link, not one behind relay agents")
	case v.onAnother(d.Link, p) != "":
		reject("", "it is not behind relay agents: link %s has an address in it", clip(v.onAnother(d.Link, p)))
	case !l.reaches(p):
		reject("add routes: {to: "+p.String()+", via: ADDRESS of the relay agent} to the link",
			"no route of the link leads there, so answers cannot")
	}
	if len(s.From) == 0 {
		reject("add from: ADDRESS", "it has no relay agent")
	}
	for _, from := range s.From {
		if !from.IsValid() || !from.Addr().Is6() || !linkLocal(from) && !l.reaches(from) {
			reject("", "a relay agent at %s cannot send by this link", from)
		}
	}
	bad := func(field, hint, format string, args ...any) {
		reject(hint, "%s: %s", field, fmt.Sprintf(format, args...))
	}
	if s.Lease < minLease6 || s.Lease > maxLease6 {
		bad("lease", "", "%d s, expected %d to %d", s.Lease, minLease6, maxLease6)
	}
	v.nameService(s.DNS, s.Search, bad)
	switch via := l.Way(p); {
	case s.Delegate && d.Delegate == nil:
		bad("delegate", fmt.Sprintf("write dhcp6: {%s: {delegate: {from: PREFIX}}}", clip(d.Link)),
			"the link delegates nothing, of which routers there could have some")
	case s.Delegate && (!via.Is6() || !linkLocal(netip.PrefixFrom(via, 128)) && !l.onLink(via)):
		bad("delegate", "add routes: {to: "+p.String()+", via: ADDRESS of the relay agent} to the link",
			"no route of the link says by which router on it the subnet is reached")
	case s.Delegate:
		// What is behind a router is to be as trusted as the router.
		here, there := v.zoneAt(l.Name, PrefixBlock{Prefix: p}), v.zoneAt(l.Name, d.Delegate.PrefixBlock)
		if here != there || here == severalZones {
			bad("delegate", "have both in one zone, or remove it", "the subnet is in %s, and what its routers would be"+
				" delegated of %s in %s", here, d.Delegate.PrefixBlock, there)
		}
	}
	for _, h := range s.Hosts {
		if h.Delegate != nil {
			v.reject(h.At, "remove it", "%s.hosts.%s: prefixes are kept for routers on the link alone", name, clip(h.Name))
		}
	}
	v.pools6(&s.DHCP6Scope, nil, bad)
	v.hosts6(name, &DHCP6{Link: d.Link, DHCP6Scope: s.DHCP6Scope}, nil)
}

// severalZones is where parts of a block are in different zones, or in none.
const severalZones = "several zones"

// zoneAt is the zone of what has addresses of a block on a link, in words.
func (v *validator) zoneAt(link string, b PrefixBlock) string {
	rest := "no zone"
	var parts []string
	for _, z := range v.p.Zones {
		for _, m := range z.Members {
			if m.Link != link {
				continue
			}
			if len(m.Prefixes) == 0 || m.Rest {
				rest = "zone " + clip(z.Name)
			}
			for _, p := range m.Prefixes {
				if (PrefixBlock{Prefix: p}).Contains(b) {
					return "zone " + clip(z.Name)
				}
				if b.Contains(PrefixBlock{Prefix: p}) {
					parts = append(parts, "zone "+clip(z.Name))
				}
			}
		}
	}
	if slices.ContainsFunc(parts, func(zone string) bool { return zone != rest }) {
		return severalZones
	}
	return rest
}

// onLink tells whether an address is in a subnet that the profile gives the link.
func (l *Link) onLink(a netip.Addr) bool {
	return slices.ContainsFunc(l.Addresses, func(own netip.Prefix) bool { return own.Contains(a) })
}

func (v *validator) pools6(d *DHCP6Scope, mine []netip.Addr, bad func(field, hint, format string, args ...any)) {
	if len(d.Pools) > maxPools6 {
		bad("pool", "", "more than %d of them", maxPools6)
		return
	}
	for i, r := range d.Pools {
		problem := checkSuffix(r.First)
		if problem == "" {
			problem = checkSuffix(r.Last)
		}
		switch {
		case problem != "":
			bad("pool", "for example ::1000-::1fff", "%s", problem)
			continue
		case r.Last.Less(r.First):
			bad("pool", "", "%s-%s is upside down", r.First, r.Last)
			continue
		}
		for _, o := range d.Pools[:i] {
			if !r.Last.Less(o.First) && !o.Last.Less(r.First) {
				bad("pool", "", "%s-%s and %s-%s overlap", r.First, r.Last, o.First, o.Last)
			}
		}
		for _, own := range mine {
			if !own.Less(r.First) && !r.Last.Less(own) {
				bad("pool", "", "the guest's own %s is in %s-%s", own, r.First, r.Last)
			}
		}
	}
}

// ownSuffixes are the ends of the guest's own addresses on a link.
func (v *validator) ownSuffixes(link string) (out []netip.Addr) {
	l := v.link(link)
	for _, p := range l.Addresses {
		if p.Addr().Is6() {
			b := p.Addr().As16()
			clear(b[:8])
			out = append(out, netip.AddrFrom16(b))
		}
	}
	for _, d := range l.Delegated {
		out = append(out, d.Host)
	}
	return out
}

// hosts6 checks the clients that a server names; own are the ends of addresses that the guest has itself.
func (v *validator) hosts6(name string, d *DHCP6, own []netip.Addr) {
	if len(d.Hosts) > maxHosts {
		v.reject(d.Hosts[maxHosts].At, "", "%s.hosts: more than %d", name, maxHosts)
		return
	}
	macs, duids, ends := map[string]Pos{}, map[string]Pos{}, map[netip.Addr]Pos{}
	for _, h := range d.Hosts {
		bad := func(hint, format string, args ...any) {
			v.reject(h.At, hint, "%s.hosts.%s: %s", name, clip(h.Name), fmt.Sprintf(format, args...))
		}
		if problem, hint := checkHostName(h.Name); problem != "" {
			bad(hint, "%s", problem)
		}
		if h.Delegate != nil {
			v.delegatedTo(d, &h, bad)
		}
		if !h.Host.IsValid() && h.Delegate == nil {
			bad("write host: ::10, for example", "nothing is kept for it")
		} else if problem := checkSuffix(h.Host); h.Host.IsValid() && problem != "" {
			bad("for example ::10", "%s", problem)
		} else if slices.Contains(own, h.Host) {
			bad("choose another", "%s is the guest's own", h.Host)
		}
		if h.MAC == "" && h.DUID == "" {
			bad("write mac: ADDRESS, or duid: HEX", "nothing it is known by")
		}
		if h.MAC != "" {
			if problem := checkMAC(h.MAC); problem != "" {
				bad("", "%s", problem)
			}
		}
		if b, err := hex.DecodeString(h.DUID); h.DUID != "" && (err != nil || hex.EncodeToString(b) != h.DUID ||
			len(b) < minDUID || len(b) > maxDUID) {
			bad("", "%s is no DUID", quote(h.DUID))
		}
		twice := func(first Pos, known bool, what string) {
			if known {
				bad("remove one", "%s is that of another at %s already", what, first)
			}
		}
		first, known := macs[h.MAC]
		twice(first, known && h.MAC != "", h.MAC)
		first, known = duids[h.DUID]
		twice(first, known && h.DUID != "", h.DUID)
		first, known = ends[h.Host]
		twice(first, known && h.Host.IsValid(), h.Host.String())
		macs[h.MAC], duids[h.DUID], ends[h.Host] = h.At, h.At, h.At
	}
}

// DHCP6Of is the DHCPv6 server of a link; nil: there is none.
func (p *Profile) DHCP6Of(link string) *DHCP6 {
	for i := range p.DHCP6 {
		if p.DHCP6[i].Link == link {
			return &p.DHCP6[i]
		}
	}
	return nil
}
