package boot

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"rempart/builder/hypervisor/qemu"
	"rempart/firstboot/contract"
	"rempart/firstboot/state"
	"rempart/test/rig"
)

// clean holds what a stop must leave on a state disk: a filesystem that was unmounted, with nothing to replay.
func clean(t *testing.T, disk string) {
	t.Helper()
	out, err := exec.Command("/sbin/dumpe2fs", "-h", disk).CombinedOutput()
	if err != nil {
		t.Fatalf("dumpe2fs: %v\n%s", err, out)
	}
	said := string(out)
	if !strings.Contains(said, "Filesystem state:         clean\n") || strings.Contains(said, "needs_recovery") {
		t.Errorf("the state disk was not unmounted in order:\n%s", out)
	}
	e2fsck(t, disk)
}

// TestStop ends guests by the host's orders. Children end in the reverse order of their start; one that does not hear
// is killed; the state disk is left clean.
func TestStop(t *testing.T) {
	t.Parallel()
	m := rig.Build(t, profile)
	disk := filepath.Join(t.TempDir(), "state.raw")
	if err := rig.Blank(disk, m.Profile.State.Size); err != nil {
		t.Fatal(err)
	}
	g := m.Boot(t, rig.Options{State: disk})
	g.AwaitReady()
	g.Await("the scrub to be done", func(r contract.Report) bool { return childOf(r, "scrub").State == "done" })
	g.Order("kill link STOP") // a stopped process gets SIGTERM only when it goes on
	g.AwaitConsole("child was sent a signal, as the host asked child=\"link\" signal=\"SIGSTOP\"")
	g.Order("poweroff")
	if end := g.AwaitEnd(); end.Cause != qemu.PoweredOff {
		t.Errorf("after poweroff the guest ended by %+v; want %q", end, qemu.PoweredOff)
	}
	for _, want := range []string{`child did not stop in time: killed child="link"`,
		`children stopped in_order="ssh link policy admin control health log"`} {
		if !strings.Contains(g.ConsoleText(), want) {
			t.Errorf("the console does not say %s:\n%s", want, g.ConsoleText())
		}
	}
	clean(t, disk)

	g = m.Boot(t, rig.Options{State: disk})
	if r := g.AwaitReady(); r.State.Action != state.Mounted {
		t.Errorf("state = %+v; want it mounted", r.State)
	}
	g.Order("reboot")
	if end := g.AwaitEnd(); end.Cause != qemu.Reset {
		t.Errorf("after reboot the guest ended by %+v; want %q", end, qemu.Reset)
	}
	clean(t, disk)
	rig.Honest(t, disk)
	plant(t, disk)
}
