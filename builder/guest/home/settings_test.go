package home

import (
	"os"
	"testing"
)

// TestResizeFails: a size that cannot be had leaves a guest that starts, with the size it had.
func TestResizeFails(t *testing.T) {
	h := Home{Dir: t.TempDir()}
	g := lockedGuest(t, h)
	g.Data = nil
	if err := g.Ensure(t.Context()); err != nil {
		t.Fatal(err)
	}
	// A disk that is larger than the description says, as one that was taken over may be.
	if err := os.Truncate(g.StateDisk(), 4<<20); err != nil {
		t.Fatal(err)
	}
	if err := g.Resize(t.Context(), 2<<20); err != nil {
		t.Fatal(err)
	}
	if err := g.Resize(t.Context(), 1<<62); err == nil {
		t.Skip("SKIPPED, NOT PASSED: this filesystem takes files of any size")
	}
	now, err := h.Open("fw")
	if err != nil || now.State != 2<<20 || now.Growing != 0 || g.State != 2<<20 || g.Growing != 0 {
		t.Fatalf("after a Resize that failed the guest is %+v, %v; want it as it was", now, err)
	}
	if err := g.Ensure(t.Context()); err != nil {
		t.Errorf("Ensure after that = %v; want the guest to start", err)
	}
}
