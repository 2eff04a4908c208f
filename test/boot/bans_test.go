package boot

import (
	"testing"

	"rempart/test/rig"
)

// TestBansAndMergedLines: the kernel of a guest takes the ban table, and hashes and ranges of addresses with ports.
func TestBansAndMergedLines(t *testing.T) {
	m := rig.Build(t, "testdata/bans.yaml")
	g := m.Boot(t, rig.Options{})
	if r := g.AwaitReady(); r.Policy != "loaded" {
		t.Errorf("the policy is %s; want loaded", r.Policy)
	}
	g.PowerOff()
}
