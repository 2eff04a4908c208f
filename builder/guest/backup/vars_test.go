package backup

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"rempart/builder/guest"
	"rempart/builder/guest/home"
	"rempart/builder/guest/storage"
)

// TestVars: what firmware remembers of a guest of another system goes with it, and is no other guest's.
func TestVars(t *testing.T) {
	for _, size := range []int64{0, 528 << 10, 3<<20 + 5} { // none; OVMF's; more than a piece, with zeros at its end
		g := stopped(t, 4096)
		g.Image, g.Memory = &home.Image{Health: guest.Health{After: time.Second}}, 64<<20
		overlay := filepath.Join(t.TempDir(), storage.OverlayFile)
		want := make([]byte, size)
		copy(want, "Boot0000")
		err := os.WriteFile(overlay, []byte("overlay"), 0o600)
		if size > 0 {
			err = errors.Join(err, os.WriteFile(storage.Vars(overlay), want, 0o600))
		}
		if err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		if err := Write(t.Context(), &b, g, overlay, untold); err != nil {
			t.Fatal(err)
		}
		there := storage.Files{Dir: t.TempDir(), Overlay: true}
		r, err := Open(&b)
		if err == nil {
			err = r.Disks(t.Context(), there)
		}
		if err != nil {
			t.Fatalf("variables of %d bytes: %v", size, err)
		}
		path := there.Path(storage.Disk{Kind: storage.State})
		if got, err := os.ReadFile(path); err != nil || string(got) != "overlay" {
			t.Errorf("variables of %d bytes: the overlay is %q, %v", size, got, err)
		}
		got, err := os.ReadFile(storage.Vars(path))
		if size == 0 && !errors.Is(err, os.ErrNotExist) || size > 0 && (err != nil || !bytes.Equal(got, want)) {
			t.Errorf("variables of %d bytes: %d bytes, %v; want the same", size, len(got), err)
		}
	}
	for name, about := range map[string]about{
		"of one that was built": {Guest: stopped(t, 4096).Description, State: &digest{Size: 4096}, Vars: &digest{Size: 1}},
		"without end": {Guest: home.Description{Image: &home.Image{}, State: 4096}, State: &digest{Size: 4096},
			Vars: &digest{Size: maxVars + 1}},
	} {
		about.Format = Format
		_, err := Open(bytes.NewReader(begun(t, about)))
		if err == nil || !strings.Contains(err.Error(), "its disks are not") {
			t.Errorf("Open with variables %s = %v; want them refused", name, err)
		}
	}
}

// begun is the beginning of a backup.
func begun(t *testing.T, a about) []byte {
	t.Helper()
	text, err := json.Marshal(a)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := archived(&b, func(archive *tar.Writer) error {
		return put(archive, aboutName, int64(len(text)), bytes.NewReader(text))
	}); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}
