// Package storage is where the disks of a guest lie, as files of its folder or as volumes of LVM, and how they change
// places: made, copied, moved, removed. Each of these is done or not done, whatever ends it in between, and what is
// half made is never at a place where somebody looks for it.
//
// What it deliberately does not do: decide when a disk changes its place (package reprovision does), lock (the guest
// must be locked), or look at what the disks hold.
package storage

import (
	"context"
	"errors"
	"io"
	"os"
)

// Kind is what a disk is for.
type Kind string

// The kinds.
const (
	State    Kind = "state"
	Identity Kind = "identity" // a file on every storage: it is tiny, and written anew at each start
	System   Kind = "system"   // only where OwnsSystem says so
)

// Place is where a disk of a guest is in its life.
type Place string

// The places.
const (
	Current Place = ""       // the guest has it
	Next    Place = "new"    // it waits to be the current one
	Aside   Place = "aside"  // it was set aside, in an entry of the quarantine
	Failed  Place = "failed" // a change that was taken back had made it; in an entry of the quarantine
)

// Disk names one.
type Disk struct {
	Kind  Kind
	Place Place
	Entry string // number of the entry, of Aside and Failed
}

// Disks are those of one guest, wherever they lie.
type Disks interface {
	// Path is where a disk can be opened, if it is there.
	Path(d Disk) string
	There(ctx context.Context, d Disk) (bool, error)
	// Size is how large a disk is that was made with a size: volumes have whole extents.
	Size(ctx context.Context, size int64) (int64, error)
	// Make makes a disk that is not there: of zeros, and then what fill, unless it is nil, writes into it. It appears
	// whole, and is on this machine's disk.
	Make(ctx context.Context, d Disk, size int64, fill func(path string) error) error
	// Clone makes a disk that is not there as a copy of another, which nobody writes to. It appears whole, and is on this
	// machine's disk.
	Clone(ctx context.Context, from, to Disk) error
	// OwnsSystem tells whether the guest has a system disk of its own here, made by Derive; else it has that of the store.
	OwnsSystem() bool
	// Derive makes a system disk that is not there, from a master. It appears whole.
	Derive(ctx context.Context, m Master, to Disk) error
	// Move gives a disk another place, which none has, and has that on this machine's disk. One that is not there was
	// moved already.
	Move(ctx context.Context, from, to Disk) error
	// Grow makes a disk that had a size of before bytes one of size, by zeros. It may be done again after it was ended in
	// between, as long as nobody has written to what is new.
	Grow(ctx context.Context, d Disk, before, size int64) error
	// Remove removes a disk, if it is there.
	Remove(ctx context.Context, d Disk) error
	// Clear removes what waits to be current, and what was never finished.
	Clear(ctx context.Context) error
	// Snapshot is a state disk as it is now, which the guest goes on writing to meanwhile; release ends it. It returns
	// errors.ErrUnsupported where there is none.
	Snapshot(ctx context.Context) (path string, release func() error, err error)
	// Check tells what is in the way of a change that makes a state disk of size bytes beside the current one; 0: none.
	// The guest runs or not.
	Check(ctx context.Context, size int64, runs bool) error
	// Used is how many bytes of this machine's storage each of some disks takes; one that is not there takes none.
	Used(ctx context.Context, disks ...Disk) ([]int64, error)
	// Left are disks of the guest that are there, as people name them.
	Left(ctx context.Context) ([]string, error)
	// RemoveAll removes all of them for good.
	RemoveAll(ctx context.Context) error
}

// Length is the size in bytes of a disk, a file or a device.
func Length(path string) (int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	n, err := f.Seek(0, io.SeekEnd)
	return n, errors.Join(err, f.Close())
}
