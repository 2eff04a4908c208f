package boot

import (
	"slices"
	"strings"
	"testing"

	"rempart/builder/hypervisor"
	"rempart/firstboot/contract"
	"rempart/test/rig"
)

// TestFullKernel boots Debian's generic kernel with an e1000e beside a virtio NIC: the cloud kernel has no driver for
// it. The profile finds it by that driver.
func TestFullKernel(t *testing.T) {
	t.Parallel()
	m := rig.Build(t, "testdata/full.yaml")
	if strings.Contains(m.Manifest.Master.Kernel, "cloud") {
		t.Fatalf("the kernel is %s; want the generic one", m.Manifest.Master.Kernel)
	}
	macs := hypervisor.MACs(m.Profile.Name, m.Manifest.Links)
	mac := macs[slices.Index(m.Manifest.Links, "wan")].String()
	g := m.Boot(t, rig.Options{Sed: "/" + mac + "/s/^virtio-net-pci/e1000e/"})
	r := g.AwaitReady()
	t.Logf("READY at %.2f s of guest time, %d of %d MiB available", r.Times.Ready, r.Memory.Available>>20,
		r.Memory.Total>>20)
	at := slices.IndexFunc(r.Links, func(l contract.LinkReport) bool { return l.Name == "wan" })
	if at < 0 || r.Links[at].MAC != mac || !r.Links[at].Up || len(r.Failures)+len(r.Warnings) > 0 {
		t.Errorf("report %+v; want wan up with %s and all well", r, mac)
	}
	g.PowerOff()
}
