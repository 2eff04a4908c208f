package xen

import (
	"context"
	"fmt"
	"testing"
	"time"

	"rempart/builder/hypervisor/xen"
	"rempart/test/rig"
)

// TestFigures prints how soon the same firewall is READY as a guest of Xen and of QEMU alone, and in how much memory it
// still gets there. Xen and its dom0 are software themselves here, so what counts is the guest's own clock.
func TestFigures(t *testing.T) {
	demand(t, everything)
	theHost(t)
	installScript(t)
	const mib = 1 << 20
	least := world.jumbo.Profile.Memory
	for _, mode := range []xen.Mode{xen.PV, xen.PVH} {
		floor := int64(0)
		for memory := least; memory > 0; memory -= 8 * mib {
			g := newJumbo(fmt.Sprintf("f%s%d", mode, memory/mib), mode)
			g.Memory = memory
			began := time.Now()
			create(t, g)
			// One that has too little either panics, which ends it, or crawls.
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			r, err := toolstack().Await(ctx, g.Name)
			cancel()
			clean(t, g.Name)
			if err != nil {
				t.Logf("%s in %d MiB: %v", mode, memory/mib, err)
				break
			}
			floor = memory
			t.Logf("%s in %d MiB: READY after %.1f s by the guest's clock, %.0f s by the host's; %d MiB of %d available", mode,
				memory/mib, r.Times.Ready, time.Since(began).Seconds(), r.Memory.Available/mib, r.Memory.Total/mib)
		}
		t.Logf("%s: the least memory is %d MiB", mode, floor/mib)
		if floor == 0 {
			t.Errorf("%s: not READY in the %d MiB its profile asks for", mode, least/mib)
		}
	}
	g := world.jumbo.Boot(t, rig.Options{Memory: least, Patience: patience})
	r := g.AwaitReady()
	t.Logf("QEMU alone in %d MiB: READY after %.1f s by the guest's clock; %d MiB of %d available", least/mib,
		r.Times.Ready, r.Memory.Available/mib, r.Memory.Total/mib)
	g.PowerOff()
}
