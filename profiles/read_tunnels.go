//go:build !guest

package profiles

import (
	"net/netip"

	"gopkg.in/yaml.v3"
)

// Patterns of the words of a tunnel, for editors.
const (
	keyPattern      = `^[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=$`
	endpointPattern = `^([0-9.]+|\[[0-9a-fA-F:.]+\]):[0-9]{1,5}$`
	peerPattern     = `^[A-Za-z0-9][A-Za-z0-9_.-]{0,30}$`
)

func wireGuardFields() table[WireGuard] {
	return table[WireGuard]{
		{name: "port", doc: "UDP port it answers on, 51820 by custom. Default: any free one, for a guest that only begins" +
			" itself.", kind: numberIn(1, maxPort),
			decode: func(r *reader, v value, w *WireGuard) { w.Port, _ = r.integer(v, 1, maxPort, "") }},
		{name: "from", doc: "Zone, or list of zones, whose hosts may begin: to these and no others the port is open, above" +
			" the policy. Without it only answers to what the guest begins pass.", kind: oneOrMore(textLike(zonePattern)),
			decode: func(r *reader, v value, w *WireGuard) {
				const what = "the name of a zone, or a list of zones"
				for _, item := range r.items(v, what, maxZones) {
					if text, ok := r.word(item, what); ok {
						w.From = append(w.From, text)
					}
				}
			}},
		{name: "routes", doc: "false: what peers may send is not routed to them by itself; routes and rules say what is.",
			kind: yesOrNo(), decode: func(r *reader, v value, w *WireGuard) {
				if yes, ok := r.boolean(v); ok {
					w.NoRoutes = !yes
				}
			}},
		{name: "peers", doc: "The other ends: NAME: {key: PUBLIC KEY, allowed: [PREFIX], endpoint: ADDRESS:PORT}.",
			kind: filled(named(peerPattern, peerFields().schema())), required: true, decode: readPeers},
	}
}

func peerFields() table[Peer] {
	return table[Peer]{
		{name: "key", doc: "The peer's public key, 44 characters of base64 as `wg pubkey` prints it.",
			kind: textLike(keyPattern), required: true, decode: func(r *reader, v value, p *Peer) {
				const what = "a public key, 44 characters of base64"
				if text, ok := r.word(v, what); ok {
					if p.Key = text; !isKey(text) {
						// Not shown: it may be a key that is not public.
						r.rejectAt(v.pos(), "`wg pubkey` prints it", "%s: expected %s", v.name, what)
					}
				}
			}},
		{name: "allowed", doc: "Prefixes and addresses the peer may send from and is sent to, all of them without routes:" +
			" false.", kind: oneOrMore(textLike(prefixPattern)), required: true,
			decode: func(r *reader, v value, p *Peer) {
				for _, item := range r.items(v, "a prefix such as 10.9.0.0/24, or a list", maxAllowed) {
					if prefix := r.network(item); prefix.IsValid() {
						p.Allowed = append(p.Allowed, prefix)
					}
				}
			}},
		{name: "endpoint", doc: "Where the peer is: 203.0.113.7:51820 or [2001:db8::7]:51820, no name. Without it the peer" +
			" begins.", kind: textLike(endpointPattern), decode: readEndpoint},
		{name: "keepalive", doc: "Seconds after which something is sent in any case, to stay reachable behind NAT: 25 does.",
			kind:   numberIn(1, maxKeepalive),
			decode: func(r *reader, v value, p *Peer) { p.Keepalive, _ = r.integer(v, 1, maxKeepalive, "seconds") }},
		{name: "preshared", doc: "true: there is a preshared key too, on the identity disk.", kind: yesOrNo(),
			decode: func(r *reader, v value, p *Peer) { p.Preshared, _ = r.boolean(v) }},
	}
}

func isKey(text string) bool {
	_, ok := (&Peer{Key: text}).PublicKey()
	return ok
}

func readEndpoint(r *reader, v value, p *Peer) {
	const what = "an address and a port such as 203.0.113.7:51820 or [2001:db8::7]:51820"
	text, ok := r.word(v, what)
	if !ok {
		return
	}
	at, err := netip.ParseAddrPort(text)
	switch {
	case err != nil && v.node.Kind == yaml.ScalarNode && isName(text):
		r.rejectAt(v.pos(), "write its address: the policy and the tunnel are there before any name can be asked for",
			"%s: %s is a name", v.name, quote(text))
	case err != nil:
		r.expected(v, what, "")
	case at.Addr().Is4In6():
		r.rejectAt(v.pos(), "write it as IPv4", "%s: the address %s is IPv4 in IPv6 clothes", v.name, at.Addr())
	default:
		p.Endpoint = at
	}
}

// isName tells whether a text is HOST:PORT or HOST rather than a slip in an address.
func isName(text string) bool {
	return len(text) > 0 && isLower(text[0]|0x20) && !allOf(text, isHexOrColon)
}

func isHexOrColon(c byte) bool {
	return isDigit(c) || c|0x20 >= 'a' && c|0x20 <= 'f' || c == ':' || c == '.' || c == '[' || c == ']'
}

func readPeers(r *reader, v value, w *WireGuard) {
	const what = "a mapping such as office: {key: PUBLIC KEY, allowed: 10.9.0.2}"
	r.filled(v, what)
	for _, entry := range r.entries(v, what, maxPeers) {
		p := Peer{Name: entry.key.Value, At: entry.keyPos()}
		peerFields().read(r, entry, &p)
		w.Peers = append(w.Peers, p)
	}
}

// readWireGuard reads a tunnel. What its peers may send becomes the link's routes, but for what its own addresses have
// brought already: so all that asks where a packet goes sees it.
func readWireGuard(r *reader, v value, l *Link) {
	w := &WireGuard{}
	wireGuardFields().read(r, v, w)
	l.WireGuard = w
	r.places.put(v.keyPos(), "links.%s.device", l.Name)
	if w.NoRoutes {
		return
	}
	seen := map[netip.Prefix]bool{}
	for _, p := range w.Peers {
		for _, to := range p.Allowed {
			own, inside := l.subnetOf(to.Addr())
			if to.Bits() == 0 || seen[to] || inside && own.Bits() <= to.Bits() {
				continue // the first two are told by the validator
			}
			seen[to] = true
			l.Routes = append(l.Routes, Route{To: to, Metric: defaultMetric, At: p.At})
		}
	}
}
