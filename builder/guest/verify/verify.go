// Package verify compares the disks of a guest that may have been broken into with what they should be, from outside:
// the system disk with its master's manifest, the state disk with what the profile declares and with an earlier look.
// It trusts the manifest and nothing that the guest could have written; disks are read and never changed.
//
// What it deliberately does not do: decide what becomes of a guest, repair, take snapshots, or believe a state disk
// that somebody writes to meanwhile: the system disk may be verified while its guest runs, since nobody can write to
// it.
package verify

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"time"

	"rempart/builder/master"
)

// Report is what was found about one guest.
type Report struct {
	Guest  string    `json:"guest,omitempty"`
	Master string    `json:"master"`           // digest by which stores know the master, that of its manifest
	Disk   string    `json:"disk"`             // digest of the system disk that the manifest describes
	Signer string    `json:"signer,omitempty"` // the trusted key that signed the manifest; empty: none
	Taken  time.Time `json:"taken,omitzero"`   // when
	System *System   `json:"system,omitempty"` // nil: not looked at
	State  *State    `json:"state,omitempty"`  // nil: not looked at, or there is none
	Data   []*Data   `json:"data,omitempty"`   // of the data disks that were looked at
}

// Clean tells whether nothing is as it should not be. What declared programs changed in their own files is clean.
func (r *Report) Clean() bool {
	return (r.System == nil || r.System.IsClean()) && (r.State == nil || r.State.IsClean()) &&
		!slices.ContainsFunc(r.Data, func(d *Data) bool { return !d.IsClean() })
}

// Encode is the report as JSON.
func (r *Report) Encode() ([]byte, error) { return json.MarshalIndent(r, "", " ") }

// Kinds of differences of a system disk.
const (
	Changed = "changed"      // bytes are others
	Added   = "added"        // a file of the boot partition that no master has
	Missing = "missing"      // a file of the boot partition that nothing leads to any more
	PastEnd = "past the end" // bytes behind the master's last
	Short   = "short"        // the disk ends before the master does
)

// System is what a comparison of a system disk found.
type System struct {
	Size        int64        `json:"size"`  // bytes compared
	Exact       bool         `json:"exact"` // ranges are those of changed bytes; else those of the blocks around them
	Differences []Difference `json:"differences"`
}

// IsClean tells whether the disk is the master's, byte by byte.
func (s *System) IsClean() bool { return len(s.Differences) == 0 }

// Difference is something about a system disk that is not as its master has it.
type Difference struct {
	Kind   string `json:"kind"`
	Region string `json:"region"`           // of the manifest
	Path   string `json:"path,omitempty"`   // of a file on the boot partition or the root; empty: outside of files
	Origin string `json:"origin,omitempty"` // who put the file into the master
	// Ranges are where on the disk, in order, those of an added file in the order of its bytes; at most maxRanges of them.
	Ranges []Range `json:"ranges,omitempty"`
	// More is how many further ranges there are; of Added without a path, how many further files.
	More int64 `json:"more,omitempty"`
}

// maxRanges bounds what one difference lists.
const maxRanges = 1000

// Range is a run of bytes on a disk.
type Range struct {
	Offset int64 `json:"offset"`
	Length int64 `json:"length"`
}

func (d *Difference) add(offset, length int64) {
	if k := len(d.Ranges) - 1; k >= 0 && d.More == 0 {
		// The pieces of a file come in its own order: the next one may lie before the last.
		gap := offset - d.Ranges[k].Offset - d.Ranges[k].Length
		if gap >= 0 && gap < mergeGap {
			d.Ranges[k].Length = offset + length - d.Ranges[k].Offset
			return
		}
	}
	if len(d.Ranges) == maxRanges {
		d.More++
		return
	}
	d.Ranges = append(d.Ranges, Range{offset, length})
}

// mergeGap joins ranges that are closer than a sector: nobody wants to read of every byte of a changed file that
// happens to be the same.
const mergeGap = 512

// CompareSystem compares a system disk of size bytes with its master's manifest: every byte of every region, and what
// lies behind the last. master is the master's own system disk, or nil: with it ranges are exact, and what changed
// around a changed file is told apart from the file. It is believed as far as it has the manifest's digests. Errors are
// those of reading; a difference is none.
func CompareSystem(ctx context.Context, disk io.ReaderAt, size int64, m *master.Manifest, own io.ReaderAt) (*System,
	error) {
	c := &comparison{ctx: ctx, disk: disk, size: size, m: m, own: own, found: map[owner]*Difference{}}
	if err := c.run(); err != nil {
		return nil, fmt.Errorf("system disk: %w", err)
	}
	return &System{Size: max(size, m.Disk.Size), Exact: own != nil, Differences: c.result()}, nil
}
