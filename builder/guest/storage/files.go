package storage

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"rempart/builder/files"
)

// Names of the files in a guest's folder.
const (
	StateFile       = "state.raw"
	IdentityFile    = "identity.raw"
	FailedStateFile = "failed-" + StateFile
	// OverlayFile is in place of StateFile what a guest of another system writes to.
	OverlayFile = "root.qcow2"
	// Work is the folder of the disks that wait.
	Work = "new"
	// Quarantine is the folder of what was set aside.
	Quarantine = "quarantine"
)

// Vars is where the variables of UEFI firmware are kept that belong to an overlay: what boots it, and what it wrote
// there. They go wherever the overlay goes, so that a new one begins with none of them.
func Vars(overlay string) string { return overlay + ".uefi-vars" }

// Files are the disks of a guest as files of its folder.
type Files struct {
	Dir     string
	Overlay bool // the state is an overlay
}

// with are the files of a disk: what belongs to it, and last itself. Of the former not all need be there.
func (f Files) with(d Disk) []string {
	path := f.Path(d)
	if d.Kind == State && f.Overlay {
		return []string{Vars(path), path}
	}
	return []string{path}
}

// Path is Disks.Path.
func (f Files) Path(d Disk) string {
	name := map[Kind]string{State: StateFile, Identity: IdentityFile}[d.Kind]
	if d.Kind == State && f.Overlay {
		name = OverlayFile
	}
	switch d.Place {
	case Next:
		return filepath.Join(f.Dir, Work, name)
	case Aside:
		return filepath.Join(f.Dir, Quarantine, d.Entry, name)
	case Failed:
		return filepath.Join(f.Dir, Quarantine, d.Entry, "failed-"+name)
	}
	return filepath.Join(f.Dir, name)
}

// There is Disks.There.
func (f Files) There(_ context.Context, d Disk) (bool, error) { return there(f.Path(d)) }

func there(path string) (bool, error) {
	_, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// Size is Disks.Size: a file has any.
func (f Files) Size(_ context.Context, size int64) (int64, error) { return size, nil }

// Make is Disks.Make. The file is sparse.
func (f Files) Make(_ context.Context, d Disk, size int64, fill func(string) error) error {
	path := f.Path(d)
	part := path + ".part"
	if err := os.RemoveAll(part); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	err := f.makePart(part, size, fill)
	if err == nil {
		err = files.Move(part, path)
	}
	if err != nil { // what goes back needs the room, on a disk that is full
		return errors.Join(err, os.RemoveAll(part))
	}
	return files.SyncFolder(f.Dir) // in which the folder of the path may be new
}

func (f Files) makePart(part string, size int64, fill func(string) error) error {
	file, err := os.OpenFile(part, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer file.Close()
	if err := file.Truncate(size); err != nil {
		return err
	}
	if fill != nil {
		if err := fill(part); err != nil {
			return err
		}
	}
	return file.Sync()
}

// Clone is Disks.Clone.
func (f Files) Clone(ctx context.Context, from, to Disk) error {
	if err := os.MkdirAll(filepath.Dir(f.Path(to)), 0o700); err != nil {
		return err
	}
	targets := f.with(to)
	for i, path := range f.with(from) {
		err := files.Clone(ctx, path, targets[i])
		if err != nil && (i == len(targets)-1 || !errors.Is(err, fs.ErrNotExist)) {
			return err
		}
	}
	return files.SyncFolder(f.Dir) // in which the folder of the new one may be new
}

// OwnsSystem is Disks.OwnsSystem: the guests of a master share that of the store.
func (f Files) OwnsSystem() bool { return false }

// Derive is Disks.Derive: there is none.
func (f Files) Derive(_ context.Context, _ Master, to Disk) error {
	return fmt.Errorf("%s: %w", f.Path(to), errors.ErrUnsupported)
}

// Move is Disks.Move.
func (f Files) Move(_ context.Context, from, to Disk) error {
	targets := f.with(to)
	for i, path := range f.with(from) {
		have, err := there(path)
		if err != nil {
			return err
		}
		if !have {
			continue
		}
		if taken, err := there(targets[i]); err != nil || taken {
			return errors.Join(fmt.Errorf("%s is to become %s, which is there already", path, targets[i]), err)
		}
		if err := files.Move(path, targets[i]); err != nil {
			return err
		}
	}
	return nil
}

// Grow is Disks.Grow. An overlay stays as large as it was made: how long its file is says nothing about the disk in it.
func (f Files) Grow(_ context.Context, d Disk, _, size int64) error {
	if f.Overlay && d.Kind == State {
		return nil
	}
	return os.Truncate(f.Path(d), size)
}

// Remove is Disks.Remove.
func (f Files) Remove(_ context.Context, d Disk) error {
	for _, path := range f.with(d) {
		if err := os.RemoveAll(path); err != nil {
			return err
		}
	}
	return nil
}

// Clear is Disks.Clear.
func (f Files) Clear(context.Context) error { return os.RemoveAll(filepath.Join(f.Dir, Work)) }

// Snapshot is Disks.Snapshot: there is none.
func (f Files) Snapshot(context.Context) (string, func() error, error) {
	return "", nil, fmt.Errorf("%s: a file cannot be read while a guest writes to it: %w", f.Path(Disk{Kind: State}),
		errors.ErrUnsupported)
}

// Check is Disks.Check: a file system that is full tells, and leaves everything as it is.
func (f Files) Check(context.Context, int64, bool) error { return nil }

// Used is Disks.Used.
func (f Files) Used(_ context.Context, disks ...Disk) ([]int64, error) {
	used := make([]int64, len(disks))
	for i, d := range disks {
		info, err := os.Stat(f.Path(d))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		used[i] = info.Size()
		if s, ok := info.Sys().(*syscall.Stat_t); ok {
			used[i] = s.Blocks * 512 // stat(2): whatever the filesystem's block size
		}
	}
	return used, nil
}

// Left is Disks.Left.
func (f Files) Left(context.Context) (left []string, err error) {
	for _, name := range []string{StateFile, OverlayFile, IdentityFile} {
		path := filepath.Join(f.Dir, name)
		have, err := there(path)
		if err != nil {
			return nil, err
		}
		if have {
			left = append(left, path)
		}
	}
	return left, nil
}

// RemoveAll is Disks.RemoveAll: the disks go with the folder.
func (f Files) RemoveAll(context.Context) error { return nil }
