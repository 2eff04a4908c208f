package quarantine

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"rempart/builder/guest/storage"
)

func TestEntries(t *testing.T) {
	guest := t.TempDir()
	if all, err := List(guest); err != nil || len(all) != 0 {
		t.Errorf("List of none = %v, %v; want none", all, err)
	}
	for i := range 3 {
		id, err := Next(guest)
		if want := fmt.Sprintf("%04d", i+1); err != nil || id != want {
			t.Fatalf("Next = %q, %v; want %q", id, err, want)
		}
		e := Entry{ID: id, Kind: "reprovision", At: time.Unix(1e9, 0).UTC(), Outcome: Pending}
		dir, err := Put(guest, e)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, State), make([]byte, 100_000), 0o600); err != nil {
			t.Fatal(err)
		}
		e.Outcome, e.Found = Committed, []string{"an implant"}
		if _, err := Put(guest, e); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(guest, Folder, "0009"), 0o700); err != nil { // never finished
		t.Fatal(err)
	}
	on := storage.Files{Dir: guest}
	all, err := List(guest)
	if err != nil || len(all) != 3 || all[0].ID != "0001" || all[2].ID != "0003" || all[1].Outcome != Committed ||
		len(all[1].Found) != 1 || !all[1].Has(State) || all[1].Has(FailedState) {
		t.Errorf("List = %+v, %v; want the three, the oldest first, committed", all, err)
	}
	used, err := Used(t.Context(), all, on)
	if err != nil || len(used) != 3 || slices.Min(used) < 100_000 {
		t.Errorf("Used = %v, %v; want what the disks take", used, err)
	}
	if err := all[1].Remove(t.Context(), on); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(guest, "0002"); !errors.Is(err, ErrUnknown) {
		t.Errorf("Open of one that was removed = %v; want %v", err, ErrUnknown)
	}
	// A number is never given twice: what was in quarantine under it may be in somebody's notes.
	if id, err := Next(guest); err != nil || id != "0010" {
		t.Errorf("Next = %q, %v; want 0010", id, err)
	}
	for _, id := range []string{"", "..", "1", "00001", "../x", "000a"} {
		if _, err := Open(guest, id); !errors.Is(err, ErrUnknown) {
			t.Errorf("Open(%q) = %v; want %v", id, err, ErrUnknown)
		}
		if _, err := Put(guest, Entry{ID: id}); err == nil {
			t.Errorf("Put(%q) = nil; want an error", id)
		}
	}
	if err := os.WriteFile(filepath.Join(guest, Folder, "0003", entryFile), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if all, err := List(guest); err == nil || len(all) != 1 {
		t.Errorf("List with one that is damaged = %v, %v; want the other one, and an error", all, err)
	}
}

// TestSweep: whatever is written into an entry in a way that a power cut can leave half of is swept, the disks are not.
func TestSweep(t *testing.T) {
	guest := t.TempDir()
	dir, err := Put(guest, Entry{ID: "0001", Outcome: Pending})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{entryFile, Report, Packets, Evidence, Signature} {
		if err := os.WriteFile(filepath.Join(dir, "."+name+"-123"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, State), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Sweep(guest, "0001"); err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 2 || left[0].Name() != entryFile || left[1].Name() != State {
		t.Errorf("after Sweep there are %v, %v; want %s and %s", left, err, entryFile, State)
	}
}
