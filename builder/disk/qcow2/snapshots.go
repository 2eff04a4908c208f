package qcow2

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"

	"rempart/builder/disk"
)

// ErrNoSnapshot is returned for a snapshot that is not in the image.
var ErrNoSnapshot = errors.New("no such snapshot")

// Snapshot is a state of the disk that was kept within the image.
type Snapshot struct {
	ID, Name string // whatever was written there
	Taken    time.Time
	Size     int64 // of the virtual disk then, bytes
	// Memory is the size of the machine's memory that was kept with it, in bytes; 0: the disk only.
	Memory uint64

	l1Offset uint64
	l1Size   uint32
}

// The entries of the snapshot table (docs/interop/qcow2.txt, "Snapshots").
const (
	maxSnapshots     = 65536 // QCOW_MAX_SNAPSHOTS
	snapshotFixed    = 40
	snapshotMemory   = 0 // in the extra data: the memory's size, 8 bytes
	snapshotDisk     = 8 // in the extra data: the virtual size, 8 bytes
	maxSnapshotTable = 64 << 20
	maxExtraData     = 1024 // QCOW_MAX_SNAPSHOT_EXTRA_DATA
)

// Snapshots are those of the image, in its order.
func (i *Image) Snapshots() ([]Snapshot, error) {
	if i.snapshots > maxSnapshots {
		return nil, fmt.Errorf("qcow2: %d snapshots: %w", i.snapshots, ErrCorrupt)
	}
	if i.snapshots > 0 && (i.snapshotsAt%uint64(i.clusterSize()) != 0 || i.snapshotsAt > uint64(i.length)) {
		return nil, fmt.Errorf("qcow2: snapshots at offset %d: %w", i.snapshotsAt, ErrCorrupt)
	}
	var all []Snapshot
	at, start := int64(i.snapshotsAt), int64(i.snapshotsAt)
	for n := range i.snapshots {
		s, length, err := i.readSnapshot(at)
		if err != nil {
			return nil, fmt.Errorf("qcow2: snapshot %d: %w", n+1, err)
		}
		if at += length; at-start > maxSnapshotTable {
			return nil, fmt.Errorf("qcow2: a table of snapshots of more than %d bytes: %w", maxSnapshotTable, ErrCorrupt)
		}
		all = append(all, s)
	}
	return all, nil
}

// readSnapshot reads an entry, and tells how long it is.
func (i *Image) readSnapshot(at int64) (s Snapshot, length int64, err error) {
	fixed := make([]byte, snapshotFixed)
	if err := disk.ReadFull(i.r, fixed, at); err != nil {
		return s, 0, err
	}
	be := binary.BigEndian
	s = Snapshot{l1Offset: be.Uint64(fixed), l1Size: be.Uint32(fixed[8:]), Size: i.size,
		Memory: uint64(be.Uint32(fixed[32:])),
		Taken:  time.Unix(int64(be.Uint32(fixed[16:])), int64(min(be.Uint32(fixed[20:]), 999999999))).UTC()}
	id, name, extra := int64(be.Uint16(fixed[12:])), int64(be.Uint16(fixed[14:])), int64(be.Uint32(fixed[36:]))
	if extra > maxExtraData {
		return s, 0, fmt.Errorf("%d bytes of extra data: %w", extra, ErrCorrupt)
	}
	rest := make([]byte, extra+id+name)
	if err := disk.ReadFull(i.r, rest, at+snapshotFixed); err != nil {
		return s, 0, err
	}
	if extra >= snapshotMemory+8 {
		s.Memory = be.Uint64(rest[snapshotMemory:])
	}
	if extra >= snapshotDisk+8 {
		size := be.Uint64(rest[snapshotDisk:])
		if size > math.MaxInt64>>1 {
			return s, 0, fmt.Errorf("a disk of %d bytes: %w", size, ErrCorrupt)
		}
		s.Size = int64(size)
	}
	s.ID, s.Name = string(rest[extra:extra+id]), string(rest[extra+id:])
	return s, (snapshotFixed + int64(len(rest)) + 7) &^ 7, nil
}

// Snapshot is the disk as it was when a snapshot was taken, by its ID or its name.
func (i *Image) Snapshot(which string) (*Image, error) {
	all, err := i.Snapshots()
	if err != nil {
		return nil, err
	}
	var found *Snapshot
	for n, s := range all {
		if s.ID == which || found == nil && s.Name == which {
			found = &all[n]
		}
	}
	if found == nil {
		return nil, fmt.Errorf("qcow2: %w: %q; there are %d", ErrNoSnapshot, which, len(all))
	}
	h := i.header
	h.size = found.Size
	if err := h.checkL1(found.l1Size, found.l1Offset, i.length); err != nil {
		return nil, fmt.Errorf("qcow2: snapshot %q: %w", which, err)
	}
	then := newImage(&h, i.r, i.length)
	then.backing = i.backing
	if err := then.readL1(); err != nil {
		return nil, fmt.Errorf("qcow2: snapshot %q: %w", which, err)
	}
	return then, nil
}
