package profiles

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
)

// tunnels checks WireGuard links.
func (v *validator) tunnels() {
	ports := map[int]*Link{}
	for i := range v.p.Links {
		l := &v.p.Links[i]
		if l.WireGuard == nil || v.places.spoilt("links.%s.wireguard", l.Name) {
			continue
		}
		at := v.places.find(l.At, "links.%s.device", l.Name)
		bad := func(hint, format string, args ...any) {
			v.reject(at, hint, "links.%s.wireguard: %s", clip(l.Name), fmt.Sprintf(format, args...))
		}
		w := l.WireGuard
		v.tunnelLink(l, bad)
		if w.Port < 0 || w.Port > maxPort {
			bad("", "port %d, expected 1 to %d", w.Port, maxPort)
		}
		if first := ports[w.Port]; first != nil && w.Port != 0 {
			bad("choose another", "port %d is that of link %s already", w.Port, clip(first.Name))
		}
		ports[w.Port] = l
		v.tunnelFrom(l, bad)
		v.peers(l, bad)
		most := v.p.tunnelMTU(l)
		if l.MTU == 0 && most < minMTUIPv6 && slices.ContainsFunc(l.Addresses, func(a netip.Prefix) bool {
			return a.Addr().Is6()
		}) {
			bad("raise that of the links its peers are reached by, or remove the IPv6 address",
				"the MTU that is left is %d, IPv6 needs %d", most, minMTUIPv6)
		}
		if l.MTU > most && !v.places.spoilt("links.%s.mtu", l.Name) {
			v.reject(v.places.find(l.At, "links.%s.mtu", l.Name), "write "+strconv.Itoa(most)+" or less, or nothing",
				"links.%s.mtu: %d, more than the %d that the links its peers are reached by leave", clip(l.Name), l.MTU, most)
		}
	}
}

// tunnelLink checks what a tunnel cannot have that other links can.
func (v *validator) tunnelLink(l *Link, bad func(hint, format string, args ...any)) {
	if l.DHCP || l.Learns6() {
		bad("give it addresses", "a tunnel has no DHCP server and no routers to ask")
	}
	if l.MAC != "" {
		v.reject(v.places.find(l.At, "links.%s.mac", l.Name), "remove it", "links.%s.mac: a tunnel has no hardware address",
			clip(l.Name))
	}
	if len(l.Gateways) > 0 {
		bad("list the prefixes as allowed", "a tunnel has no gateway, its peers are found by what they are allowed")
	}
	for _, route := range l.Routes {
		if route.Via.IsValid() {
			v.reject(route.At, "remove via", "links.%s.routes: a tunnel has no routers, its peers are found by what they are"+
				" allowed", clip(l.Name))
		}
	}
}

// tunnelFrom checks who may begin.
func (v *validator) tunnelFrom(l *Link, bad func(hint, format string, args ...any)) {
	w := l.WireGuard
	if len(w.From) > 0 && w.Port == 0 {
		bad("write port: 51820", "from names who may begin, but not at which port")
	}
	for i, name := range w.From {
		z := v.zone(name)
		switch {
		case slices.Contains(w.From[:i], name):
			bad("remove one", "from: zone %s comes twice", quote(name))
		case z == nil && !v.places.spoilt("zones"):
			bad(suggest(name, v.zoneNames()), "from: unknown zone %s", quote(name))
		case z != nil && slices.ContainsFunc(z.Members, func(m Member) bool { return m.Link == l.Name }):
			bad("name the zones that the peers' own packets come from", "from: zone %s is on this tunnel", quote(name))
		}
	}
	for _, f := range v.p.Forwards {
		if f.Protocol == UDP && slices.Contains(w.From, f.From) && slices.ContainsFunc(f.Ports, func(r PortRange) bool {
			return int(r.First) <= w.Port && w.Port <= int(r.Last)
		}) {
			v.reject(f.At, "choose another port", "forwards: udp %d from %s is the port of the tunnel %s", w.Port, clip(f.From),
				clip(l.Name))
		}
	}
	begins := slices.ContainsFunc(w.Peers, func(p Peer) bool { return p.Endpoint.IsValid() })
	if len(w.From) == 0 && len(w.Peers) > 0 && !begins {
		bad("write from: ZONE and port: 51820, or endpoint: ADDRESS:PORT at a peer",
			"nobody can begin: no peer has an endpoint, and from names no zone")
	}
}

// peers checks the other ends, by themselves and among each other.
func (v *validator) peers(l *Link, bad func(hint, format string, args ...any)) {
	w := l.WireGuard
	if len(w.Peers) == 0 {
		bad("", "no peers")
	}
	if len(w.Peers) > maxPeers {
		bad("", "%d peers, expected at most %d", len(w.Peers), maxPeers)
		return
	}
	names, keys, allowed := map[string]bool{}, map[string]string{}, map[netip.Prefix]string{}
	for i := range w.Peers {
		p := &w.Peers[i]
		wrong := func(hint, format string, args ...any) {
			v.reject(p.At, hint, "links.%s.wireguard.peers.%s: %s", clip(l.Name), clip(p.Name), fmt.Sprintf(format, args...))
		}
		if n := p.Name; len(n) == 0 || len(n) > maxPeer || !allOf(n, isLinkByte) || !isLower(n[0]|0x20) && !isDigit(n[0]) {
			wrong("", "expected a name of 1 to %d letters, digits and any of . _ -, a letter or digit first", maxPeer)
		}
		if names[p.Name] {
			wrong("", "there is a peer of that name already")
		}
		names[p.Name] = true
		if _, ok := p.PublicKey(); !ok {
			wrong("`wg pubkey` prints it", "its key is not 32 bytes in base64")
		} else if first, twice := keys[p.Key]; twice {
			wrong("each peer has a key of its own", "it has the key of %s", clip(first))
		}
		keys[p.Key] = p.Name
		if p.Keepalive < 0 || p.Keepalive > maxKeepalive {
			wrong("", "keepalive of %d seconds, expected 1 to %d", p.Keepalive, maxKeepalive)
		}
		if len(p.Allowed) == 0 {
			wrong("", "it is allowed nothing: no packet could pass")
		}
		if len(p.Allowed) > maxAllowed || len(allowed) > maxAllowedTotal {
			wrong("join neighbours to larger prefixes", "more than %d allowed prefixes, or %d of all peers", maxAllowed,
				maxAllowedTotal)
			return
		}
		for _, a := range p.Allowed {
			v.allowed(l, p, a, allowed, wrong)
		}
		if p.Endpoint.IsValid() || p.Endpoint != (netip.AddrPort{}) {
			v.endpoint(l, p, wrong)
		}
	}
}

// allowed checks one prefix that a peer may send from.
func (v *validator) allowed(l *Link, p *Peer, a netip.Prefix, taken map[netip.Prefix]string,
	wrong func(hint, format string, args ...any)) {
	if !a.IsValid() || a.Addr().Zone() != "" || a.Addr().Is4In6() || a.Masked() != a {
		wrong("", "allowed: %s is no prefix", a)
		return
	}
	if first, twice := taken[a]; twice {
		wrong("each prefix leads to one peer", "allowed: %s is allowed to %s already", a, clip(first))
	}
	taken[a] = p.Name
	for _, own := range l.Addresses {
		if a.Bits() == a.Addr().BitLen() && own.Addr() == a.Addr() {
			wrong("remove it", "allowed: %s is the guest's own address in this tunnel", a.Addr())
		}
	}
	if a.Bits() == 0 && !l.WireGuard.NoRoutes {
		wrong("name the prefixes, or write routes: false at wireguard and say by routes and rules what goes there",
			"allowed: %s would send everything into the tunnel, its own packets too", a)
	}
}

// endpoint checks where a peer is.
func (v *validator) endpoint(l *Link, p *Peer, wrong func(hint, format string, args ...any)) {
	a := p.Endpoint.Addr()
	problem := checkUnicast(a)
	switch {
	case problem != "":
		wrong("", "endpoint: %s", problem)
		return
	case p.Endpoint.Port() == 0:
		wrong("write 51820 if that is its port", "endpoint: %s has no port", p.Endpoint)
		return
	}
	for i := range v.p.Links {
		for _, own := range v.p.Links[i].Addresses {
			if own.Addr() == a {
				wrong("", "endpoint: %s is the guest's own address", a)
				return
			}
		}
	}
	if !l.WireGuard.NoRoutes {
		for _, other := range l.WireGuard.Peers {
			for _, prefix := range other.Allowed {
				if prefix.Bits() > 0 && prefix.Contains(a) {
					wrong("narrow what is allowed", "endpoint: %s is in %s, which is routed into the tunnel itself", a, prefix)
					return
				}
			}
		}
	}
	if v.p.outer(l, a) == nil && !v.places.spoilt("links") {
		wrong("add a gateway or a route", "endpoint: no link leads to %s", a)
	}
}
