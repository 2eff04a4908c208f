package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
	"time"

	"github.com/diskfs/go-diskfs/backend/file"
	"github.com/diskfs/go-diskfs/filesystem/fat32"
	diskfsgpt "github.com/diskfs/go-diskfs/partition/gpt"

	"rempart/builder/disk"
	"rempart/builder/disk/gpt"
	"rempart/builder/master"
)

// ErrReadBack is returned for a planned disk that another implementation reads differently from its manifest: a bug of
// this program, or memory that forgets. Nothing is written then.
var ErrReadBack = errors.New("the planned disk does not read back as its manifest says")

// readBack reads the planned disk with go-diskfs, an implementation of GPT and FAT that shares nothing with the one
// that wrote it, and compares partitions and boot files with the manifest. The root needs no second reader: the guest's
// kernel checks every block of it against the root hash. It costs about as much as one SHA-256 of the boot files.
func (p *planner) readBack(context.Context) error { return readBack(p.plan.Disk, p.plan.Manifest) }

func readBack(image *disk.Sparse, m *master.Manifest) error {
	view := view{io.NewSectionReader(image, 0, image.Size())}
	table, err := diskfsgpt.Read(view, gpt.SectorSize, gpt.SectorSize)
	if err != nil {
		return fmt.Errorf("%w: partition table: %w", ErrReadBack, err)
	}
	if table.RecoveredFromBackup || !table.ProtectiveMBR {
		return fmt.Errorf("%w: the primary partition table is damaged or not protected", ErrReadBack)
	}
	if err := table.Verify(view, uint64(image.Size())); err != nil {
		return fmt.Errorf("%w: backup partition table: %w", ErrReadBack, err)
	}
	places := map[string]master.Region{}
	for _, r := range m.Disk.Regions {
		if name, ok := strings.CutPrefix(r.Name, disk.RegionPartition); ok {
			places[name] = r
		}
	}
	if len(table.Partitions) != len(places) {
		return fmt.Errorf("%w: %d partitions, the manifest has %d", ErrReadBack, len(table.Partitions), len(places))
	}
	for _, p := range table.Partitions {
		if want := places[p.Name]; int64(p.Start)*gpt.SectorSize != want.Offset || int64(p.Size) != want.Length {
			return fmt.Errorf("%w: partition %q is %d bytes at sector %d, the manifest says %d bytes at %d",
				ErrReadBack, p.Name, p.Size, p.Start, want.Length, want.Offset)
		}
		if p.Name == partitionRoot && !strings.EqualFold(p.GUID, m.Verity.Partition) {
			return fmt.Errorf("%w: the root's GUID is %s, the manifest says %s", ErrReadBack, p.GUID, m.Verity.Partition)
		}
	}
	if _, err := m.RootRegion(); err != nil {
		return fmt.Errorf("%w: %w", ErrReadBack, err)
	}
	esp := places[partitionESP]
	volume, err := fat32.Read(file.New(view, true), esp.Length, esp.Offset, gpt.SectorSize)
	if err != nil {
		return fmt.Errorf("%w: boot partition: %w", ErrReadBack, err)
	}
	return readBackFiles(volume, m.Boot)
}

// readBackFiles compares the files of the boot partition with those of the manifest: all of them, and no others.
func readBackFiles(volume fs.ReadDirFS, want []master.File) error {
	left := map[string]master.File{}
	for _, f := range want {
		left[strings.TrimPrefix(f.Path, "/")] = f
	}
	err := fs.WalkDir(volume, ".", func(name string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		f, ok := left[name]
		if !ok {
			return fmt.Errorf("/%s is not in the manifest", name)
		}
		delete(left, name)
		sum, err := digestWhole(volume, name, f.Size)
		if err != nil {
			return err
		}
		if sum != f.SHA256 {
			return fmt.Errorf("/%s has the SHA-256 %s, the manifest says %s", name, sum, f.SHA256)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("%w: boot partition: %w", ErrReadBack, err)
	}
	for name := range left {
		return fmt.Errorf("%w: boot partition: /%s is missing", ErrReadBack, name)
	}
	return nil
}

// digestWhole returns the digest of a file that must have exactly size bytes. It is read at once: go-diskfs follows
// the whole chain of clusters for every single read.
func digestWhole(volume fs.FS, name string, size int64) (string, error) {
	f, err := volume.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	if info.Size() != size {
		return "", fmt.Errorf("/%s has %d bytes, the manifest says %d", name, info.Size(), size)
	}
	content := make([]byte, size)
	if _, err := io.ReadFull(f, content); err != nil {
		return "", fmt.Errorf("/%s: %w", name, err)
	}
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:]), nil
}

// view shows an image to go-diskfs, which reads files.
type view struct{ *io.SectionReader }

func (v view) Close() error               { return nil }
func (v view) Stat() (fs.FileInfo, error) { return v, nil }

// A view is its own fs.FileInfo: a regular file that may only be read.
func (v view) Name() string       { return path.Base(master.RawFile) }
func (v view) Mode() fs.FileMode  { return 0o444 }
func (v view) ModTime() time.Time { return time.Time{} }
func (v view) IsDir() bool        { return false }
func (v view) Sys() any           { return nil }
