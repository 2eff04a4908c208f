package link

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"rempart/firstboot/contract/identity"
	"rempart/profiles"
)

func keyOf(b byte) (k [keyLen]byte) {
	for i := range k {
		k[i] = b
	}
	return k
}

func base64Of(b byte) string {
	k := keyOf(b)
	return base64.StdEncoding.EncodeToString(k[:])
}

func tunnelProfile() *profiles.Profile {
	return &profiles.Profile{Name: "fw", Links: []profiles.Link{
		{Name: "wan", MTU: 1400, Addresses: []netip.Prefix{pfx("192.0.2.1/24")}},
		{Name: "wg0", Addresses: []netip.Prefix{pfx("10.9.0.1/24")}, WireGuard: &profiles.WireGuard{Port: 51820,
			Peers: []profiles.Peer{
				{Name: "office", Key: base64Of(7), Allowed: []netip.Prefix{pfx("fd00::/64"), pfx("10.9.0.2/32")},
					Endpoint: netip.MustParseAddrPort("192.0.2.9:7"), Preshared: true},
				{Name: "phone", Key: base64Of(5), Allowed: []netip.Prefix{pfx("10.9.0.3/32")}, Keepalive: 25},
			}}},
	}}
}

// secretsRoot is a root of a guest with secrets as its identity lays them out.
func secretsRoot(t *testing.T, all map[string]string) string {
	t.Helper()
	root := t.TempDir()
	if err := os.MkdirAll(filepath.Join(root, identity.ConsumerDir(identity.ConsumerWireGuard)), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range all {
		file := filepath.Join(root, identity.SecretPath(identity.ConsumerWireGuard, name))
		if err := os.WriteFile(file, []byte(text), 0o400); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestTunnelSecrets(t *testing.T) {
	plan := Compile(tunnelProfile()).Links[1]
	if plan.MTU != 1400-60 || !plan.NoARP || plan.Device.Kind != KindTunnel {
		t.Errorf("wg0 = %+v; want a tunnel of 1340 bytes: 1400 less what IPv4, UDP and WireGuard add", plan)
	}
	good := map[string]string{"wg0": base64Of(1) + "\n", "wg0/office": base64Of(2)}
	tunnel, err := plan.Tunnel.with(secretsRoot(t, good), "wg0")
	if err != nil || tunnel.Key != keyOf(1) || tunnel.Port != 51820 || len(tunnel.Peers) != 2 ||
		tunnel.Peers[0].Name != "phone" || tunnel.Peers[0].Preshared != (tunnelKey{}) ||
		tunnel.Peers[1].Preshared != keyOf(2) {
		t.Errorf("with(good) = %+v, %v", tunnel, err)
	}
	if got := fmt.Sprintf("%v %+v %#v %s %x %v", tunnel, *tunnel, tunnel.Key, tunnel.Key, tunnel.Key,
		tunnel.Peers[1]); strings.Contains(got, "1, 1, 1") || strings.Contains(got, "1 1 1") ||
		strings.Contains(got, "0101") || strings.Contains(got, "2 2 2") {
		t.Errorf("a secret prints as %s", got)
	}
	for name, c := range map[string]struct {
		secrets map[string]string
		want    string
	}{
		"none":             {nil, "private key: the guest's identity disk has no secret wireguard/wg0"},
		"no preshared":     {map[string]string{"wg0": base64Of(1)}, "preshared key of peer office: the guest's identity"},
		"not base64":       {map[string]string{"wg0": "hunter2hunter2", "wg0/office": base64Of(2)}, "is no key"},
		"too short":        {map[string]string{"wg0": base64Of(1)[4:], "wg0/office": base64Of(2)}, "is no key"},
		"zero":             {map[string]string{"wg0": base64Of(0), "wg0/office": base64Of(2)}, "is no key"},
		"something behind": {map[string]string{"wg0": base64Of(1) + "AAAA", "wg0/office": base64Of(2)}, "is no key"},
		"endless": {map[string]string{"wg0": base64Of(1) + strings.Repeat(" ", 300),
			"wg0/office": strings.Repeat("A", 1<<16)}, "preshared key of peer office: secret wireguard/wg0/office is no key"},
	} {
		_, err := plan.Tunnel.with(secretsRoot(t, c.secrets), "wg0")
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "hunter2") ||
			strings.Contains(err.Error(), base64Of(1)[:6]) {
			t.Errorf("%s: %v; want %q, and nothing of a key", name, err, c.want)
		}
	}
}

func TestTunnelChanges(t *testing.T) {
	moved := netip.MustParseAddrPort("203.0.113.1:9")
	plan := Compile(tunnelProfile()).Links[1]
	root := secretsRoot(t, map[string]string{"wg0": base64Of(1), "wg0/office": base64Of(2)})
	want, err := plan.Tunnel.with(root, "wg0")
	if err != nil {
		t.Fatal(err)
	}
	asKernel := func(edit func(*Tunnel)) *Tunnel { // as the kernel tells it
		h := &Tunnel{Key: want.Key.clamped(), Port: want.Port}
		for _, p := range want.Peers {
			p.Name, p.Allowed = "", slices.Clone(p.Allowed)
			h.Peers = append(h.Peers, p)
		}
		edit(h)
		return h
	}
	for name, c := range map[string]struct {
		have *Tunnel
		want []string
	}{
		"the same":     {asKernel(func(*Tunnel) {}), nil},
		"new":          {nil, []string{"wg0: private key and port", "wg0: peer phone", "wg0: peer office"}},
		"another key":  {asKernel(func(h *Tunnel) { h.Key = keyOf(9) }), []string{"wg0: private key and port"}},
		"another port": {asKernel(func(h *Tunnel) { h.Port = 9 }), []string{"wg0: private key and port"}},
		"a peer moved": {asKernel(func(h *Tunnel) { h.Peers[1].Endpoint = moved }), nil},
		"its place lost": {asKernel(func(h *Tunnel) { h.Peers[1].Endpoint = netip.AddrPort{} }),
			[]string{"wg0: peer office"}},
		"no preshared key": {asKernel(func(h *Tunnel) { h.Peers[1].Preshared = tunnelKey{} }), []string{"wg0: peer office"}},
		"a stranger": {asKernel(func(h *Tunnel) { h.Peers = append(h.Peers, Peer{Key: keyOf(3)}) }),
			[]string{"wg0: remove peer of a key that is not in the profile"}},
		"allowed more": {asKernel(func(h *Tunnel) { h.Peers[0].Allowed = append(h.Peers[0].Allowed, pfx("0.0.0.0/0")) }),
			[]string{"wg0: peer phone"}},
	} {
		have := Interface{Index: 2, Name: "wg0", Claim: "wg0", Tunnel: c.have}
		wanted := Interface{Index: 2, Name: "wg0", Claim: "wg0", Tunnel: want}
		if got := texts(Changes([]Interface{have}, []Interface{wanted})); !slices.Equal(got, c.want) {
			t.Errorf("%s: %q; want %q", name, got, c.want)
		}
	}
	have := Interface{Index: 2, Name: "wg0", Claim: "wg0", Tunnel: asKernel(func(h *Tunnel) { h.Peers[1].Keepalive = 9 })}
	for _, change := range Changes([]Interface{have}, []Interface{{Index: 2, Name: "wg0", Claim: "wg0", Tunnel: want}}) {
		if change.Peer == nil || change.Peer.Endpoint.IsValid() {
			t.Errorf("changing a peer's keepalive: %+v; want its endpoint left as it is", change.Peer)
		}
	}
	if got := plan.Tunnel.untaken(asKernel(func(h *Tunnel) { h.Peers = h.Peers[:1] })); !strings.Contains(got, "office") {
		t.Errorf("untaken = %q; want it to name office", got)
	}
}

// TestClosedTunnel: a tunnel without its key is not made, and taken away if it is there.
func TestClosedTunnel(t *testing.T) {
	plan := Compile(tunnelProfile())
	plan.Links[1].Closed = "private key: none"
	have := []Interface{{Index: 9, Name: "wg0", Claim: "wg0", Device: Device{Kind: KindTunnel}, Up: true}}
	found := Devices(plan, have, nil)
	if len(found.Made) != 0 || len(found.Create) != 0 || len(found.Remove) != 1 || found.Remove[0].Kind != DeleteLink ||
		len(found.Waiting) != 1 || found.Waiting[0].Text != "private key: none" {
		t.Errorf("Devices = %+v; want wg0 removed, and its reason told", found)
	}
}

func TestPeerMessage(t *testing.T) {
	for _, endpoint := range []string{"192.0.2.9:7", "[2001:db8::7]:51820"} {
		p := Peer{Key: keyOf(7), Preshared: keyOf(2), Endpoint: netip.MustParseAddrPort(endpoint), Keepalive: 25,
			Allowed: []netip.Prefix{pfx("10.9.0.2/32"), pfx("0.0.0.0/0"), pfx("fd00::/64")}}
		var got Tunnel
		if err := got.parse(peerMessage(&p).Serialize()); err != nil || !reflect.DeepEqual(got.Peers, []Peer{p}) {
			t.Errorf("a peer came back as %+v, %v; want %+v", got.Peers, err, p)
		}
	}
}

// FuzzTunnel reads what the kernel may say of a tunnel.
func FuzzTunnel(f *testing.F) {
	p := Peer{Key: keyOf(7), Endpoint: netip.MustParseAddrPort("[2001:db8::7]:51820"),
		Allowed: []netip.Prefix{pfx("10.9.0.2/32"), pfx("fd00::/64")}}
	f.Add([]byte(nil))
	f.Add(peerMessage(&p).Serialize())
	f.Add(bytes.Repeat(peerMessage(&p).Serialize(), 2))
	f.Fuzz(func(t *testing.T, b []byte) {
		var got Tunnel
		if err := got.parse(b); err != nil {
			return
		}
		for _, p := range got.Peers {
			for _, a := range p.Allowed {
				if !a.IsValid() {
					t.Errorf("parse(%x) allows %v", b, a)
				}
			}
		}
	})
}

// FuzzSecret reads what somebody may have put on an identity disk.
func FuzzSecret(f *testing.F) {
	f.Add([]byte(base64Of(1)))
	f.Add([]byte(" " + base64Of(1) + "\r\n"))
	f.Add([]byte("hunter2"))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := parseSecret(b, "x")
		if (err == nil) == (s == tunnelKey{}) {
			t.Errorf("parseSecret(%q) = a key: %t, %v", b, s != tunnelKey{}, err)
		}
	})
}
