package store

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"rempart/builder/master"
)

// TestVerifyFindsChanges: a byte that is another is told with its file, and so is a file too many.
func TestVerifyFindsChanges(t *testing.T) {
	s := newStore(t)
	m := publish(t, s, makeMaster(t, "a", "1"))
	kernel := filepath.Join(m.Dir, master.KernelFile)
	if err := os.Chmod(kernel, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(kernel, []byte("a kernel "), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(m.Dir, "extra"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	err := s.Verify(t.Context(), m)
	for _, want := range []string{master.KernelFile, "extra"} {
		if !errors.Is(err, ErrChanged) || !strings.Contains(err.Error(), want) {
			t.Errorf("Verify = %v; want it to name %s", err, want)
		}
	}
	if err := os.WriteFile(filepath.Join(m.Dir, "x"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	raw := filepath.Join(m.Dir, master.RawFile)
	for _, flip := range []int64{0, 1 << 20} { // of the first byte, and of a zero
		disk, err := os.OpenFile(raw, os.O_RDWR, 0)
		if errors.Is(err, os.ErrPermission) {
			if err = os.Chmod(raw, 0o600); err == nil {
				disk, err = os.OpenFile(raw, os.O_RDWR, 0)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
		was := make([]byte, 1)
		_, err = disk.ReadAt(was, flip)
		_, errWrite := disk.WriteAt([]byte{was[0] ^ 1}, flip)
		if err := errors.Join(err, errWrite); err != nil {
			t.Fatal(err)
		}
		if err := s.Verify(t.Context(), m); !errors.Is(err, ErrChanged) || !strings.Contains(err.Error(), master.RawFile) {
			t.Errorf("Verify with another byte at %d = %v; want it to name %s", flip, err, master.RawFile)
		}
		_, err = disk.WriteAt(was, flip)
		if err := errors.Join(err, disk.Close()); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Verify(t.Context(), m); err == nil || strings.Contains(err.Error(), master.RawFile) {
		t.Errorf("Verify = %v; want nothing about %s", err, master.RawFile)
	}
	manifest := filepath.Join(m.Dir, master.ManifestFile)
	b, err := os.ReadFile(manifest)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(manifest); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(manifest, append(b, '\n'), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Find(m.Digest); !errors.Is(err, ErrChanged) {
		t.Errorf("Find with a changed manifest = %v", err)
	}
}
