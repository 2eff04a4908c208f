package imagefile_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"rempart/builder/disk/imagefile"
	"rempart/builder/disk/internal/judge"
	"rempart/builder/disk/qcow2"
)

// raw writes a disk of 3 MiB with data at both ends and a hole between.
func raw(t *testing.T, dir string) (path string, content []byte) {
	t.Helper()
	content = make([]byte, 3<<20)
	rand.NewChaCha8([32]byte{3}).Read(content[:100_000])
	copy(content[3<<20-10:], "the end")
	path = filepath.Join(dir, "disk.raw")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, piece := range []struct{ from, to int }{{0, 100_000}, {3<<20 - 10, 3 << 20}} {
		if _, err := f.WriteAt(content[piece.from:piece.to], int64(piece.from)); err != nil {
			t.Fatal(err)
		}
	}
	return path, content
}

// holds reads an image in full, and as a sparse one.
func holds(t *testing.T, path string, o imagefile.Options, want []byte) *imagefile.Image {
	t.Helper()
	i, err := imagefile.Open(t.Context(), path, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { i.Close() })
	got, err := io.ReadAll(io.NewSectionReader(i, 0, i.Size()))
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s holds %d other bytes, %v; want %d", path, len(got), err, len(want))
	}
	s, err := i.Sparse(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got, err = io.ReadAll(io.NewSectionReader(s, 0, s.Size())); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s, without its holes, holds %d other bytes, %v; want %d", path, len(got), err, len(want))
	}
	var data int64
	for _, e := range s.Extents() {
		data += e.Length
	}
	if data > 1<<20 && len(i.Files) == 1 { // what shines through from below is taken for data
		t.Errorf("%s has %d bytes of data; want the holes left out", path, data)
	}
	return i
}

func TestOpen(t *testing.T) {
	dir := t.TempDir()
	path, content := raw(t, dir)
	holds(t, path, imagefile.Options{}, content)
	base := filepath.Join(dir, "base.qcow2")
	judge.Run(t, "qemu-utils", "qemu-img", "convert", "-c", "-O", "qcow2", path, base)
	holds(t, base, imagefile.Options{}, content)
	foreign := filepath.Join(dir, "disk.vmdk")
	judge.Run(t, "qemu-utils", "qemu-img", "convert", "-O", "vmdk", "-o", "subformat=streamOptimized", path, foreign)
	holds(t, foreign, imagefile.Options{}, content)
	// A chain of three, by relative names.
	middle, over := filepath.Join(dir, "middle.qcow2"), filepath.Join(dir, "over.qcow2")
	judge.Run(t, "qemu-utils", "qemu-img", "create", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", middle)
	judge.Run(t, "qemu-utils", "qemu-img", "create", "-f", "qcow2", "-b", "middle.qcow2", "-F", "qcow2", over)
	judge.Run(t, "qemu-utils", "qemu-io", "-c", "write -P 7 65536 512", over)
	changed := bytes.Clone(content)
	copy(changed[65536:], bytes.Repeat([]byte{7}, 512))
	if i := holds(t, over, imagefile.Options{Backing: true}, changed); len(i.Files) != 3 {
		t.Errorf("files %q; want three", i.Files)
	}
	if _, err := imagefile.Open(t.Context(), over, imagefile.Options{}); !errors.Is(err, qcow2.ErrBacking) ||
		!strings.Contains(fmt.Sprint(err), "--backing") {
		t.Errorf("a chain that nobody allowed: %v; want %v and how to allow it", err, qcow2.ErrBacking)
	}
	// A raw disk stays raw whatever its first bytes say.
	image, err := os.ReadFile(over)
	if err != nil {
		t.Fatal(err)
	}
	planted := filepath.Join(dir, "planted.img")
	if err := os.WriteFile(planted, image, 0o600); err != nil {
		t.Fatal(err)
	}
	i, err := imagefile.Open(t.Context(), planted, imagefile.Options{Backing: true})
	if err != nil || i.Format != imagefile.Raw || i.Size() != int64(len(image)) {
		t.Errorf("a raw disk with a qcow2 header: %+v, %v; want it raw", i, err)
	}
}

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	path, _ := raw(t, dir)
	secret := filepath.Join(dir, "hostile.qcow2")
	judge.Run(t, "qemu-utils", "qemu-img", "create", "-u", "-f", "qcow2", "-b", "/etc/shadow", "-F", "raw", secret, "1M")
	unsaid := filepath.Join(dir, "unsaid.qcow2")
	judge.Run(t, "qemu-utils", "qemu-img", "create", "-u", "-f", "qcow2", "-o", "compat=0.10", "-b", path, "-F", "raw",
		unsaid, "1M")
	b, err := os.ReadFile(unsaid)
	if err != nil {
		t.Fatal(err)
	}
	copy(b[72:80], make([]byte, 8)) // the extension that names the format
	if err := os.WriteFile(unsaid, b, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		path string
		o    imagefile.Options
		want string
	}{
		{filepath.Join(dir, "none"), imagefile.Options{}, "no such file"},
		{dir, imagefile.Options{}, "want a file or a block device"},
		{"/dev/null", imagefile.Options{}, "want a file or a block device"},
		{path, imagefile.Options{Format: "vhdx"}, "want raw, qcow2, vmdk, ova"},
		{path, imagefile.Options{Format: imagefile.Qcow2}, "say --format raw"},
		{secret, imagefile.Options{}, "/etc/shadow"},
		{unsaid, imagefile.Options{Backing: true}, "does not say of which format"},
	} {
		if i, err := imagefile.Open(t.Context(), tt.path, tt.o); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("Open(%s, %+v) = %+v, %v; want an error with %q", tt.path, tt.o, i, err, tt.want)
		}
	}
}
