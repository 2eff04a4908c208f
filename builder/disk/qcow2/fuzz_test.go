package qcow2

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"rempart/builder/disk/internal/judge"
)

// FuzzQcow2 opens anything, and reads some of it. Clusters are made small so that a small input reaches every table.
func FuzzQcow2(f *testing.F) {
	dir := f.TempDir()
	raw := filepath.Join(dir, "raw")
	if err := os.WriteFile(raw, append(words(1500), random(1060, "fuzz")...), 0o600); err != nil {
		f.Fatal(err)
	}
	for n, options := range []string{"compat=0.10", "compat=1.1", "compression_type=zstd"} {
		for _, c := range [][]string{{}, {"-c"}} {
			path := filepath.Join(dir, fmt.Sprint("seed", n, len(c)))
			args := append([]string{"convert", "-f", "raw", "-O", "qcow2", "-o", "cluster_size=512," + options}, c...)
			args = append(args, raw, path)
			judge.Run(f, "qemu-utils", "qemu-img", args...)
			b, err := os.ReadFile(path)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(b)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		o := OpenOptions{Backing: func(name, format string) (BackingFile, error) {
			if format == "qcow2" {
				return BackingFile{bytes.NewReader(b), int64(len(b)), format}, nil
			}
			return BackingFile{bytes.NewReader(b), int64(len(b)), "raw"}, nil
		}}
		i, err := Open(bytes.NewReader(b), int64(len(b)), o)
		if err != nil {
			return
		}
		if i.Size() < 0 {
			t.Fatal("negative size")
		}
		s, err := i.Sparse(t.Context())
		if err == nil && len(s.Extents()) > len(b)+1 {
			t.Fatalf("%d extents from %d bytes", len(s.Extents()), len(b))
		}
		if all, err := i.Snapshots(); err == nil {
			for _, s := range all {
				if then, err := i.Snapshot(s.ID); err == nil {
					_, _ = then.ReadAt(make([]byte, 4096), 0)
				}
			}
		}
		buf := make([]byte, 8192)
		for _, at := range []int64{0, 1000, i.Size() / 2, i.Size() - 100} {
			if at < 0 {
				continue
			}
			if n, err := i.ReadAt(buf, at); n < len(buf) && err == nil {
				t.Fatalf("ReadAt(%d) = %d without an error", at, n)
			}
		}
	})
}
