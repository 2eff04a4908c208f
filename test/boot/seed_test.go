package boot

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"rempart/firstboot/contract"
	"rempart/test/rig"
)

// noGenerator puts a memory balloon where the random number generator would be.
const noGenerator = `s/^virtio-rng-\(.*\),rng=random/virtio-balloon-\1/`

// seedOn reads the random seed off a state disk nobody uses.
func seedOn(t *testing.T, disk string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "seed")
	debugfs(t, disk, "dump lib/rempart/seed "+name, false)
	b, err := os.ReadFile(name)
	if err != nil || len(b) == 0 {
		t.Fatalf("there is no random seed on the state disk: %v", err)
	}
	return string(b)
}

// TestSeed boots without any random number generator: the guest becomes READY, leaves a seed, uses it once at the next
// start, and leaves another at once, so that even a power cut does not make it use one twice.
func TestSeed(t *testing.T) {
	t.Parallel()
	m := rig.Build(t, profile)
	disk := filepath.Join(t.TempDir(), "state.raw")
	if err := rig.Blank(disk, m.Profile.State.Size); err != nil {
		t.Fatal(err)
	}
	const used = "the random seed of the last run was used"
	g := m.Boot(t, rig.Options{State: disk, Sed: noGenerator})
	r := g.AwaitReady()
	t.Logf("READY without a generator at %.2f s", r.Times.Ready)
	g.AwaitConsole("a random seed was left for the next start")
	g.PowerOff()
	if strings.Contains(g.ConsoleText(), used) {
		t.Error("a seed was used at the first start")
	}
	first := seedOn(t, disk)
	if out := debugfs(t, disk, "stat lib/rempart/seed", false); !strings.Contains(out, "Mode:  0600") ||
		!strings.Contains(out, "User:     0   Group:     0") {
		t.Errorf("the seed on state is\n%s\nwant it root's and mode 0600", out)
	}
	g = m.Boot(t, rig.Options{State: disk, Sed: noGenerator})
	g.AwaitConsole(used)
	r = g.AwaitReady()
	t.Logf("READY without a generator, with a seed, at %.2f s", r.Times.Ready)
	g.Cut()
	replay(t, disk)
	if second := seedOn(t, disk); second == first {
		t.Error("after a power cut the seed that was used is still there")
	}
}

// TestNoChannelNoState boots without a control channel and without the state disk the profile declares: the console
// says what is missing, and what does not need it works.
func TestNoChannelNoState(t *testing.T) {
	t.Parallel()
	m := rig.Build(t, profile)
	g := m.Boot(t, rig.Options{State: "none", Sed: "s/name=" + contract.ControlPort + "/name=somebody.else/"})
	g.AwaitConsole("the hypervisor offers no control channel")
	g.AwaitConsole("\n" + contract.FailedPrefix) // the profile declares state
	g.AwaitConsole("/var is in memory and will be lost")
	g.PowerOff()
	if console := g.ConsoleText(); !strings.Contains(console, "policy: loaded") {
		t.Errorf("without a control channel and a state disk the policy is not loaded:\n%s", console)
	}
	if _, heard := g.Report(); heard {
		t.Error("a report came through a channel that is not there")
	}
}
