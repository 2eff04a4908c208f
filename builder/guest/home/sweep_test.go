package home

import (
	"os"
	"path/filepath"
	"testing"

	"rempart/builder/guest/quarantine"
	"rempart/builder/guest/storage"
)

// TestSweep: what a power cut left of a file that was being written is gone as soon as somebody locks the guest.
func TestSweep(t *testing.T) {
	h := Home{Dir: t.TempDir()}
	g := makeGuest(t, h, "fw")
	for _, name := range []string{descriptionFile, storage.IdentityFile, storage.Vars(storage.OverlayFile),
		quarantine.Journal, runningFile} {
		if err := os.WriteFile(filepath.Join(g.Dir, "."+name+"-123"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	g, err := h.Lock("fw", "a test")
	if err != nil {
		t.Fatal(err)
	}
	defer g.Unlock()
	if left, err := filepath.Glob(filepath.Join(g.Dir, ".*-123")); err != nil || len(left) > 0 {
		t.Errorf("after Lock there are %q, %v; want none of them", left, err)
	}
}
