package xen

import (
	"context"
	"fmt"
	"strings"
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
	var side []string
	for _, mode := range xen.Modes() {
		floor, bound := int64(0), patience
		if mode == xen.HVM {
			bound *= 4
		}
		for memory := least; memory > 0; memory -= 8 * mib {
			g := newJumbo(fmt.Sprintf("f%s%d", mode, memory/mib), mode)
			g.Memory = memory
			began := time.Now()
			create(t, g)
			// One that has too little either panics, which ends it, or crawls.
			ctx, cancel := context.WithTimeout(t.Context(), bound)
			r, err := toolstack().Await(ctx, g.Name)
			cancel()
			clean(t, g.Name)
			took := time.Since(began)
			if err != nil {
				t.Logf("%s in %d MiB, within %v: %v", mode, memory/mib, bound, err)
				break
			}
			t.Logf("%s in %d MiB: READY after %.1f s by the guest's clock, %.0f s by the host's; %d MiB of %d available", mode,
				memory/mib, r.Times.Ready, took.Seconds(), r.Memory.Available/mib, r.Memory.Total/mib)
			if floor = memory; memory == least {
				side = append(side, fmt.Sprintf("%s %.1f s", mode, r.Times.Ready))
				bound = min(bound, 4*took+time.Minute)
			}
			if mode == xen.HVM {
				break // its kernel comes through the firmware: many minutes each time
			}
		}
		if floor == 0 {
			t.Errorf("%s: not READY in the %d MiB its profile asks for", mode, least/mib)
		}
		if mode != xen.HVM {
			t.Logf("%s: the least memory is %d MiB", mode, floor/mib)
		}
	}
	g := world.jumbo.Boot(t, rig.Options{Memory: least, Patience: patience})
	r := g.AwaitReady()
	g.PowerOff()
	t.Logf("READY in %d MiB by the guest's clock: %s, QEMU alone %.1f s; there %d MiB of %d are available", least/mib,
		strings.Join(side, ", "), r.Times.Ready, r.Memory.Available/mib, r.Memory.Total/mib)
}
