package storage

import (
	"errors"
	"os"
	"testing"
)

// TestGrow: a raw state disk becomes as long as the disk, and the file of an overlay, which is no disk, stays as it is.
func TestGrow(t *testing.T) {
	for _, tt := range []struct {
		overlay bool
		want    int64
	}{{false, 1 << 20}, {true, 100}} {
		f := Files{Dir: t.TempDir(), Overlay: tt.overlay}
		state := Disk{Kind: State}
		if err := f.Make(t.Context(), state, 100, nil); err != nil {
			t.Fatal(err)
		}
		if err := f.Grow(t.Context(), state, 100, 1<<20); err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(f.Path(state)); err != nil || info.Size() != tt.want {
			t.Errorf("overlay %v: after Grow to 1 MiB the file is %v, %v; want %d bytes", tt.overlay, info, err, tt.want)
		}
	}
}

// TestVars: what firmware remembers of an overlay goes with it, and stays out of a new one; one without any goes alone.
func TestVars(t *testing.T) {
	f := Files{Dir: t.TempDir(), Overlay: true}
	now, next := Disk{Kind: State}, Disk{Kind: State, Place: Next}
	aside, failed := Disk{Kind: State, Place: Aside, Entry: "0001"}, Disk{Kind: State, Place: Failed, Entry: "0001"}
	remembers := func(d Disk, want string) {
		t.Helper()
		b, err := os.ReadFile(Vars(f.Path(d)))
		if want == "" && !errors.Is(err, os.ErrNotExist) || want != "" && (err != nil || string(b) != want) {
			t.Errorf("firmware remembers %q of %s, %v; want %q", b, f.Path(d), err, want)
		}
	}
	write := func(d Disk, text string) {
		t.Helper()
		if err := os.WriteFile(Vars(f.Path(d)), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	do := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	ctx := t.Context()
	do(os.MkdirAll(f.Dir+"/"+Quarantine+"/0001", 0o700))
	do(f.Make(ctx, now, 100, nil))
	write(now, "old")
	do(f.Make(ctx, next, 100, nil))
	do(f.Move(ctx, now, aside))
	do(f.Move(ctx, now, aside)) // which was done already
	do(f.Move(ctx, next, now))
	remembers(now, "")
	remembers(aside, "old")

	write(now, "new") // and that is taken back
	do(f.Move(ctx, now, failed))
	do(f.Move(ctx, aside, now))
	remembers(failed, "new")
	remembers(now, "old")
	do(f.Clone(ctx, failed, next))
	remembers(next, "new")
	do(f.Remove(ctx, next))
	remembers(next, "")

	write(next, "half moved")
	do(f.Make(ctx, next, 100, nil))
	do(f.Remove(ctx, now))
	do(os.Rename(Vars(f.Path(next)), Vars(f.Path(now)))) // where a power cut ended it
	do(f.Move(ctx, next, now))
	remembers(now, "half moved")
	if have, err := f.There(ctx, now); err != nil || !have {
		t.Errorf("There = %t, %v; want the overlay moved too", have, err)
	}
	do(os.Remove(Vars(f.Path(now))))
	do(f.Clone(ctx, now, next))
	remembers(next, "")
	raw := Files{Dir: f.Dir}
	if len(raw.with(now)) != 1 {
		t.Errorf("a state disk has files %q; want itself", raw.with(now))
	}
}
