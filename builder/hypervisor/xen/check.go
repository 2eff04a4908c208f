package xen

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Needs are what a guest needs that its configuration does not name.
type Needs struct {
	System int64  // bytes, at least: what the master's system disk, or its root, is
	State  int64  // bytes, at least: what the profile declares
	Kernel string // image of the kernel that its loader starts, to be asked what it supports; empty: it is not asked
}

// qcow2Magic is how a qcow2 image begins (QEMU's docs/interop/qcow2.txt).
const qcow2Magic = "QFI\xfb"

// Check tells everything that keeps a guest from being started on the machine whose file system is at root, "/", at
// once: volumes that are missing or too small, files, bridges, interfaces whose name is taken. It changes nothing.
func (g Guest) Check(root string, needs Needs) error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if err := g.Validate(); err != nil {
		errs = append(errs, err)
	}
	type needed struct {
		what, path string
		least      int64
	}
	disks := []needed{{"system disk", g.System, needs.System}, {"state disk", g.State, needs.State},
		{"identity disk", g.Identity, 1}}
	for _, d := range g.Data {
		disks = append(disks, needed{"data disk " + d.Name, d.Path, 1})
	}
	for _, d := range disks {
		if d.path == "" {
			continue
		}
		size, err := volume(filepath.Join(root, d.path))
		switch {
		case err != nil:
			bad("%s: %w", d.what, err)
		case size < d.least:
			bad("%s %s has %d bytes; want %d at least; with LVM: lvextend -L %db %s", d.what, d.path, size, d.least, d.least,
				d.path)
		}
	}
	files := map[string]string{"GRUB": g.GRUB}
	if g.Kernel != nil {
		files["kernel"], files["initrd"] = g.Kernel.Image, g.Kernel.Initrd
	}
	told := map[string]bool{"": true}
	for what, path := range files {
		if path == "" {
			continue
		}
		if info, err := os.Stat(filepath.Join(root, path)); err != nil {
			bad("%s: %w", what, err)
			told[path] = true
		} else if !info.Mode().IsRegular() {
			bad("%s %s is no file", what, path)
			told[path] = true
		}
	}
	if !told[needs.Kernel] {
		if err := checkKernel(filepath.Join(root, needs.Kernel), g.Mode); err != nil {
			bad("kernel: %w", err)
		}
	}
	for _, v := range g.VIFs {
		net := filepath.Join(root, "sys/class/net")
		if v.Bridge != "" {
			if _, err := os.Stat(filepath.Join(net, v.Bridge, "bridge")); err != nil {
				bad("link %s: there is no bridge %s here; `rempart host` writes the files that make it", v.Link, v.Bridge)
			}
		}
		if v.Name != "" {
			if _, err := os.Lstat(filepath.Join(net, v.Name)); err == nil {
				bad("link %s: there is an interface %s already; does the guest run?", v.Link, v.Name)
			}
		}
	}
	return errors.Join(errs...)
}

// volume is the size of a block device or a raw file.
func volume(path string) (int64, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0) // a pipe must not hold us up before it is refused
	if err != nil {
		return 0, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	if m := info.Mode(); !m.IsRegular() && (m&os.ModeDevice == 0 || m&os.ModeCharDevice != 0) {
		return 0, fmt.Errorf("%s is neither a block device nor a file", path)
	}
	magic := make([]byte, len(qcow2Magic))
	if n, err := f.ReadAt(magic, 0); n == len(magic) && string(magic) == qcow2Magic {
		return 0, fmt.Errorf("%s is a qcow2 image; xl attaches raw ones: rempart build --format raw", path)
	} else if err != nil && !errors.Is(err, io.EOF) {
		return 0, err
	}
	return f.Seek(0, io.SeekEnd)
}
