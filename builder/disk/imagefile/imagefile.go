// Package imagefile opens the file of a disk image in whichever format it is, as the virtual disk it stands for.
//
// An image may have been written by a guest that means harm. So the format of a file is what its owner says or what its
// name ends in: were it guessed from the first bytes, a guest could turn its raw disk into an image of another disk by
// writing a header onto it. And a name within an image opens nothing, unless the owner allows it.
//
// What it deliberately does not do: change an image, or know what is on the disk.
package imagefile

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"rempart/builder/disk"
	"rempart/builder/disk/ova"
	"rempart/builder/disk/qcow2"
	"rempart/builder/disk/vmdk"
)

// Format is how a disk is kept in a file.
type Format string

// The formats there are.
const (
	Raw   Format = "raw"
	Qcow2 Format = "qcow2"
	VMDK  Format = "vmdk"
	OVA   Format = "ova" // a machine as one archive: the disk is the VMDK in it
)

// Formats are all formats.
func Formats() []Format { return []Format{Raw, Qcow2, VMDK, OVA} }

// ParseFormat reads a format's name.
func ParseFormat(s string) (Format, error) {
	if f := Format(s); slices.Contains(Formats(), f) {
		return f, nil
	}
	var names []string
	for _, f := range Formats() {
		names = append(names, string(f))
	}
	return "", fmt.Errorf("%q is no format of a disk image: want %s", s, strings.Join(names, ", "))
}

// FormatOf is the format of a file by its name: what does not end in another format's name is raw.
func FormatOf(path string) Format {
	if f, err := ParseFormat(strings.TrimPrefix(strings.ToLower(filepath.Ext(path)), ".")); err == nil {
		return f
	}
	return Raw
}

// Options say how to open an image. The zero value opens what its name says and nothing besides.
type Options struct {
	Format Format // empty: FormatOf the name
	// Backing allows the files that an image says it lies on: any file that this process may read.
	Backing bool
	// On is the image that a qcow2 image lies on, whatever that says itself; nil: what Backing allows.
	On *File
	// Snapshot is the one within a qcow2 image to open, by its ID or name; empty: the disk as it is now.
	Snapshot string
}

// File is an image by its name and its format.
type File struct {
	Path   string
	Format Format
}

// ErrFormat is returned for a file that is another format than it was taken for.
var ErrFormat = errors.New("not of the format it was taken for")

// Image is an opened disk: an io.ReaderAt over its bytes that may be used from many goroutines.
type Image struct {
	io.ReaderAt
	Format Format
	// Files are the image's own and those it lies on.
	Files []string
	// WeakDigests: the manifest of an OVA has SHA1, which tells what was damaged and not what was changed on purpose.
	WeakDigests bool
	// Snapshots are those within it.
	Snapshots []qcow2.Snapshot

	size   int64
	sparse func(context.Context) (*disk.Sparse, error)
	open   []*os.File
}

// Size is the size of the disk in bytes.
func (i *Image) Size() int64 { return i.size }

// Sparse is the disk as an image that leaves out what the format says is zero.
func (i *Image) Sparse(ctx context.Context) (*disk.Sparse, error) { return i.sparse(ctx) }

// Close closes the files.
func (i *Image) Close() error {
	var errs []error
	for _, f := range i.open {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}

// Open opens the image in a file or block device. An OVA archive is read in full, for its manifest.
func Open(ctx context.Context, path string, o Options) (i *Image, err error) {
	i = &Image{Format: o.Format}
	if i.Format == "" {
		i.Format = FormatOf(path)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("image %s: %w", path, err), i.Close())
			i = nil
		}
	}()
	if o.Snapshot != "" && i.Format != Qcow2 {
		return i, fmt.Errorf("a %s image holds no snapshots, so none called %q", i.Format, o.Snapshot)
	}
	f, size, err := i.file(path)
	if err != nil {
		return i, err
	}
	switch i.Format {
	case Raw:
		i.ReaderAt, i.size = f, size
		i.sparse = func(ctx context.Context) (*disk.Sparse, error) { return holes(ctx, f, size) }
		return i, nil
	case Qcow2:
		image, err := qcow2.Open(f, size, qcow2.OpenOptions{Backing: i.backing(path, o)})
		if err != nil {
			return i, hint(err, o)
		}
		if i.Snapshots, err = image.Snapshots(); err != nil {
			return i, err
		}
		if o.Snapshot != "" {
			if image, err = image.Snapshot(o.Snapshot); err != nil {
				return i, err
			}
		}
		i.ReaderAt, i.size, i.sparse = image, image.Size(), image.Sparse
		return i, nil
	}
	if i.Format != VMDK && i.Format != OVA {
		_, err = ParseFormat(string(i.Format))
		return i, err
	}
	var image *vmdk.Image
	if i.Format == OVA {
		var archive *ova.Image
		if archive, err = ova.Open(ctx, f, size); err == nil {
			image, i.WeakDigests = archive.Image, archive.Weak
		}
	} else {
		image, err = vmdk.Open(f, size)
	}
	if err != nil {
		return i, hint(err, o)
	}
	i.ReaderAt, i.size, i.sparse = image, image.Size(), image.Sparse
	return i, nil
}

// hint adds to an error what can be done about it.
func hint(err error, o Options) error {
	switch {
	case errors.Is(err, qcow2.ErrFormat) || errors.Is(err, vmdk.ErrFormat) || errors.Is(err, ova.ErrFormat):
		return fmt.Errorf("%w: %w; say --format raw if it is a plain disk", ErrFormat, err)
	case errors.Is(err, qcow2.ErrBacking) && !o.Backing:
		return fmt.Errorf("%w; --backing allows it to read the files that it names", err)
	}
	return err
}

// file opens a regular file or block device; nothing else is waited for.
func (i *Image) file(path string) (*os.File, int64, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, 0, err
	}
	if !info.Mode().IsRegular() && info.Mode()&(os.ModeDevice|os.ModeCharDevice) != os.ModeDevice {
		return nil, 0, fmt.Errorf("%s is a %v; want a file or a block device", path, info.Mode().Type())
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, 0, err
	}
	i.open, i.Files = append(i.open, f), append(i.Files, path)
	size, err := f.Seek(0, io.SeekEnd) // a device's Stat says 0
	return f, size, err
}

// backing opens the files an image lies on: relative names are relative to the image that names them.
func (i *Image) backing(path string, o Options) func(name, format string) (qcow2.BackingFile, error) {
	if o.On != nil {
		next := o.On
		return func(name, _ string) (b qcow2.BackingFile, err error) {
			if next == nil {
				return b, fmt.Errorf("%s lies on %.200q in its turn", o.On.Path, name)
			}
			f, size, err := i.file(next.Path)
			b, next = qcow2.BackingFile{ReaderAt: f, Size: size, Format: string(next.Format)}, nil
			return b, err
		}
	}
	if !o.Backing {
		return nil
	}
	dir := filepath.Dir(path)
	return func(name, format string) (b qcow2.BackingFile, err error) {
		if format == "" {
			return b, errors.New("the image does not say of which format that is; `qemu-img rebase -u -F FORMAT` writes it down")
		}
		if !filepath.IsAbs(name) {
			name = filepath.Join(dir, name)
		}
		dir = filepath.Dir(name)
		f, size, err := i.file(name)
		return qcow2.BackingFile{ReaderAt: f, Size: size, Format: format}, err
	}
}
