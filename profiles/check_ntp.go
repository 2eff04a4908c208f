package profiles

import (
	"net/netip"
	"slices"
)

// ntp checks where the time comes from and whom it is told.
func (v *validator) ntp() {
	n := v.p.NTP
	if n == nil {
		return
	}
	if len(n.Servers) == 0 && len(n.Serve) > 0 {
		v.warn(n.At, "add servers", "ntp: without servers the guest answers that it does not know the time")
	}
	named := false
	for i, server := range n.Servers {
		at := v.places.find(n.At, "ntp.servers[%d]", i)
		if slices.Contains(n.Servers[:i], server) {
			v.reject(at, "remove one", "ntp.servers: %s comes twice", quote(server))
			continue
		}
		addr, err := netip.ParseAddr(server)
		if err != nil {
			named = true
			if problem, hint := checkHostName(server); problem != "" {
				v.reject(at, hint, "ntp.servers: %s", problem)
			}
			continue
		}
		if problem := checkUnicast(addr); problem != "" {
			v.reject(at, "", "ntp.servers: %s", problem)
			continue
		}
		v.reachable(at, "ntp.servers", addr, "name another server")
	}
	if named && !v.resolves() {
		v.reject(n.At, "write addresses, or let a link learn name servers by DHCP",
			"ntp.servers: names, but the guest knows no name server")
	}
	for i, name := range n.Serve {
		at := v.places.find(n.At, "ntp.serve[%d]", i)
		switch {
		case v.link(name) == nil:
			v.reject(at, suggest(name, v.linkNames()), "ntp.serve: unknown link %s", quote(name))
		case slices.Contains(n.Serve[:i], name):
			v.reject(at, "remove one", "ntp.serve: link %s comes twice", clip(name))
		}
	}
}

// resolves tells whether the guest will know a name server.
func (v *validator) resolves() bool {
	return slices.ContainsFunc(v.p.Links, func(l Link) bool { return (l.DHCP || l.Auto) && !l.Accept.NoDNS })
}

// reachable rejects an address that is the guest's own or that no link leads to.
func (v *validator) reachable(at Pos, what string, addr netip.Addr, instead string) {
	reached := false
	for i := range v.p.Links {
		for _, own := range v.p.Links[i].Addresses {
			if own.Addr() == addr {
				v.reject(at, instead, "%s: %s is the guest itself", what, addr)
				return
			}
		}
		if p, err := addr.Prefix(addr.BitLen()); err == nil && v.p.Links[i].reaches(p) {
			reached = true
		}
	}
	if !reached && !v.places.spoilt("links") {
		v.reject(at, "give a link an address in its subnet, or a gateway", "%s: no link reaches %s", what, addr)
	}
}

// portNTP is where time servers listen (RFC 5905 section 7.2).
const portNTP = 123

// openings are for who asks on the links that are served.
func (n *NTP) openings() (out []Opening) {
	for _, link := range n.Serve {
		out = append(out, Opening{Service: "NTP", Link: link, Protocol: UDP, Ports: []PortRange{{portNTP, portNTP}},
			IPv4: true, IPv6: true, At: n.At})
	}
	return out
}
