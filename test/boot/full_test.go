package boot

import (
	"context"
	"slices"
	"strings"
	"testing"

	"rempart/builder/hypervisor"
	"rempart/firstboot/contract"
	"rempart/test/rig"
)

// TestFullKernel boots Debian's generic kernel beside a virtio NIC, and plugs an e1000e in while it runs: the cloud
// kernel has no driver for it, and nothing has loaded the generic one's before. The profile finds it by that driver.
func TestFullKernel(t *testing.T) {
	t.Parallel()
	m := rig.Build(t, "testdata/full.yaml")
	if strings.Contains(m.Manifest.Master.Kernel, "cloud") {
		t.Fatalf("the kernel is %s; want the generic one", m.Manifest.Master.Kernel)
	}
	macs := hypervisor.MACs(m.Profile.Name, m.Manifest.Links)
	mac := macs[slices.Index(m.Manifest.Links, "wan")].String()
	g := m.Boot(t, rig.Options{NICs: 1, Chipset: "pc"}) // whose root bus takes devices while it runs
	wan := func(r contract.Report) (l contract.LinkReport) {
		if at := slices.IndexFunc(r.Links, func(l contract.LinkReport) bool { return l.Name == "wan" }); at >= 0 {
			l = r.Links[at]
		}
		return l
	}
	r := g.Await("the guest's verdict without wan", func(r contract.Report) bool { return r.Settled })
	if r.Ready || wan(r).Error == "" || wan(r).Up {
		t.Errorf("report %+v; want wan missing", r)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*rig.Patience)
	defer cancel()
	for _, order := range []struct {
		command   string
		arguments map[string]any
	}{
		{"netdev_add", map[string]any{"type": "hubport", "id": "hot", "hubid": 100}},
		{"device_add", map[string]any{"driver": "e1000e", "id": "hot-device", "netdev": "hot", "mac": mac, "romfile": ""}},
	} {
		if err := g.Monitor().Execute(ctx, order.command, order.arguments, nil); err != nil {
			t.Fatalf("%s %v: %v", order.command, order.arguments, err)
		}
	}
	r = g.AwaitReady()
	t.Logf("READY at %.2f s of guest time, %d of %d MiB available", r.Times.Ready, r.Memory.Available>>20,
		r.Memory.Total>>20)
	if got := wan(r); got.MAC != mac || !got.Up || len(r.Failures)+len(r.Warnings) > 0 {
		t.Errorf("report %+v; want wan up with %s and all well", r, mac)
	}
	g.PowerOff()
}
