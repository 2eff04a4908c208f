package boot

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"rempart/firstboot/contract"
	"rempart/firstboot/state"
	"rempart/test/rig"
)

// formatted makes a state disk on the host, in the way the guest does.
func formatted(t *testing.T, size int64) string {
	t.Helper()
	disk := filepath.Join(t.TempDir(), "state.raw")
	if err := rig.Blank(disk, size); err != nil {
		t.Fatal(err)
	}
	tools := state.Tools{Mke2fs: "/sbin/mke2fs", E2fsck: "/sbin/e2fsck",
		Log: slog.New(slog.NewTextHandler(io.Discard, nil))}
	if r := tools.Prepare(context.Background(), disk, size); r.Action != state.Formatted {
		t.Fatalf("formatting a state disk of %d bytes: %+v", size, r)
	}
	return disk
}

// awaitStateFailure waits for the verdict about a state disk that cannot be used: the guest has FAILED with words, and
// its policy holds.
func awaitStateFailure(t *testing.T, g *rig.Guest, action string, words ...string) {
	t.Helper()
	r := g.Await("a verdict about the state disk", func(r contract.Report) bool {
		return r.Settled && r.State.Action == action
	})
	said := strings.Join(r.Failures, "\n")
	for _, word := range words {
		if !strings.Contains(said, word) {
			t.Errorf("failures %q; want them to say %q", r.Failures, word)
		}
	}
	if r.Ready || r.Policy != "loaded" || r.State.Device != "" {
		t.Errorf("report = %+v; want it not READY, the policy loaded and /var in memory", r)
	}
	for _, l := range r.Links {
		if !l.Up {
			t.Errorf("link %s is down because of the state disk", l.Name)
		}
	}
	g.AwaitConsole("\n" + contract.FailedPrefix)
	g.PowerOff()
}

// TestUnusableState shows guests whose state disk is too small, or attached read-only: they say so, and filter.
func TestUnusableState(t *testing.T) {
	t.Parallel()
	m := rig.Build(t, profile)
	t.Run("too small", func(t *testing.T) {
		disk := filepath.Join(t.TempDir(), "state.raw")
		if err := rig.Blank(disk, state.MinSize/2); err != nil {
			t.Fatal(err)
		}
		before := digest(t, disk)
		awaitStateFailure(t, m.Boot(t, rig.Options{State: disk}), state.FailedDisk, "8388608 bytes", "at least 16777216")
		if digest(t, disk) != before {
			t.Error("a disk that is too small was written to")
		}
	})
	t.Run("read-only", func(t *testing.T) {
		disk := formatted(t, 32<<20)
		before := digest(t, disk)
		g := m.Boot(t, rig.Options{State: disk, Sed: "/node-name=state/s/discard=unmap/read-only=on/"})
		awaitStateFailure(t, g, state.FailedDisk, "attached read-only; attach it writable")
		if digest(t, disk) != before {
			t.Error("a read-only disk was written to")
		}
	})
}

// TestFullState boots on a state disk without a free block: everything that needs none works, and the guest says what
// does not.
func TestFullState(t *testing.T) {
	t.Parallel()
	m := rig.Build(t, profile)
	disk := formatted(t, 32<<20)
	ballast := filepath.Join(t.TempDir(), "ballast")
	// debugfs leaves holes for zeros; of the rest it writes what fits.
	if err := os.WriteFile(ballast, bytes.Repeat([]byte("x"), 32<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("/sbin/debugfs", "-w", "-R", fmt.Sprintf("write %s ballast", ballast), disk).CombinedOutput()
	if err != nil {
		t.Fatalf("debugfs: %v\n%s", err, out)
	}
	g := m.Boot(t, rig.Options{State: disk})
	r := g.AwaitReady()
	if r.State.Action != state.Mounted || r.State.Free != 0 || len(r.Warnings) == 0 {
		t.Errorf("state %+v, warnings %q; want it mounted, full, and a warning", r.State, r.Warnings)
	}
	t.Log(r.Warnings)
	g.PowerOff()
	e2fsck(t, disk)
}

// TestNoStateDeclared boots a master whose profile keeps no state.
func TestNoStateDeclared(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join(rig.Top(), "profiles", profile+".yaml"))
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "stateless.yaml")
	changed := strings.Replace(string(text), "\nstate: 256M", "\nstate: none", 1)
	if changed == string(text) {
		t.Fatal("the profile declares its state in another way than this test knows")
	}
	if err := os.WriteFile(file, []byte(changed), 0o600); err != nil {
		t.Fatal(err)
	}
	m := rig.Build(t, file)
	g := m.Boot(t, rig.Options{State: "none"})
	r := g.AwaitReady()
	checkReport(t, m, r)
	if r.State.Device != "" || r.State.Action != state.Absent {
		t.Errorf("state = %+v; want none", r.State)
	}
	g.PowerOff()
}
