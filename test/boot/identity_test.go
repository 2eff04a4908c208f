package boot

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"rempart/builder/guest"
	"rempart/builder/hypervisor"
	"rempart/firstboot/contract"
	"rempart/test/rig"
)

// TestIdentity gives a guest an identity, by every way to boot: its name and the hardware addresses of its links are
// those of the identity, although the NICs are attached the other way round, and nothing secret is said anywhere.
func TestIdentity(t *testing.T) {
	t.Parallel()
	m := rig.Build(t, profile)
	disk := filepath.Join(t.TempDir(), "identity.raw")
	id, err := guest.EnsureIdentity(disk, "fw-2", m.Profile, []byte("ssh-ed25519 AAAA\n"))
	if err != nil {
		t.Fatal(err)
	}
	// The rig gives NICs the addresses of the profile's name, in the order of the links: here the first link is to have
	// the last one's.
	macs := hypervisor.MACs(m.Profile.Name, m.Manifest.Links)
	want := map[string]string{}
	for i, name := range m.Manifest.Links {
		want[name] = macs[len(macs)-1-i].String()
		for j := range id.Links {
			if id.Links[j].Name == name {
				id.Links[j].MAC = want[name]
			}
		}
	}
	id.SetSecret("wireguard", "wg0", []byte("hunter2"))
	if err := guest.WriteIdentity(disk, id); err != nil {
		t.Fatal(err)
	}
	for _, firmware := range hypervisor.Firmwares() {
		if !firmware.TakesIdentity() {
			continue // rempart does not offer it one
		}
		t.Run(string(firmware), func(t *testing.T) {
			g := m.Boot(t, rig.Options{Firmware: firmware, Identity: disk, Memory: budget(firmware)})
			r := g.AwaitReady()
			if r.Name != "fw-2" {
				t.Errorf("the guest calls itself %s; want fw-2", r.Name)
			}
			for _, l := range r.Links {
				if l.MAC != want[l.Name] {
					t.Errorf("link %s has the MAC %s; want %s", l.Name, l.MAC, want[l.Name])
				}
			}
			if strings.Contains(g.ConsoleText(), "hunter2") || strings.Contains(g.ConsoleText(), "PRIVATE KEY") {
				t.Error("a secret is on the console")
			}
			t.Logf("READY at %.2f s of guest time with an identity", r.Times.Ready)
			g.PowerOff()
		})
	}
}

// TestIdentityBroken: a guest whose identity cannot be read says so and opens nothing.
func TestIdentityBroken(t *testing.T) {
	t.Parallel()
	m := rig.Build(t, profile)
	disk := filepath.Join(t.TempDir(), "identity.raw")
	if _, err := guest.EnsureIdentity(disk, "fw-2", m.Profile, nil); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(disk)
	if err != nil {
		t.Fatal(err)
	}
	b[100] ^= 1
	if err := os.WriteFile(disk, b, 0o600); err != nil {
		t.Fatal(err)
	}
	g := m.Boot(t, rig.Options{Identity: disk})
	r := g.Await("the verdict on a broken identity", func(r contract.Report) bool { return r.Settled })
	if r.Ready || r.Policy != "none" {
		t.Errorf("READY %v with policy %s and a broken identity; want neither", r.Ready, r.Policy)
	}
	for _, l := range r.Links {
		if l.Up {
			t.Errorf("link %s is up without a policy", l.Name)
		}
	}
	g.AwaitConsole("bytes of it have changed")
	g.PowerOff()
}
