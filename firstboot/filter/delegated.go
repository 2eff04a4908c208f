package filter

import (
	"bytes"
	"net/netip"
	"slices"

	"rempart/profiles"
)

// # Links whose subnets are delegated
//
// Which addresses they have is known to the guest alone, and changes while it runs. The rules do not: whose source an
// address is they ask of the routing table, which has the subnets of the moment, and hosts they know by the lower 64
// bits of their addresses on the link that has the host's subnet. Where the profile is judged, for probes and for
// explanations, a prefix stands for what is delegated: profiles.Profile.SupposedPrefix.

// delegatedOnly tells whether the subnets of a link are delegated and no way leads out by it.
func delegatedOnly(l *profiles.Link) bool {
	plain := *l
	plain.Delegated = nil
	return len(l.Delegated) > 0 && !hasDefault(&plain, true)
}

// delegable is what may be delegated: global addresses, and unique local ones (RFC 4193).
var delegable = prefixSpans([]netip.Prefix{netip.MustParsePrefix("2000::/3"), netip.MustParsePrefix("fc00::/7")}, true)

// delegatedHere adds to the chain of a link that what is reached by it may come by it, and returns what else may.
func (c *compiler) delegatedHere(ch *Chain, l *profiles.Link) spans {
	ch.add("the source is reached by "+l.Name, version(true), Match{SAddrOIfName, []Range{ifName(l.Name)}}, accept)
	return union(prefixSpan(linkLocal6))
}

// delegatedElsewhere adds the drop of what comes from a subnet that is delegated to another link than it came by: to
// those with a default route all that no other link is known to have belongs.
func (c *compiler) delegatedElsewhere(rules *Chain) {
	var inside []*profiles.Link
	for i := range c.profile.Links {
		if l := &c.profile.Links[i]; delegatedOnly(l) {
			inside = append(inside, l)
		}
	}
	if len(inside) == 0 {
		return
	}
	forged := Chain{Name: "antispoof/delegated"}
	c.logDrop(&forged, "", "forged")
	forged.add("the source is in what is delegated to another link", c.counter(counterSpoofed), drop)
	used := false
	for i := range c.profile.Links {
		l := &c.profile.Links[i]
		if !hasDefault(l, true) || delegatedOnly(l) {
			continue
		}
		for _, other := range inside {
			rules.add("", Match{IIfName, []Range{ifName(l.Name)}}, version(true),
				Match{SAddrOIfName, []Range{ifName(other.Name)}}, Verdict{VerdictGoto, forged.Name})
			used = true
		}
	}
	if used {
		*c.chain(forged.Name, nil) = forged
	}
}

// delegatedHosts are the ways in which an address may be that of one of some hosts.
func (c *compiler) delegatedHosts(field Field, hosts []profiles.Delegated, v6 bool) (out [][]Expr) {
	if !v6 || c.table.Family != FamilyInet {
		return nil
	}
	link := IIfName
	if field == IP6DAddr {
		link = OIfName
	}
	for _, d := range hosts {
		if l := c.profile.LinkOf(d); l != nil {
			out = append(out, []Expr{Match{link, []Range{ifName(l.Name)}}, HostPart{field, d.Host}})
		}
	}
	return out
}

// HostMask are the bits of an IPv6 address that tell a host of its subnet (RFC 4291, section 2.5.1).
func HostMask() []byte {
	const half = IPv6Size / 2
	return append(make([]byte, half), bytes.Repeat([]byte{0xff}, half)...)
}

func (h HostPart) text() string {
	mask, _ := netip.AddrFromSlice(HostMask())
	return h.Field.String() + " & " + mask.String() + " == " + h.Host.String()
}

// beforeRouting asks the routing table for the link by which a packet will leave, where that is not known yet.
func beforeRouting(list []Expr) []Expr {
	out := slices.Clone(list)
	for i, e := range out {
		if m, ok := e.(Match); ok && m.Field == OIfName {
			m.Field = DAddrOIfName
			out[i] = m
		}
	}
	return out
}
