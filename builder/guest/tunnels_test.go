package guest

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"rempart/firstboot/contract/identity"
	"rempart/profiles"
)

const tunnelProfile = `rempart: 1
name: gate
admin: none
links:
  wan: {address: 192.0.2.1/24}
  wg0:
    address: 10.9.0.1/24
    wireguard:
      port: 51820
      from: internet
      peers: {office: {key: xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=, allowed: 10.9.0.2, preshared: true}}
zones: {internet: wan, far: wg0}
`

// TestTunnelKeys: a tunnel gets a key once, people learn its public half, and keys of their own go above it.
func TestTunnelKeys(t *testing.T) {
	p, err := profiles.Parse("gate.yaml", []byte(tunnelProfile))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	disk := filepath.Join(dir, "gate.identity.raw")
	id, err := EnsureIdentity(disk, "gate", p, nil)
	if err != nil {
		t.Fatal(err)
	}
	first, err := Tunnels(id, p)
	if err != nil || len(first) != 1 || first[0].Link != "wg0" || !slices.Equal(first[0].Missing, []string{"office"}) {
		t.Errorf("Tunnels = %+v, %v; want wg0, without the preshared key of office", first, err)
	}
	if id, err = EnsureIdentity(disk, "gate", p, nil); err != nil {
		t.Fatal(err)
	}
	if again, err := Tunnels(id, p); err != nil || again[0].Public != first[0].Public {
		t.Errorf("Tunnels after a second start = %+v, %v; want the same key %s", again, err, first[0].Public)
	}

	// RFC 7748, 6.1: Alice's private and public key.
	const private, public = "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=", "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo="
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good := file("key", private+"\n")
	if err := ReadTunnelKeys(id, p, []string{"wg0=" + good, "wg0/office=" + good}); err != nil {
		t.Fatal(err)
	}
	if all, err := Tunnels(id, p); err != nil || all[0].Public != public || len(all[0].Missing) > 0 {
		t.Errorf("Tunnels = %+v, %v; want the public key %s, and nothing missing", all, err, public)
	}
	if err := id.Check(); err != nil {
		t.Error(err)
	}
	err = ReadTunnelKeys(id, p, []string{"wg0", "wg1=" + good, "wg0/phone=" + good, "wg0=" + filepath.Join(dir, "none"),
		"wg0=" + file("bad", private[1:]), "wg0/office=" + file("junk", "hunter2")})
	if err == nil {
		t.Fatal("ReadTunnelKeys takes what is no key")
	}
	for _, want := range []string{`"wg0": want LINK=FILE`, `called "wg1"; it has: wg0, wg0/office`, `called "wg0/phone"`,
		"no such file", "bad is no key", "junk is no key"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("ReadTunnelKeys = %v; want it to say %q", err, want)
		}
	}
	if strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), private[1:]) {
		t.Errorf("the error shows a key: %v", err)
	}
	if got := id.Secret(identity.ConsumerWireGuard, "wg0"); string(got) != private+"\n" {
		t.Error("what could not be read replaced what was there")
	}
}
