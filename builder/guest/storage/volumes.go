package storage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"rempart/builder/guest/lvm"
)

// Volumes are the disks of a guest as volumes of LVM: GROUP/GUEST_var is its state disk, and GROUP/GUEST_root, where
// there is one, its system disk: a read-only snapshot of a volume with the master, which all guests of it share. One
// that waits is GUEST_var.new, those in quarantine have its number behind them: GUEST_var.0001, GUEST_var.failed-0001.
// The identity disk is a file of the guest's folder.
type Volumes struct {
	Files
	Tools       lvm.Tools
	Group, Pool string // no pool: thick volumes
	Guest       string
	Root        bool // there is GUEST_root
}

// Endings of volumes that are only there for a while.
const (
	partEnd = ".part" // is being made
	snapEnd = ".snap" // of Snapshot
)

// base is the name of the guest's own volume of a kind.
func (v Volumes) base(kind Kind) string {
	if kind == System {
		return v.Guest + "_root"
	}
	return v.Guest + "_var"
}

// name is that of a disk that is a volume.
func (v Volumes) name(d Disk) string {
	switch d.Place {
	case Next:
		return v.base(d.Kind) + ".new"
	case Aside:
		return v.base(d.Kind) + "." + d.Entry
	case Failed:
		return v.base(d.Kind) + ".failed-" + d.Entry
	}
	return v.base(d.Kind)
}

// CheckVolumes tells what is wrong with a place for volumes, "GROUP" or "GROUP/POOL", of a guest.
func CheckVolumes(where, guest string) error {
	group, pool, thin := strings.Cut(where, "/")
	v := Volumes{Group: group, Guest: guest}
	err := lvm.CheckName(group, v.name(Disk{Kind: System, Place: Failed, Entry: "0000"})) // the longest
	if thin {
		err = errors.Join(err, lvm.CheckGroup(pool))
	}
	return err
}

// Path is Disks.Path.
func (v Volumes) Path(d Disk) string {
	if d.Kind == Identity {
		return v.Files.Path(d)
	}
	return lvm.Device(v.Group, v.name(d))
}

// There is Disks.There.
func (v Volumes) There(ctx context.Context, d Disk) (bool, error) {
	if d.Kind == Identity {
		return v.Files.There(ctx, d)
	}
	all, err := v.Tools.Volumes(ctx, v.Group)
	_, have := all[v.name(d)]
	return have, err
}

// Size is Disks.Size: whole extents.
func (v Volumes) Size(ctx context.Context, size int64) (int64, error) {
	g, err := v.Tools.Group(ctx, v.Group)
	if err != nil {
		return 0, err
	}
	return whole(size, g.Extent), nil
}

func whole(size, extent int64) int64 { return (size + extent - 1) / extent * extent }

// Make is Disks.Make. A thick volume is written over with zeros first: what lies there was another's.
func (v Volumes) Make(ctx context.Context, d Disk, size int64, fill func(string) error) error {
	if d.Kind == Identity {
		return v.Files.Make(ctx, d, size, fill)
	}
	return v.appear(ctx, d, func(part string) error {
		if err := v.create(ctx, part, size); err != nil {
			return err
		}
		path := lvm.Device(v.Group, part)
		if v.Pool == "" {
			if err := zero(ctx, path); err != nil {
				return err
			}
		}
		if fill != nil {
			if err := fill(path); err != nil {
				return err
			}
		}
		return syncDevice(path)
	})
}

func (v Volumes) create(ctx context.Context, name string, size int64) error {
	size, err := v.Size(ctx, size)
	if err != nil {
		return err
	}
	if v.Pool == "" {
		return v.Tools.Create(ctx, v.Group, name, size)
	}
	return v.Tools.CreateThin(ctx, v.Group, v.Pool, name, size)
}

// appear has make make a volume under a name that nobody looks for, and then gives it its own.
func (v Volumes) appear(ctx context.Context, d Disk, make func(part string) error) error {
	part := v.base(d.Kind) + partEnd
	if err := v.remove(ctx, part); err != nil {
		return err
	}
	err := make(part)
	if err == nil {
		err = v.Tools.Rename(ctx, v.Group, part, v.name(d))
	}
	if err != nil {
		return errors.Join(err, v.remove(context.WithoutCancel(ctx), part))
	}
	return nil
}

// Clone is Disks.Clone: in a pool a snapshot, which is a volume like its origin; else a copy, for the quarantine must
// not hang on the guest's own volume, nor that on the quarantine.
func (v Volumes) Clone(ctx context.Context, from, to Disk) error {
	if from.Kind == Identity {
		return v.Files.Clone(ctx, from, to)
	}
	return v.appear(ctx, to, func(part string) error {
		if v.Pool != "" {
			return v.Tools.SnapshotThin(ctx, v.Group, v.name(from), part, false)
		}
		size, err := Length(v.Path(from))
		if err == nil {
			err = v.Tools.Create(ctx, v.Group, part, size)
		}
		if err != nil {
			return err
		}
		return copyDevice(ctx, v.Path(from), lvm.Device(v.Group, part))
	})
}

// Move is Disks.Move.
func (v Volumes) Move(ctx context.Context, from, to Disk) error {
	if from.Kind == Identity {
		return v.Files.Move(ctx, from, to)
	}
	all, err := v.Tools.Volumes(ctx, v.Group)
	if err != nil {
		return err
	}
	if _, have := all[v.name(from)]; !have {
		return nil
	}
	if _, taken := all[v.name(to)]; taken {
		return fmt.Errorf("volume %s/%s is to become %s, which is there already", v.Group, v.name(from), v.name(to))
	}
	return v.Tools.Rename(ctx, v.Group, v.name(from), v.name(to))
}

// Grow is Disks.Grow. The new extents of a thick volume are made zero: what lies there was another's.
func (v Volumes) Grow(ctx context.Context, d Disk, before, size int64) error {
	now, err := Length(v.Path(d))
	if err == nil {
		size, err = v.Size(ctx, size)
	}
	if err != nil {
		return err
	}
	if size > now {
		if err := v.Tools.Extend(ctx, v.Group, v.name(d), size); err != nil {
			return err
		}
	}
	if v.Pool != "" {
		return nil
	}
	return zeroFrom(ctx, v.Path(d), before)
}

// Remove is Disks.Remove.
func (v Volumes) Remove(ctx context.Context, d Disk) error {
	if d.Kind == Identity {
		return v.Files.Remove(ctx, d)
	}
	return v.remove(ctx, v.name(d))
}

// remove removes those volumes that are there, and nobody else's with them.
func (v Volumes) remove(ctx context.Context, names ...string) error {
	all, err := v.Tools.Volumes(ctx, v.Group)
	if err != nil {
		return err
	}
	for _, name := range names {
		one, have := all[name]
		if !have {
			continue
		}
		for _, other := range all {
			// Only within a pool does a snapshot live on without its origin.
			if other.Origin == name && (one.Pool == "" || other.Pool == "") {
				return fmt.Errorf("volume %s/%s has the snapshot %s, which would go with it; remove that first: lvremove "+
					"%[1]s/%[3]s", v.Group, name, other.Name)
			}
		}
		if one.Open {
			return v.open(name)
		}
		if err := v.Tools.Remove(ctx, v.Group, name); err != nil {
			return err
		}
		delete(all, name)
	}
	return nil
}

// open says that a volume is in use.
func (v Volumes) open(name string) error {
	return fmt.Errorf("volume %s/%s is in use; end what has it open: lsof %s, findmnt %[3]s, or a guest of Xen that has "+
		"it attached", v.Group, name, lvm.Device(v.Group, name))
}

// Clear is Disks.Clear.
func (v Volumes) Clear(ctx context.Context) error {
	var names []string
	for _, kind := range []Kind{State, System} {
		names = append(names, v.base(kind)+partEnd, v.name(Disk{Kind: kind, Place: Next}))
	}
	if err := v.remove(ctx, append(names, v.layEnd())...); err != nil {
		return err
	}
	return v.Files.Clear(ctx)
}

// Snapshot is Disks.Snapshot.
func (v Volumes) Snapshot(ctx context.Context) (string, func() error, error) {
	name := v.base(State) + snapEnd
	if err := v.remove(ctx, name); err != nil { // of one that was killed
		return "", nil, err
	}
	var err error
	if v.Pool != "" {
		err = v.Tools.SnapshotThin(ctx, v.Group, v.base(State), name, true)
	} else {
		var size int64
		if size, err = v.room(ctx); err == nil {
			err = v.Tools.Snapshot(ctx, v.Group, v.base(State), name, size, true)
		}
	}
	if err != nil {
		return "", nil, fmt.Errorf("snapshot of %s/%s: %w", v.Group, v.base(State), err)
	}
	return lvm.Device(v.Group, name), func() error { return v.release(context.WithoutCancel(ctx), name) }, nil
}

// release ends a snapshot. One that was full by then was no picture of the disk any more, and what was read is
// worthless.
func (v Volumes) release(ctx context.Context, name string) error {
	all, err := v.Tools.Volumes(ctx, v.Group)
	if err == nil && all[name].Invalid {
		err = fmt.Errorf("the snapshot %s/%s was full before it was read: the guest writes a lot; make room in %[1]s by "+
			"vgextend, or stop the guest first", v.Group, name)
	}
	return errors.Join(err, v.remove(ctx, name))
}

// tables is what a thick snapshot takes for its own tables, in bytes for each MiB of changes, generously: with chunks
// of 4 KiB (lvcreate(8), --chunksize) 16 bytes each (Documentation/admin-guide/device-mapper/snapshot.rst).
const tables = 16 << 10

// room is how large a thick snapshot of the state disk can be: with room for all of it, or what there is.
func (v Volumes) room(ctx context.Context) (int64, error) {
	size, err := Length(v.Path(Disk{Kind: State}))
	if err != nil {
		return 0, err
	}
	g, err := v.Tools.Group(ctx, v.Group)
	if err != nil {
		return 0, err
	}
	most := min(whole(size+size>>20*tables, g.Extent)+g.Extent, g.Free)
	if most == 0 {
		return 0, fmt.Errorf("volume group %s has no room left for a snapshot; make some by vgextend, or by `rempart "+
			"quarantine prune %s`", v.Group, v.Guest)
	}
	return most, nil
}

// mostUsed is how full a thin pool may be, in percent, when another volume is put into it: one that is full stops every
// guest that writes to it.
const mostUsed = 90

// Check is Disks.Check.
func (v Volumes) Check(ctx context.Context, size int64, runs bool) error {
	g, err := v.Tools.Group(ctx, v.Group)
	if err != nil {
		return fmt.Errorf("%w; the volume groups there are: vgs", err)
	}
	all, err := v.Tools.Volumes(ctx, v.Group)
	if err != nil {
		return err
	}
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	for _, kind := range []Kind{State, System} {
		name := v.base(kind)
		now, have := all[name]
		switch {
		case !have:
		case !now.Active:
			bad("volume %s/%s is not active; lvchange --activate y %[1]s/%[2]s", v.Group, name)
		case now.Open && !runs:
			errs = append(errs, v.open(name))
		case now.ReadOnly && kind == State:
			bad("volume %s/%s is read-only; lvchange --permission rw %[1]s/%[2]s", v.Group, name)
		}
	}
	size = whole(size, g.Extent)
	pool, have := all[v.Pool]
	switch {
	case v.Pool == "" && size > g.Free:
		bad("volume group %s has %d bytes left, and %d are needed; make room by vgextend, or by `rempart quarantine "+
			"prune %s`", v.Group, g.Free, size, v.Guest)
	case v.Pool == "":
	case !have || !pool.IsPool:
		bad("%s/%s is no thin pool; lvcreate --type thin-pool --size SIZE --name %[2]s %[1]s", v.Group, v.Pool)
	case !pool.Zero:
		bad("thin pool %s/%s gives its volumes what others have written; lvchange --zero y %[1]s/%[2]s", v.Group, v.Pool)
	case pool.Used > mostUsed:
		bad("thin pool %s/%s is full to %.0f %%; lvextend --size +SIZE %[1]s/%[2]s, or `rempart quarantine prune %[4]s`",
			v.Group, v.Pool, pool.Used, v.Guest)
	}
	return errors.Join(errs...)
}

// Used is Disks.Used, by one report of all volumes.
func (v Volumes) Used(ctx context.Context, disks ...Disk) ([]int64, error) {
	all, err := v.Tools.Volumes(ctx, v.Group)
	if err != nil {
		return nil, err
	}
	used := make([]int64, len(disks))
	for i, d := range disks {
		one := all[v.name(d)]
		switch {
		case d.Kind == Identity:
			files, err := v.Files.Used(ctx, d)
			if err != nil {
				return nil, err
			}
			used[i] = files[0]
		case one.Pool != "":
			used[i] = int64(float64(one.Size) * one.Used / 100)
		default:
			used[i] = one.Size
		}
	}
	return used, nil
}

// Left is Disks.Left.
func (v Volumes) Left(ctx context.Context) ([]string, error) {
	left, err := v.Files.Left(ctx)
	if err != nil {
		return nil, err
	}
	names, err := v.own(ctx)
	for _, name := range names {
		left = append(left, lvm.Device(v.Group, name))
	}
	return left, err
}

// own are the names of the guest's volumes that are there, sorted.
func (v Volumes) own(ctx context.Context) (names []string, err error) {
	all, err := v.Tools.Volumes(ctx, v.Group)
	if err != nil {
		return nil, err
	}
	mine := regexp.MustCompile(`^` + regexp.QuoteMeta(v.Guest) +
		`_(var|root)(|\.new|\.part|\.snap|\.lay|\.(failed-)?[0-9]{4})$`)
	for name := range all {
		if mine.MatchString(name) {
			names = append(names, name)
		}
	}
	slices.SortFunc(names, func(a, b string) int {
		return strings.Compare(rank(a)+a, rank(b)+b)
	})
	return names, nil
}

// rank has snapshots go before their origins.
func rank(name string) string {
	if strings.HasSuffix(name, snapEnd) {
		return "0"
	}
	return "1"
}

// RemoveAll is Disks.RemoveAll.
func (v Volumes) RemoveAll(ctx context.Context) error {
	names, err := v.own(ctx)
	if err == nil && len(names) > 0 {
		err = v.remove(ctx, names...)
	}
	return errors.Join(err, v.Files.RemoveAll(ctx))
}

// piece is how much is written between two looks whether to go on, in bytes.
const piece = 16 << 20

// zero makes all of a device zero.
func zero(ctx context.Context, path string) error { return zeroFrom(ctx, path, 0) }

func zeroFrom(ctx context.Context, path string, from int64) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	for at := from; err == nil && at < size; at += piece {
		if err = ctx.Err(); err == nil {
			// Block devices know it since Linux 4.9; those that cannot are written to (block/fops.c, blkdev_fallocate).
			err = unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_ZERO_RANGE|unix.FALLOC_FL_KEEP_SIZE, at, min(piece, size-at))
		}
	}
	if err == nil {
		err = f.Sync()
	}
	if err != nil {
		return fmt.Errorf("%s: making it zero: %w", path, err)
	}
	return nil
}

// copyDevice copies all bytes of a device to another of its size.
func copyDevice(ctx context.Context, from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer out.Close()
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := io.CopyN(out, in, piece)
		if errors.Is(err, io.EOF) {
			return out.Sync()
		}
		if err != nil {
			return fmt.Errorf("copying %s to %s after %d bytes of the last piece: %w", from, to, n, err)
		}
	}
}

func syncDevice(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
