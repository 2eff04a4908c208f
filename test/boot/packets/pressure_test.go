package packets

import (
	"testing"
	"time"

	"rempart/firstboot/contract"
	"rempart/test/rig"
)

// TestMemoryPressure lets what loads the policy, and then what holds the links, take all the memory they can get of the
// smallest guest: both are killed and come back, established connections live on, and nothing that is forbidden passes.
func TestMemoryPressure(t *testing.T) {
	t.Parallel()
	m := rig.Build(t, home)
	w := newHome(t, m)
	knocking := w.knock(t, homeKnocks())
	// The link child is ready after the policy child is, and so hungry after it.
	const hungry = contract.KeyInject + "=hog:policy,hog:link,slow:policy:"
	g := m.Boot(t, rig.Options{Memory: 96 << 20, Backends: w.backends(), Append: hungry + slow.String()})
	g.AwaitConsole("made slow by the kernel command line")
	opened := time.Now().Add(slow / 2)
	talking := func(r contract.Report) bool { return linkUp(r) && r.Policy == "loaded" }
	g.Await("the links", talking)
	talks := []*talk{
		w.talk(t, "dmz", "198.51.100.7:80", "192.168.0.101"),
		w.talk(t, "internet", "192.168.0.101:443", "192.168.0.101"),
	}
	r := g.Await("both to be killed and back", func(r contract.Report) bool {
		return r.Ready && restarts(r, "policy") > 0 && restarts(r, "link") > 0
	})
	if r.Policy != "loaded" || len(r.Failures) > 0 {
		t.Errorf("policy %q, failures %q; want loaded and none", r.Policy, r.Failures)
	}
	for _, k := range talks {
		k.more(t, 5)
	}
	knocking.more(2)
	t.Run("truth", func(t *testing.T) { w.truth(t, homeTruth()) })
	g.PowerOff()
	knocking.end()
	knocking.judge(t, opened)
}
