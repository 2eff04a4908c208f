package boot

import (
	"strings"
	"testing"

	"rempart/firstboot/contract"
	"rempart/test/rig"
)

// pressed is the RAM of guests that run out of it: the least that home-firewall is promised to run in.
const pressed = 96 << 20

// TestMemoryPressure lets the child that loads the policy take all it can get of a small guest: the kernel ends it when
// it outgrows its control group, and nobody else; the policy stays loaded and the guest READY.
func TestMemoryPressure(t *testing.T) {
	t.Parallel()
	m := rig.Build(t, profile)
	g := m.Boot(t, rig.Options{Memory: pressed, Append: contract.KeyInject + "=hog:policy"})
	g.AwaitReady()
	r := g.Await("the hungry child to be killed and back", func(r contract.Report) bool {
		c := childOf(r, "policy")
		if r.Policy != "loaded" {
			t.Errorf("policy = %q while memory was short", r.Policy)
		}
		return r.Ready && c.Restarts > 0 && c.State == "ready"
	})
	for _, c := range r.Children {
		switch {
		case c.Name == "policy" && (c.Restarts != 1 || !strings.Contains(c.Last, "SIGKILL: memory ran out")):
			t.Errorf("the hungry child was restarted %d times, the last because %q; want once, when memory ran out",
				c.Restarts, c.Last)
		case c.Name != "policy" && c.Restarts > 0:
			t.Errorf("%s, which took nothing, ended: %s", c.Name, c.Last)
		}
	}
	if strings.Contains(g.ConsoleText(), "] Out of memory: Killed process") {
		t.Error("the kernel ran out of memory as a whole, although only one child took more than its own")
	}
	judgePressure(t, g)
}

// TestEveryChildTakesAllMemory lets every child with work to do take all it can get, the daemons at the same moment.
// Together they reach the bound of all children, where one that takes nothing (any more) may be ended for another.
func TestEveryChildTakesAllMemory(t *testing.T) {
	t.Parallel()
	m := rig.Build(t, profile)
	hungry := append([]string{"state", "admin", "ssh", "scrub"}, daemons...)
	g := m.Boot(t, rig.Options{Memory: pressed, Append: contract.KeyInject + "=hog:" + strings.Join(hungry, ",hog:")})
	r := g.Await("every hungry child to be killed and back", func(r contract.Report) bool {
		for _, name := range hungry {
			if childOf(r, name).Restarts == 0 {
				return false
			}
		}
		return r.Ready && r.Policy == "loaded" && r.Root.Scrubbed
	})
	for _, c := range r.Children {
		t.Logf("%s: %d restarts, the last: %s", c.Name, c.Restarts, c.Last)
	}
	judgePressure(t, g)
}

// judgePressure demands that the kernel killed for a control group's sake, and that PID 1 lives: it ends the guest in
// order.
func judgePressure(t *testing.T, g *rig.Guest) {
	t.Helper()
	console := g.ConsoleText()
	if !strings.Contains(console, "Memory cgroup out of memory: Killed process") {
		t.Errorf("the kernel did not kill for a control group's sake:\n%s", console)
	}
	if strings.Contains(console, "Kernel panic") {
		t.Errorf("the kernel panicked:\n%s", console)
	}
	g.PowerOff()
	e2fsck(t, g.State)
}
