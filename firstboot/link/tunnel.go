package link

import (
	"cmp"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"slices"
	"strings"

	"rempart/firstboot/contract/identity"
	"rempart/firstboot/secret"
	"rempart/profiles"
)

// keyLen is the bytes of a key of WireGuard (linux/wireguard.h: WG_KEY_LEN).
const keyLen = 32

// key is a public key.
type key [keyLen]byte

// tunnelKey is a private or preshared key. No way of printing shows it.
type tunnelKey [keyLen]byte

func (tunnelKey) String() string               { return "(secret)" }
func (tunnelKey) GoString() string             { return "(secret)" }
func (s tunnelKey) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, s.String()) }

// Tunnel is what WireGuard is told of a link, as the kernel has it or as it is wanted.
type Tunnel struct {
	Key   tunnelKey
	Port  int    // UDP; wanted: 0 means any
	Peers []Peer // by public key
}

// Peer is the other end of a tunnel.
type Peer struct {
	Name      string // only wanted
	Key       key
	Preshared tunnelKey // zero: none, which is the kernel's own word for it
	// Endpoint: wanted, where a peer is at first. What the kernel has it learnt from the peer, and is left alone.
	Endpoint  netip.AddrPort
	Keepalive int // seconds
	Allowed   []netip.Prefix
}

// same tells whether a peer is as another, but for its name and where it is.
func (p Peer) same(q Peer) bool {
	return p.Key == q.Key && p.Preshared == q.Preshared && p.Keepalive == q.Keepalive && slices.Equal(p.Allowed, q.Allowed)
}

// TunnelPlan is a tunnel as the profile has it: without secrets.
type TunnelPlan struct {
	Port  int
	Peers []PeerPlan // by public key
}

// PeerPlan is a peer as the profile has it; its own Preshared is not filled in.
type PeerPlan struct {
	Peer
	HasPreshared bool
}

// tunnelPlan is the tunnel of a link; nil: it is none.
func tunnelPlan(w *profiles.WireGuard) *TunnelPlan {
	if w == nil {
		return nil
	}
	t := &TunnelPlan{Port: w.Port}
	for _, p := range w.Peers {
		public, _ := p.PublicKey() // checked with the profile
		out := PeerPlan{Peer{Name: p.Name, Key: public, Endpoint: p.Endpoint, Keepalive: p.Keepalive,
			Allowed: slices.Clone(p.Allowed)}, p.Preshared}
		sortPrefixes(out.Allowed)
		t.Peers = append(t.Peers, out)
	}
	slices.SortFunc(t.Peers, func(a, b PeerPlan) int { return slices.Compare(a.Key[:], b.Key[:]) })
	return t
}

func sortPrefixes(list []netip.Prefix) {
	slices.SortFunc(list, func(a, b netip.Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), a.Bits()-b.Bits())
	})
}

// with is the tunnel with its secrets: those below the root of a guest for the link called name. Its error says which
// one is missing or no key, and shows none.
func (t *TunnelPlan) with(root, name string) (*Tunnel, error) {
	out := &Tunnel{Port: t.Port}
	var errs []error
	var err error
	if out.Key, err = readSecret(root, name); err != nil {
		errs = append(errs, fmt.Errorf("private key: %w", err))
	}
	for _, p := range t.Peers {
		peer := p.Peer
		if p.HasPreshared {
			if peer.Preshared, err = readSecret(root, name+"/"+p.Name); err != nil {
				errs = append(errs, fmt.Errorf("preshared key of peer %s: %w", p.Name, err))
			}
		}
		out.Peers = append(out.Peers, peer)
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return out, nil
}

// readSecret reads a key off the guest's identity.
func readSecret(root, name string) (s tunnelKey, err error) {
	b, err := secret.Read(root, identity.ConsumerWireGuard, name)
	if errors.Is(err, fs.ErrNotExist) {
		return s, fmt.Errorf("the guest's identity disk has no secret %s/%s", identity.ConsumerWireGuard, name)
	}
	if err != nil {
		return s, err
	}
	return parseSecret(b, identity.ConsumerWireGuard+"/"+name)
}

// parseSecret reads a key as wg(8) writes it.
func parseSecret(b []byte, name string) (s tunnelKey, err error) {
	decoded, err := base64.StdEncoding.Strict().DecodeString(strings.TrimSpace(string(b)))
	if err != nil || len(decoded) != keyLen || tunnelKey(decoded) == (tunnelKey{}) { // err would show a part of it
		return s, fmt.Errorf("secret %s is no key: want %d bytes in base64", name, keyLen)
	}
	return tunnelKey(decoded), nil
}

// clamped is a private key as the kernel keeps it: RFC 7748, 5, decodeScalar25519.
func (s tunnelKey) clamped() tunnelKey {
	s[0] &= 248
	s[keyLen-1] = s[keyLen-1]&127 | 64
	return s
}

// tunnel compares what WireGuard knows: first strangers go, then the key, then the peers that are missing or otherwise.
func (d *differ) tunnel() {
	h, w := d.have.Tunnel, d.want.Tunnel
	if w == nil {
		return
	}
	if h == nil {
		h = &Tunnel{}
	}
	for _, p := range h.Peers {
		if !slices.ContainsFunc(w.Peers, func(q Peer) bool { return p.Key == q.Key }) {
			d.add(Change{Kind: DeletePeer, Peer: &Peer{Name: "of a key that is not in the profile", Key: p.Key}})
		}
	}
	if h.Key.clamped() != w.Key.clamped() || w.Port != 0 && h.Port != w.Port {
		d.add(Change{Kind: SetTunnel, Tunnel: w})
	}
	for i := range w.Peers {
		p := &w.Peers[i]
		at := slices.IndexFunc(h.Peers, func(q Peer) bool { return p.Key == q.Key })
		if at < 0 || !p.same(h.Peers[at]) || p.Endpoint.IsValid() && !h.Peers[at].Endpoint.IsValid() {
			c := Change{Kind: SetPeer, Peer: p}
			if at >= 0 && h.Peers[at].Endpoint.IsValid() { // it may have moved since
				moved := *p
				moved.Endpoint = netip.AddrPort{}
				c.Peer = &moved
			}
			d.add(c)
		}
	}
}

// tunnels gives the plan's tunnels their secrets. A link that lacks one is closed until it is there.
func (r *runner) tunnels() map[string]*Tunnel {
	all := map[string]*Tunnel{}
	for i := range r.plan.Links {
		l := &r.plan.Links[i]
		if l.Tunnel == nil {
			continue
		}
		t, err := l.Tunnel.with(r.env.Root, l.Name)
		if l.Closed = ""; err != nil {
			l.Closed = strings.ReplaceAll(err.Error(), "\n", "; ")
			continue
		}
		all[l.Name] = t
	}
	return all
}

// untaken says which peers of a tunnel the kernel does not have; empty: all are there.
func (t *TunnelPlan) untaken(have *Tunnel) string {
	if t == nil {
		return ""
	}
	var names []string
	for _, p := range t.Peers {
		if have == nil || !slices.ContainsFunc(have.Peers, func(q Peer) bool { return q.Key == p.Key }) {
			names = append(names, p.Name)
		}
	}
	if len(names) == 0 {
		return ""
	}
	return "the kernel has not taken its peers " + strings.Join(names, ", ") + "; a peer cannot have the guest's own key"
}

// tunnelSysctls changes the switches of a link for a tunnel: it has no hardware address that a link-local one could
// follow, and WireGuard itself writes so each time it comes up (drivers/net/wireguard/device.c: wg_open).
func tunnelSysctls(list []Sysctl) {
	const none = "1" // linux/if_link.h: IN6_ADDR_GEN_MODE_NONE
	for i := range list {
		if strings.HasSuffix(list[i].Path, "/addr_gen_mode") {
			list[i].Value, list[i].Why = none, "a tunnel has no link-local address"
		}
	}
}
