// Package inside looks into the image of a disk without mounting it and without root: its partitions (GPT, MBR) and the
// files of their filesystems (ext2 to ext4, EROFS, FAT), all by one interface.
//
// Whoever wrote the disk may have meant harm. The readers bound time and memory by the disk's size; what they refuse is
// an error of the file it concerns.
//
// What it deliberately does not do: change anything, run what is on the disk, or follow a link out of it.
package inside

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strconv"
	"time"

	"rempart/firstboot/gpt"
)

// FS is a filesystem in an image. Names are those of package io/fs. Open, Lstat and ReadDir follow no link, not in the
// middle of a name either: Resolve does. Files that are regular are io.ReaderAts where the filesystem is FAT or ext4.
type FS interface {
	fs.ReadDirFS
	fs.ReadLinkFS
	// Usage is the filesystem's size and how much of it is taken, in bytes.
	Usage() (size, used int64, err error)
}

// Meta is what FileInfo.Sys returns of a file of an FS.
type Meta struct {
	Inode        uint64 // 0: the filesystem has no numbers
	UID, GID     uint32
	Links        uint32
	Major, Minor uint32 // of a device

	// Attributes are told by Lstat alone: a million names in a directory may share values of megabytes.
	Attributes map[string][]byte
	// Unread is why these are not all.
	Unread error
}

// Volume is a filesystem that was found.
type Volume struct {
	FS
	Kind  string // "ext4", "erofs", "fat12", "fat16", "fat32"
	Label string
	Size  int64 // bytes of the partition or disk it is on
}

// Partition is a part of a disk.
type Partition struct {
	Number int    `json:"number"`
	Name   string `json:"name,omitempty"` // of a GPT; whatever its maker wrote
	Type   string `json:"type"`           // GUID, or of an MBR two hex digits
	Offset int64  `json:"offset"`         // bytes
	Size   int64  `json:"size"`
}

// Kinds of partition tables.
const (
	GPT  = "gpt"
	MBR  = "mbr"
	None = "none"
)

// Errors, for errors.Is.
var (
	ErrNoVolume    = errors.New("no filesystem that can be read")
	ErrNoPartition = errors.New("no such partition")
)

// Partitions reads the partition table of a disk of size bytes with sectors of 512 bytes. damaged says why a GPT was
// read from its backup; a disk that has no table has none, which is no error.
func Partitions(r io.ReaderAt, size int64) (table string, all []Partition, damaged error, err error) {
	t, err := gpt.Read(r, size, sectorSize)
	if err == nil {
		for _, p := range t.Partitions {
			all = append(all, Partition{p.Number, p.Name, p.Type, p.Start, p.Size})
		}
		return GPT, all, t.Primary, nil
	}
	if !errors.Is(err, gpt.ErrNone) {
		return "", nil, nil, err
	}
	// A volume without a table has a boot sector where an MBR is, with the same signature.
	if _, err := OpenVolume(r, size); err == nil {
		return None, nil, nil, nil
	}
	all, err = readMBR(r, size)
	if err != nil || all == nil {
		return None, nil, nil, err
	}
	return MBR, all, nil, nil
}

// Part is the part of a disk that a partition is.
func (p Partition) Part(r io.ReaderAt) *io.SectionReader {
	return io.NewSectionReader(r, p.Offset, p.Size)
}

// Find finds a partition by its number or its name. Of a name that two have it finds none: either would be a guess.
func Find(all []Partition, which string) (Partition, error) {
	number, err := strconv.Atoi(which)
	var found []Partition
	for _, p := range all {
		if err == nil && p.Number == number || err != nil && p.Name == which {
			found = append(found, p)
		}
	}
	if len(found) == 1 {
		return found[0], nil
	}
	if len(found) > 1 {
		return Partition{}, fmt.Errorf("%w: %d are called %q; say which by its number", ErrNoPartition, len(found), which)
	}
	var names []string
	for _, p := range all {
		names = append(names, strconv.Itoa(p.Number))
		if p.Name != "" {
			names[len(names)-1] += fmt.Sprintf(" (%q)", p.Name)
		}
	}
	return Partition{}, fmt.Errorf("%w: %q; there are %v", ErrNoPartition, which, names)
}

// OpenVolume opens the filesystem that begins at the first byte of r, which has size bytes. It returns ErrNoVolume,
// with what each reader said, when there is none.
func OpenVolume(r io.ReaderAt, size int64) (*Volume, error) {
	var errs []error
	for _, open := range []func(io.ReaderAt, int64) (*Volume, error){openExt4, openEROFS, openFAT} {
		v, err := open(r, size)
		if err == nil {
			v.Size = size
			return v, nil
		}
		errs = append(errs, err)
	}
	return nil, fmt.Errorf("%w: %w", ErrNoVolume, errors.Join(errs...))
}

// info is a FileInfo of a file whose metadata are at hand.
type info struct {
	name string
	size int64
	mode fs.FileMode
	time time.Time
	meta *Meta
}

func (i info) Name() string       { return i.name }
func (i info) Size() int64        { return i.size }
func (i info) Mode() fs.FileMode  { return i.mode }
func (i info) ModTime() time.Time { return i.time }
func (i info) IsDir() bool        { return i.mode.IsDir() }
func (i info) Sys() any           { return i.meta }

// MetaOf is what is known of a file besides what every FileInfo says.
func MetaOf(i fs.FileInfo) *Meta {
	if m, ok := i.Sys().(*Meta); ok && m != nil {
		return m
	}
	return &Meta{Links: 1}
}
