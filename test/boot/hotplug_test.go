package boot

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"rempart/builder/hypervisor"
	"rempart/firstboot/contract"
	"rempart/test/rig"
)

// TestHotplug boots a guest that lacks a NIC, plugs it in, pulls it out and plugs it in again. The link, and the VLAN
// on it, come and go with it; the other link never notices. QEMU puts what is plugged into the first free slot, before
// the NIC that is there: it is told apart by the MAC its link gave it, not by the bus.
func TestHotplug(t *testing.T) {
	t.Parallel()
	m := rig.Build(t, "testdata/hotplug.yaml")
	macs := hypervisor.MACs(m.Profile.Name, m.Manifest.Links)
	// The PC's root bus takes devices while it runs; q35's does not.
	g := m.Boot(t, rig.Options{NICs: 1, Chipset: "pc",
		Sed: "s/mac=" + macs[0].String() + "/mac=" + macs[1].String() + "/"})
	link := func(r contract.Report, name string) contract.LinkReport {
		at := slices.IndexFunc(r.Links, func(l contract.LinkReport) bool { return l.Name == name })
		if at < 0 {
			return contract.LinkReport{Error: "not reported"}
		}
		return r.Links[at]
	}
	gone := func(r contract.Report) bool {
		return !r.Ready && link(r, "late").Error != "" && strings.Contains(link(r, "up").Error, "waiting for link late")
	}
	lan := contract.LinkReport{Name: "lan", MAC: macs[1].String(), Up: true,
		Addresses: []string{"10.8.0.1/24", "fd00:8::1/64"}}
	steady := func(r contract.Report, when string) {
		t.Helper()
		got := link(r, "lan")
		if got.Error != "" || !got.Up || got.MAC != lan.MAC || !slices.Equal(got.Addresses, lan.Addresses) {
			t.Errorf("%s: lan is %+v; want %+v", when, got, lan)
		}
	}
	r := g.Await("lan up and late missing", func(r contract.Report) bool {
		return gone(r) && link(r, "lan").Up && len(link(r, "lan").Addresses) == 2 && link(r, "lan").Error == ""
	})
	steady(r, "without late")
	index := strings.Count(g.ConsoleText(), "lan: down")

	ctx, cancel := context.WithTimeout(t.Context(), 2*rig.Patience)
	defer cancel()
	order := func(command string, arguments map[string]any) {
		t.Helper()
		if err := g.Monitor().Execute(ctx, command, arguments, nil); err != nil {
			t.Fatalf("%s %v: %v", command, arguments, err)
		}
	}
	for round := range 2 {
		id := fmt.Sprint("hot", round)
		order("netdev_add", map[string]any{"type": "hubport", "id": id, "hubid": 100 + round})
		order("device_add", map[string]any{"driver": "virtio-net-pci", "id": id + "-device", "netdev": id,
			"mac": macs[0].String(), "romfile": ""})
		r = g.AwaitReady()
		steady(r, "with late")
		if got := link(r, "late"); got.MAC != macs[0].String() {
			t.Errorf("late is %+v; want %s", got, macs[0])
		}
		order("device_del", map[string]any{"id": id + "-device"})
		r = g.Await("late to be reported missing", gone)
		steady(r, "after late was pulled")
	}
	if n := strings.Count(g.ConsoleText(), "lan: down"); n != index {
		t.Errorf("lan went down %d times while late came and went; want never", n-index)
	}
	g.PowerOff()
}
