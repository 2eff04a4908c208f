package storage

import (
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
