// Package initramfs writes the archive that the kernel unpacks before anything else: the boot stage as /init and the
// modules it needs to reach the verified root. The same inputs give the same bytes everywhere.
//
// The archive is a newc cpio (Linux Documentation/driver-api/early-userspace/buffer-format.rst), compressed with
// zstd; compress.go says why. Read checks such archives with bounds, for verifying masters that others made.
//
// What it deliberately does not do: choose the modules (package kernel does), or put microcode or several archives
// one behind the other.
package initramfs

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"github.com/u-root/u-root/pkg/cpio"

	"rempart/builder/kernel"
	"rempart/builder/rootfs/tree"
	"rempart/firstboot/contract"
)

// Major and minor number of /dev/console, Linux Documentation/admin-guide/devices.txt. The kernel opens it for
// /init's standard streams before devtmpfs can be mounted.
const (
	consoleMajor = 5
	consoleMinor = 1
)

// Build returns the initramfs of a kernel with the boot stage, a static program, as /init. It fails when the kernel
// cannot unpack what we write.
func Build(ctx context.Context, k *kernel.Kernel, bootStage []byte) ([]byte, error) {
	if v, err := k.Config(compressionOption); err != nil {
		return nil, fmt.Errorf("initramfs: %w", err)
	} else if v != "y" {
		return nil, fmt.Errorf("initramfs: kernel %s cannot unpack it: CONFIG_%s=%q, want y",
			k.Release, compressionOption, v)
	}
	set, err := k.BootSet(ctx)
	if err != nil {
		return nil, fmt.Errorf("initramfs: %w", err)
	}
	t, err := Tree(set, k.BootLoads(), bootStage)
	if err != nil {
		return nil, err
	}
	var archive bytes.Buffer
	if err := Write(&archive, t); err != nil {
		return nil, err
	}
	return compress(archive.Bytes())
}

// Tree returns the files of an initramfs: /init, the modules with their indices, the mount points, and in
// contract.BootModules the names of the modules that no device announces.
func Tree(set *kernel.Set, loads []string, bootStage []byte) (*tree.Tree, error) {
	const origin = "rempart"
	if len(bootStage) == 0 {
		return nil, fmt.Errorf("initramfs: the boot stage is empty")
	}
	t := new(tree.Tree)
	entries := []tree.Entry{
		tree.Bytes("init", 0o755, bootStage, origin),
		{Path: "dev/console", Mode: fs.ModeDevice | fs.ModeCharDevice | 0o600, Major: consoleMajor, Minor: consoleMinor,
			Origin: origin},
		tree.Bytes(strings.TrimPrefix(contract.BootModules, "/"), 0o644, lines(loads), origin),
	}
	for _, dir := range []string{"proc", "sys", "run", "newroot"} {
		entries = append(entries, tree.Dir(dir, 0o755, origin))
	}
	entries = append(entries, set.Entries(strings.TrimPrefix(contract.ModulesDir, "/")+"/"+set.Release)...)
	for _, e := range entries {
		if err := t.Add(e); err != nil {
			return nil, fmt.Errorf("initramfs: %w", err)
		}
	}
	return t, nil
}

func lines(words []string) []byte {
	var b bytes.Buffer
	for _, w := range words {
		b.WriteString(w + "\n")
	}
	return b.Bytes()
}

// Write writes a tree as a newc archive: parents before children, numbered inodes, no times.
func Write(w io.Writer, t *tree.Tree) error {
	out := cpio.Newc.Writer(w)
	for i, e := range t.Entries() {
		rec, err := record(e)
		if err != nil {
			return fmt.Errorf("initramfs: /%s: %w", e.Path, err)
		}
		rec.Ino = uint64(i + 1)
		rec = cpio.MakeReproducible(rec)
		if err := out.WriteRecord(rec); err != nil {
			return fmt.Errorf("initramfs: /%s: %w", e.Path, err)
		}
	}
	if err := cpio.WriteTrailer(out); err != nil {
		return fmt.Errorf("initramfs: %w", err)
	}
	return nil
}

// record translates an entry.
func record(e *tree.Entry) (cpio.Record, error) {
	info := cpio.Info{Name: e.Path, Mode: uint64(e.Mode.Perm()), UID: uint64(e.UID), GID: uint64(e.GID),
		NLink: 1}
	for _, bit := range []struct {
		mode fs.FileMode
		bit  uint64
	}{{fs.ModeSetuid, cpio.S_ISUID}, {fs.ModeSetgid, cpio.S_ISGID}, {fs.ModeSticky, cpio.S_ISVTX}} {
		if e.Mode&bit.mode != 0 {
			info.Mode |= bit.bit
		}
	}
	switch e.Mode.Type() {
	case 0:
		r, err := e.Open()
		if err != nil {
			return cpio.Record{}, err
		}
		defer r.Close()
		content := make([]byte, e.Size)
		if _, err := io.ReadFull(r, content); err != nil {
			return cpio.Record{}, fmt.Errorf("reading %d bytes: %w", e.Size, err)
		}
		info.Mode |= cpio.S_IFREG
		return cpio.StaticRecord(content, info), nil
	case fs.ModeDir:
		info.Mode |= cpio.S_IFDIR
		return cpio.Record{Info: info}, nil
	case fs.ModeSymlink:
		info.Mode |= cpio.S_IFLNK
		return cpio.StaticRecord([]byte(e.Link), info), nil
	case fs.ModeDevice | fs.ModeCharDevice:
		info.Mode |= cpio.S_IFCHR
		info.Rmajor, info.Rminor = uint64(e.Major), uint64(e.Minor)
		return cpio.Record{Info: info}, nil
	case fs.ModeDevice:
		info.Mode |= cpio.S_IFBLK
		info.Rmajor, info.Rminor = uint64(e.Major), uint64(e.Minor)
		return cpio.Record{Info: info}, nil
	}
	return cpio.Record{}, fmt.Errorf("a %v has no place in an initramfs", e.Mode.Type())
}
