package profiles

import (
	"cmp"
	"encoding/base64"
	"net/netip"
)

// WireGuard is a link that is a tunnel to peers, each known by its public key. The link's own private key and the
// preshared keys are no part of a profile: they are on the guest's identity disk.
type WireGuard struct {
	Port int `json:"port,omitempty"` // UDP; 0: any that is free, for a guest that only begins itself
	// From are the zones whose hosts may begin: to them, and to no others, the policy opens Port.
	From     []string `json:"from,omitempty"`
	NoRoutes bool     `json:"no_routes,omitempty"` // what peers may send is not routed to them by itself
	Peers    []Peer   `json:"peers"`
}

// Peer is the other end of a tunnel.
type Peer struct {
	Name    string         `json:"name"`    // that of its secrets on the identity disk
	Key     string         `json:"key"`     // public: 32 bytes in base64, as wg(8) has it
	Allowed []netip.Prefix `json:"allowed"` // what it may send from, and is sent to
	// Endpoint is where it is at first; zero: it begins. Where it has moved to is learnt from what it sends.
	Endpoint  netip.AddrPort `json:"endpoint,omitzero"`
	Keepalive int            `json:"keepalive,omitempty"` // seconds; 0: none
	Preshared bool           `json:"preshared,omitempty"` // there is a preshared key too
	At        Pos            `json:"at"`
}

// keyBytes is the length of a key of Curve25519 (RFC 7748), in bytes.
const keyBytes = 32

// PublicKey is the peer's key; false when it is none.
func (p *Peer) PublicKey() (key [keyBytes]byte, ok bool) {
	b, err := base64.StdEncoding.Strict().DecodeString(p.Key)
	if err != nil || len(b) != keyBytes || base64.StdEncoding.EncodeToString(b) != p.Key {
		return key, false
	}
	return [keyBytes]byte(b), true
}

// What a tunnel adds to each packet, in bytes: the outer IP header (RFC 791, RFC 8200), that of UDP (RFC 768), and
// WireGuard's own with its tag (the WireGuard paper, 5.4.6).
const (
	wireGuardBytes  = 8 + 16 + 16
	tunnelOverIPv4  = 20 + wireGuardBytes
	tunnelOverIPv6  = 40 + wireGuardBytes
	usualTunnelMTU  = usualMTU - tunnelOverIPv6
	maxPeers        = 256
	maxAllowed      = 256 // of one peer
	maxPeer         = 31  // bytes of a name
	maxKeepalive    = 65535
	maxAllowedTotal = 4096
)

// tunnelMTU is the largest packet that a tunnel takes without being cut on its way out: of the links its peers are
// reached by, the smallest. IPv6's header counts unless all that is known is that a peer is reached by IPv4.
func (p *Profile) tunnelMTU(l *Link) int {
	least := 0
	take := func(outer *Link, overhead int) {
		mtu := usualTunnelMTU // a tunnel in a tunnel, which may be in the first
		if outer.WireGuard == nil {
			mtu = p.mtu(outer, false)
		} else if outer.MTU != 0 {
			mtu = outer.MTU
		}
		if n := mtu - overhead; least == 0 || n < least {
			least = n
		}
	}
	for _, peer := range l.WireGuard.Peers {
		a := peer.Endpoint.Addr()
		if !a.IsValid() {
			continue
		}
		if outer := p.outer(l, a); outer != nil && a.Is4() {
			take(outer, tunnelOverIPv4)
		} else if outer != nil {
			take(outer, tunnelOverIPv6)
		}
	}
	for _, name := range l.WireGuard.From {
		for _, z := range p.Zones {
			for _, m := range z.Members {
				if outer := p.byName(m.Link); z.Name == name && outer != nil && outer != l {
					take(outer, tunnelOverIPv6)
				}
			}
		}
	}
	return cmp.Or(least, usualTunnelMTU)
}

func (p *Profile) byName(link string) *Link {
	for i := range p.Links {
		if p.Links[i].Name == link {
			return &p.Links[i]
		}
	}
	return nil
}

// outer is the link, other than the tunnel itself, that an address is reached by; nil: none.
func (p *Profile) outer(tunnel *Link, a netip.Addr) *Link {
	var best *Link
	bits := -1
	host := netip.PrefixFrom(a, a.BitLen())
	for i := range p.Links {
		l := &p.Links[i]
		if l == tunnel || !l.reaches(host) {
			continue
		}
		n := 0
		if subnet, ok := l.subnetOf(a); ok {
			n = subnet.Bits()
		}
		for _, route := range l.Routes {
			if route.To.Contains(a) && route.Table == 0 {
				n = max(n, route.To.Bits())
			}
		}
		if n > bits {
			best, bits = l, n
		}
	}
	return best
}
