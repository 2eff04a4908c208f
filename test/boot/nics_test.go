package boot

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"rempart/builder/hypervisor"
	"rempart/firstboot/contract"
	"rempart/test/rig"
)

// manyNICs is how many the host of the largest known deployment has, and all the slots QEMU's q35 has for them.
const manyNICs = 24

// TestManyNICs boots a guest with 24 NICs: every one is the link it is by its place on the bus, four of them are a bond
// and four a bridge.
func TestManyNICs(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	b.WriteString("rempart: 1\nname: many\nadmin: none\nlinks:\n")
	var zone []string
	for i := range manyNICs {
		if i < 8 {
			fmt.Fprintf(&b, "  nic%d: {}\n", i)
			continue
		}
		fmt.Fprintf(&b, "  nic%d: {address: 10.0.%d.1/24}\n", i, i)
		zone = append(zone, fmt.Sprint("nic", i))
	}
	b.WriteString("  lag: {bond: {members: [nic0, nic1, nic2, nic3]}, address: 10.1.0.1/24}\n")
	b.WriteString("  br: {bridge: {members: [nic4, nic5, nic6, nic7]}, address: 10.2.0.1/24}\n")
	fmt.Fprintf(&b, "zones: {inside: [lag, br, %s]}\n", strings.Join(zone, ", "))
	profile := filepath.Join(t.TempDir(), "many.yaml")
	if err := os.WriteFile(profile, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	m := rig.Build(t, profile)
	g := m.Boot(t, rig.Options{})
	r := g.AwaitReady()
	t.Logf("READY at %.2f s of guest time with %d NICs, links at %.2f s; %d MiB available", r.Times.Ready, manyNICs,
		r.Times.Links, r.Memory.Available>>20)
	if len(m.Manifest.Links) != manyNICs || len(r.Links) != manyNICs+2 || len(r.Failures)+len(r.Warnings) > 0 {
		t.Errorf("%d NICs, report %+v; want %d NICs, two links more, and all well", len(m.Manifest.Links), r, manyNICs)
	}
	for i, mac := range hypervisor.MACs(m.Profile.Name, m.Manifest.Links) {
		if i < 4 {
			mac = hypervisor.MACs(m.Profile.Name, m.Manifest.Links)[0] // a bond's members use its first one's
		}
		name := fmt.Sprint("nic", i)
		if !slices.ContainsFunc(r.Links, func(l contract.LinkReport) bool {
			return l.Name == name && l.MAC == mac.String() && l.Up
		}) {
			t.Errorf("links = %+v; want %s up with %s", r.Links, name, mac)
		}
	}
	g.PowerOff()
}
