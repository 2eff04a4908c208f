package boot

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"rempart/firstboot/contract"
	"rempart/firstboot/logging/segment"
	"rempart/test/rig"
)

// stored reads a guest's log from its state disk, from outside and after the guest.
func stored(t *testing.T, disk string) (all []segment.Entry) {
	t.Helper()
	for line := range strings.Lines(debugfs(t, disk, "ls -p log/rempart", false)) {
		// "/INODE/MODE/UID/GID/NAME/SIZE/"
		f := strings.Split(strings.TrimSpace(line), "/")
		if len(f) < 6 || !strings.HasSuffix(f[5], ".log") {
			continue
		}
		if f[3] != fmt.Sprint(contract.UIDLog) {
			t.Errorf("segment %s belongs to user %s; want %d", f[5], f[3], contract.UIDLog)
		}
		for line := range strings.Lines(debugfs(t, disk, "cat log/rempart/"+f[5], false)) {
			e, err := segment.Parse(strings.TrimSuffix(line, "\n"))
			if err != nil {
				if !strings.HasPrefix(line, "debugfs") {
					t.Errorf("%q: %v", line, err)
				}
				continue
			}
			all = append(all, e)
		}
	}
	return all
}

// TestLog: what a guest says is on its state disk afterwards, over an orderly end, a power cut and a killed log child,
// numbered without a gap, and no line of the kernel twice.
func TestLog(t *testing.T) {
	t.Parallel()
	m := rig.Build(t, profile)
	disk := filepath.Join(t.TempDir(), "state.raw")
	if err := rig.Blank(disk, m.Profile.State.Size); err != nil {
		t.Fatal(err)
	}
	g := m.Boot(t, rig.Options{State: disk})
	r := g.AwaitReady()
	before := childOf(r, "log")
	g.Order("kill log KILL")
	g.Await("the log child to be back", func(r contract.Report) bool {
		c := childOf(r, "log")
		return r.Ready && c.Restarts > before.Restarts && c.State == "ready"
	})
	g.PowerOff()
	first := stored(t, disk)
	check := func(entries []segment.Entry, want map[string]int) {
		t.Helper()
		seen := map[string]int{}
		for i, e := range entries {
			if e.Number != uint64(i+1) {
				t.Fatalf("entry %d has number %d", i+1, e.Number)
			}
			for text := range want {
				if strings.Contains(e.From+": "+e.Text, text) {
					seen[text]++
				}
			}
		}
		for text, n := range want {
			if seen[text] != n {
				t.Errorf("the log says %q %d times; want %d", text, seen[text], n)
			}
		}
	}
	check(first, map[string]int{
		"kernel: Linux version": 1, // the first the kernel says, long before there is a log
		"kernel: Run /init as":  1,
		// What the killed child had taken and not kept yet is gone; what was said once it was dead is not.
		"init: child ended":         1,
		"init: stopping: power off": 1,
	})
	// Each log child was told; what the first one noted may have been gone with it.
	if !slices.ContainsFunc(first, func(e segment.Entry) bool { return e.From == "health" && e.Text == "READY" }) {
		t.Error("the log does not say that the guest was READY")
	}

	g = m.Boot(t, rig.Options{State: disk})
	g.AwaitReady()
	g.Order("kill health STOP") // an entry to wait for
	g.AwaitConsole("child was sent a signal")
	g.Order("kill log TERM") // which makes it keep all it has
	g.Await("the log child to be back", func(r contract.Report) bool { return childOf(r, "log").Restarts > 0 })
	g.Cut()
	// debugfs reads past the journal, which holds what was written last.
	if out, err := exec.Command("/sbin/e2fsck", "-p", disk).CombinedOutput(); err != nil {
		t.Errorf("e2fsck -p after a power cut: %v\n%s", err, out)
	}
	second := stored(t, disk)
	check(second, map[string]int{"kernel: Linux version": 2, "init: stopping: power off": 1})
	if len(second) <= len(first) {
		t.Errorf("after the second run the log has %d entries, after the first %d", len(second), len(first))
	}
}
