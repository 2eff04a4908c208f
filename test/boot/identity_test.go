package boot

import (
	"os"
	"path/filepath"
	"slices"
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

// TestInstances boots two guests of one generic master: what their profile leaves to the identity disk makes them
// different, policy and all, and a third one without any stays closed there and says what it lacks.
func TestInstances(t *testing.T) {
	m := rig.Build(t, filepath.Join(rig.Top(), "test/boot/testdata/instance.yaml"))
	for name, x := range map[string]struct{ address, gateway string }{
		"gw-1": {"192.0.2.7/24", "192.0.2.1"},
		"gw-2": {"198.51.100.9/32", "203.0.113.1"}, // a gateway outside the subnet, as hosters have them
	} {
		t.Run(name, func(t *testing.T) {
			disk := filepath.Join(t.TempDir(), "identity.raw")
			id, err := guest.EnsureIdentity(disk, name, m.Profile, nil)
			if err == nil {
				err = guest.SetAddresses(id, m.Profile, []string{"wan=" + x.address}, []string{"wan=" + x.gateway})
			}
			if err == nil {
				err = guest.WriteIdentity(disk, id)
			}
			if err != nil {
				t.Fatal(err)
			}
			for i := range id.Links { // the rig's NICs are those of the profile's name
				id.Links[i].MAC = hypervisor.MACs(m.Profile.Name, m.Manifest.Links)[i].String()
			}
			if err := guest.WriteIdentity(disk, id); err != nil {
				t.Fatal(err)
			}
			g := m.Boot(t, rig.Options{Identity: disk})
			r := g.AwaitReady()
			if r.Name != name || len(r.Links) == 0 || !slices.Contains(r.Links[0].Addresses, x.address) {
				t.Errorf("the guest is %s with %+v; want %s with %s", r.Name, r.Links, name, x.address)
			}
			_, out, _ := g.Ctl(nil, "routes")
			if !strings.Contains(out, x.gateway) {
				t.Errorf("routes are\n%s\nwant a default by %s", out, x.gateway)
			}
			g.PowerOff()
		})
	}
	g := m.Boot(t, rig.Options{})
	r := g.Await("the verdict on a guest without its values", func(r contract.Report) bool { return r.Settled })
	if r.Ready || !strings.Contains(strings.Join(r.Failures, "\n"), "--address wan=") {
		t.Errorf("without an identity READY is %v and the failures are %q; want the link that lacks an address", r.Ready,
			r.Failures)
	}
	g.PowerOff()
}
