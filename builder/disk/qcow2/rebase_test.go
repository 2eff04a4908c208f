package qcow2_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"rempart/builder/disk"
	"rempart/builder/disk/internal/judge"
	"rempart/builder/disk/qcow2"
)

// TestSetBacking moves what an overlay lies on, to names shorter and longer, and has QEMU say that it is whole.
func TestSetBacking(t *testing.T) {
	dir := t.TempDir()
	base := filepath.Join(dir, "base.qcow2")
	judge.Run(t, "qemu-utils", "qemu-img", "create", "-q", "-f", "qcow2", base, "3M")
	judge.Run(t, "qemu-utils", "qemu-io", "-c", "write -P 7 1M 64k", base)
	path := filepath.Join(dir, "overlay.qcow2")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := qcow2.Write(t.Context(), f, disk.NewSparse(0), qcow2.Options{Size: 4 << 20, HolesShowBacking: true,
		Backing: &qcow2.Backing{Name: base, Format: "qcow2"}}); err != nil {
		t.Fatal(err)
	}
	judge.Run(t, "qemu-utils", "qemu-io", "-c", "write -P 9 2M 64k", path)
	for _, name := range []string{"b", strings.Repeat("long", 20) + ".qcow2", "c.qcow2"} {
		moved := filepath.Join(dir, name)
		if err := os.Rename(base, moved); err != nil {
			t.Fatal(err)
		}
		base = moved
		if err := qcow2.SetBacking(f, moved); err != nil {
			t.Fatal(err)
		}
		judge.Run(t, "qemu-utils", "qemu-img", "check", "-q", path)
		judge.Run(t, "qemu-utils", "qemu-io", "-r", "-c", "read -P 7 1M 64k", "-c", "read -P 9 2M 64k", path)
	}
	if err := qcow2.SetBacking(f, strings.Repeat("x", 1024)); err == nil {
		t.Error("SetBacking takes a name of 1024 bytes")
	}
	alone, err := os.OpenFile(base, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer alone.Close()
	if err := qcow2.SetBacking(alone, "x"); !errors.Is(err, qcow2.ErrUnsupported) {
		t.Errorf("SetBacking of an image that lies on none = %v; want %v", err, qcow2.ErrUnsupported)
	}
}
