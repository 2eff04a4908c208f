package qcow2

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"rempart/builder/disk/internal/judge"
)

// TestSnapshots reads what qemu-img keeps within an image, of each version.
func TestSnapshots(t *testing.T) {
	for _, compat := range []string{"0.10", "1.1"} {
		path := filepath.Join(t.TempDir(), "image.qcow2")
		judge.Run(t, "qemu-utils", "qemu-img", "create", "-f", "qcow2", "-o", "compat="+compat, path, "1M")
		for n, name := range []string{"first", "second"} {
			judge.Run(t, "qemu-utils", "qemu-io", "-c", "write -P "+string(rune('1'+n))+" 0 65536", path)
			judge.Run(t, "qemu-utils", "qemu-img", "snapshot", "-c", name, path)
		}
		if compat != "0.10" { // there it cannot be
			judge.Run(t, "qemu-utils", "qemu-img", "resize", "-f", "qcow2", path, "2M")
		}
		judge.Run(t, "qemu-utils", "qemu-io", "-c", "write -P 9 0 65536", path)
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		i, err := Open(bytes.NewReader(b), int64(len(b)), OpenOptions{})
		if err != nil {
			t.Fatal(err)
		}
		all, err := i.Snapshots()
		if err != nil || len(all) != 2 || all[0].Name != "first" || all[1].ID != "2" || all[0].Taken.IsZero() {
			t.Fatalf("compat %s: Snapshots = %+v, %v; want first and second", compat, all, err)
		}
		for which, want := range map[string]byte{"first": 1, "2": 2, "": 9} {
			disk := i
			if which != "" {
				if disk, err = i.Snapshot(which); err != nil {
					t.Fatal(err)
				}
				if disk.Size() != 1<<20 {
					t.Errorf("snapshot %s has %d bytes; want those it was taken of", which, disk.Size())
				}
			}
			got := make([]byte, 100)
			if _, err := disk.ReadAt(got, 60_000); err != nil && !errors.Is(err, io.EOF) ||
				!bytes.Equal(got, bytes.Repeat([]byte{want}, 100)) {
				t.Errorf("compat %s: snapshot %q holds %x, %v; want %d", compat, which, got[:4], err, want)
			}
		}
		if _, err := i.Snapshot("third"); !errors.Is(err, ErrNoSnapshot) {
			t.Errorf("Snapshot of none = %v; want %v", err, ErrNoSnapshot)
		}
		for name, spoil := range map[string]func(b []byte){
			"a table outside the file":  func(b []byte) { binary.BigEndian.PutUint64(b[hdrSnapshotsOffset:], 1<<40) },
			"a million snapshots":       func(b []byte) { binary.BigEndian.PutUint32(b[hdrSnapshots:], 1<<20) },
			"extra data without an end": func(b []byte) { binary.BigEndian.PutUint32(b[i.snapshotsAt+36:], 1<<31) },
			"an L1 table elsewhere":     func(b []byte) { binary.BigEndian.PutUint64(b[i.snapshotsAt:], 1<<40) },
		} {
			bad := bytes.Clone(b)
			spoil(bad)
			image, err := Open(bytes.NewReader(bad), int64(len(bad)), OpenOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := image.Snapshot("1"); !errors.Is(err, ErrCorrupt) {
				t.Errorf("%s: %v; want %v", name, err, ErrCorrupt)
			}
		}
	}
}
