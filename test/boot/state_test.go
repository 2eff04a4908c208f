package boot

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"rempart/firstboot/contract"
	"rempart/test/rig"
)

func digest(t *testing.T, path string) string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", h.Sum(nil))
}

// TestStateLife follows one state disk: formatted when blank, mounted again, replayed after a power cut in the middle
// of writing, grown when the disk grew.
func TestStateLife(t *testing.T) {
	t.Parallel()
	m := rig.Build(t, profile)
	disk := filepath.Join(t.TempDir(), "state.raw")
	if err := rig.Blank(disk, m.Profile.State.Size); err != nil {
		t.Fatal(err)
	}
	action := func(g *rig.Guest, want string) contract.Report {
		t.Helper()
		r := g.AwaitReady()
		if r.State.Action != want {
			t.Errorf("state = %+v; want it %s", r.State, want)
		}
		return r
	}
	g := m.Boot(t, rig.Options{State: disk})
	first := action(g, "formatted")
	g.PowerOff()
	e2fsck(t, disk)
	if out := debugfs(t, disk, "stats -h", false); !strings.Contains(out, contract.StateLabel) {
		t.Errorf("the state disk is not labelled %s:\n%s", contract.StateLabel, out)
	}
	// What a guest keeps: root's home is on state, reached through the relative link /root -> var/root.
	note := filepath.Join(t.TempDir(), "note")
	if err := os.WriteFile(note, []byte("kept"), 0o600); err != nil {
		t.Fatal(err)
	}
	debugfs(t, disk, fmt.Sprintf("write %s root/note", note), true)

	g = m.Boot(t, rig.Options{State: disk})
	action(g, "mounted")
	g.Cut() // the filesystem is mounted and its journal has work to do

	info, err := os.Stat(disk)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(disk, info.Size()+(64<<20)); err != nil {
		t.Fatal(err)
	}
	g = m.Boot(t, rig.Options{State: disk})
	grown := action(g, "grown")
	if grown.State.Bytes <= first.State.Bytes {
		t.Errorf("the grown state has %d bytes; want more than the %d before", grown.State.Bytes, first.State.Bytes)
	}
	g.PowerOff()
	e2fsck(t, disk)
	if got := debugfs(t, disk, "cat root/note", false); !strings.Contains(got, "kept") {
		t.Errorf("the note on state reads %q after a power cut and growth; want kept", got)
	}
}

// TestInterruptedFormat cuts the power while the first start formats the state disk, and starts again.
func TestInterruptedFormat(t *testing.T) {
	t.Parallel()
	m := rig.Build(t, profile)
	disk := filepath.Join(t.TempDir(), "state.raw")
	if err := rig.Blank(disk, m.Profile.State.Size); err != nil {
		t.Fatal(err)
	}
	// The guest says on its console that it formats before it writes the first byte.
	g := m.Boot(t, rig.Options{State: disk})
	g.AwaitConsole("formatting the state disk")
	g.Cut()
	head := make([]byte, 1<<20)
	f, err := os.Open(disk)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(f, head); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if bytes.Equal(head, make([]byte, len(head))) {
		t.Log("the cut came before the first byte was written: the disk is still blank")
	}
	g = m.Boot(t, rig.Options{State: disk})
	r := g.AwaitReady()
	switch r.State.Action {
	case "formatted", "reformatted", "mounted": // mounted: the cut came after the format was whole
	default:
		t.Errorf("state = %+v after an interrupted format; want it usable", r.State)
	}
	g.PowerOff()
	e2fsck(t, disk)
}

// TestForeignState shows that a disk with somebody else's data is never touched.
func TestForeignState(t *testing.T) {
	t.Parallel()
	m := rig.Build(t, profile)
	disk := filepath.Join(t.TempDir(), "state.raw")
	if err := rig.Blank(disk, m.Profile.State.Size); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(disk, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("LUKS\xba\xbe\x00\x02 a family's photographs"), 0); err != nil {
		t.Fatal(err)
	}
	f.Close()
	before := digest(t, disk)
	g := m.Boot(t, rig.Options{State: disk})
	r := g.Await("a report about the foreign disk", func(r contract.Report) bool {
		return r.Settled && r.State.Action == "foreign" && len(r.Failures) > 0
	})
	if r.Ready || r.Policy != "loaded" {
		t.Errorf("report = %+v; want it not READY, and the policy in place", r)
	}
	g.AwaitConsole(contract.FailedPrefix)
	g.PowerOff()
	if digest(t, disk) != before {
		t.Error("the foreign disk was written to")
	}
}
