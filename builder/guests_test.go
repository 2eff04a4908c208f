package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"rempart/builder/guest/home"
	"rempart/builder/guest/quarantine"
	"rempart/builder/guest/reprovision"
	"rempart/builder/hypervisor"
)

// TestUnreadableQuarantine: what rollback would go back to is not known, and is neither guessed nor free to be removed.
func TestUnreadableQuarantine(t *testing.T) {
	h := home.Home{Dir: t.TempDir()}
	master := func(digit string) string { return strings.Repeat(digit, 64) }
	g, err := h.Create(t.Context(), home.Description{Name: "fw", Store: "/masters", Master: master("a"),
		Previous: master("b"),
		Firmware: hypervisor.BIOS, Accel: hypervisor.TCG}, false)
	if err != nil {
		t.Fatal(err)
	}
	defer g.Unlock()
	if err := g.Save(); err != nil {
		t.Fatal(err)
	}
	t.Chdir(t.TempDir()) // a folder with a disk of the name that an entry has
	if err := os.WriteFile(quarantine.State, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if last, err := lastChange(g); err != nil || last.From != master("b") || last.Has(quarantine.State) {
		t.Errorf("lastChange without any entry = %+v, %v; want the master before, and no state", last, err)
	}
	used := map[string]bool{}
	if err := usedIn(h, used); err != nil || !used[master("a")] || !used[master("b")] || used[master("c")] {
		t.Errorf("usedIn = %v, %v; want the master and the one before", used, err)
	}
	dir, err := quarantine.Put(g.Dir, quarantine.Entry{ID: "0001", From: master("c"), To: master("a"),
		Outcome: quarantine.Committed})
	if err != nil {
		t.Fatal(err)
	}
	if last, err := lastChange(g); err != nil || last.From != master("c") {
		t.Errorf("lastChange = %+v, %v; want the entry", last, err)
	}
	if err := usedIn(h, used); err != nil || !used[master("c")] {
		t.Errorf("usedIn = %v, %v; want what rollback goes back to", used, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "entry.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if last, err := lastChange(g); err == nil {
		t.Errorf("lastChange with an entry that cannot be read = %+v; want an error", last)
	}
	if err := usedIn(h, used); err == nil || errors.Is(err, quarantine.ErrUnknown) {
		t.Errorf("usedIn with an entry that cannot be read = %v; want why it is not known", err)
	}
}

// TestUsedMeanwhile: while a change is under way, the masters of before stay that it may be taken back to.
func TestUsedMeanwhile(t *testing.T) {
	h := home.Home{Dir: t.TempDir()}
	a, b, c := strings.Repeat("a", 64), strings.Repeat("b", 64), strings.Repeat("c", 64)
	g, err := h.Create(t.Context(), home.Description{Name: "fw", Store: "/masters", Master: a, Previous: b,
		Firmware: hypervisor.BIOS, Accel: hypervisor.TCG}, false)
	if err != nil {
		t.Fatal(err)
	}
	defer g.Unlock()
	_, err = reprovision.Begin(t.Context(), g, reprovision.Plan{Kind: reprovision.Upgrade, To: c, State: reprovision.None},
		reprovision.Options{Runner: runner{g: g}})
	g.Master, g.Previous = c, a // as the change does on its way
	if err := errors.Join(err, g.Save()); err != nil {
		t.Fatal(err)
	}
	used := map[string]bool{}
	if err := usedIn(h, used); err != nil || !used[a] || !used[b] || !used[c] {
		t.Errorf("usedIn = %v, %v; want all three", used, err)
	}
}

// TestExportQuarantine: the folder is there whole, or not at all.
func TestExportQuarantine(t *testing.T) {
	dir := t.TempDir()
	if _, err := quarantine.Put(dir, quarantine.Entry{ID: "0001"}); err != nil {
		t.Fatal(err)
	}
	e, err := quarantine.Open(dir, "0001")
	if err != nil {
		t.Fatal(err)
	}
	to := filepath.Join(t.TempDir(), "out")
	bad := filepath.Join(e.Dir, "z") // after the others; it cannot be copied
	if err := os.Symlink("nowhere", bad); err != nil {
		t.Fatal(err)
	}
	if err := exportQuarantine(t.Context(), &home.Guest{}, e, to); err == nil {
		t.Error("exportQuarantine of what cannot be read = nil; want an error")
	}
	if left, err := os.ReadDir(filepath.Dir(to)); err != nil || len(left) != 0 {
		t.Errorf("it left %v, %v; want nothing", left, err)
	}
	if err := errors.Join(os.Remove(bad), exportQuarantine(t.Context(), &home.Guest{}, e, to+"/")); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(to)
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the folder is %v, %v; want it for its owner only", info, err)
	}
	if _, err := os.Stat(filepath.Join(to, "entry.json")); err != nil {
		t.Error(err)
	}
	if err := exportQuarantine(t.Context(), &home.Guest{}, e, to); err == nil {
		t.Error("exportQuarantine over a folder = nil; want an error")
	}
}

// TestStatusLines: what a guest says of itself stays in the line that it is told in.
func TestStatusLines(t *testing.T) {
	var out strings.Builder
	s := guestStatus{Name: "fw", Phase: "failed", Why: "broken\nPROBLEM\tnone\x1b[2J"}
	if err := printStatus(&out, s); err != nil {
		t.Fatal(err)
	}
	first, _, _ := strings.Cut(out.String(), "\n")
	if strings.Count(out.String(), "\n") != 3 || !strings.HasSuffix(first, "failed: broken?PROBLEM?none?[2J") {
		t.Errorf("the status is %q; want three lines, the first with all that the guest says", out.String())
	}
}
