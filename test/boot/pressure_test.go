package boot

import (
	"os"
	"strings"
	"testing"
	"time"

	"rempart/firstboot/contract"
	"rempart/test/rig"
)

// TestMemoryPressure lets a child take all memory of a small guest: the kernel ends that child and not PID 1, the
// policy stays loaded, and the guest is READY again.
func TestMemoryPressure(t *testing.T) {
	if os.Getenv("REMPART_PRESSURE") == "" {
		t.Skip("SKIPPED, NOT PASSED: in software a guest without memory reads and verifies its programs again for minutes, " +
			"sometimes without end, before the kernel kills; REMPART_PRESSURE=1 runs this")
	}
	m := rig.Build(t, profile)
	// Without swap the kernel first throws out, and reads and verifies again, every page of every program before it
	// kills: in software that takes minutes.
	const patience = 8 * time.Minute
	g := m.Boot(t, rig.Options{Memory: 96 << 20, Append: contract.KeyInject + "=hog:policy", Patience: patience})
	g.AwaitReady()
	r := g.Await("the hungry child to be killed and back", func(r contract.Report) bool {
		c := childOf(r, "policy")
		if r.Policy != "loaded" {
			t.Errorf("policy = %q while memory was short", r.Policy)
		}
		return r.Ready && c.Restarts > 0 && c.State == "ready"
	})
	if c := childOf(r, "policy"); !strings.Contains(c.Last, "SIGKILL") {
		t.Errorf("the hungry child ended by %q; want the kernel's SIGKILL", c.Last)
	}
	console := g.ConsoleText()
	if !strings.Contains(console, "Out of memory: Killed process") || strings.Contains(console, "Kernel panic") {
		t.Errorf("want the kernel to have run out of memory and lived:\n%s", console)
	}
	for _, c := range r.Children {
		t.Logf("%s: %d restarts %s", c.Name, c.Restarts, c.Last)
	}
	g.PowerOff() // in order: PID 1 is there
	e2fsck(t, g.State)
}
