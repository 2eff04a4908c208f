// Package files says where the files of a user of this machine lie, and has them appear whole: a reader, or whoever
// comes after a power cut, finds the old content or the new one and nothing between.
//
// What it deliberately does not do: lock, or keep more than one file in step with another; whoever needs that writes a
// journal.
package files

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// ErrNowhere: it cannot be told where the user's data are.
var ErrNowhere = errors.New("no folder for data is known")

// Data is the folder for a kind of data that rempart keeps: /var/lib/rempart/KIND for root, else where the XDG Base
// Directory Specification has a user's data. It is not made.
func Data(kind string) (string, error) {
	if os.Geteuid() == 0 {
		return filepath.Join("/var/lib/rempart", kind), nil
	}
	if dir := os.Getenv("XDG_DATA_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "rempart", kind), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("where to keep %s: %w: %w; set HOME or XDG_DATA_HOME", kind, ErrNowhere, err)
	}
	return filepath.Join(home, ".local", "share", "rempart", kind), nil
}

// Write gives a file a content and a mode, and has both on the disk when it returns.
func Write(path string, b []byte, mode fs.FileMode) error {
	return WriteFrom(path, mode, func(f *os.File) error { _, err := f.Write(b); return err })
}

// WriteFrom is Write of a content that write writes, into a file of another name that lies beside the path.
func WriteFrom(path string, mode fs.FileMode, write func(*os.File) error) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*") // mode 0600
	if err != nil {
		return nowhere(path, err)
	}
	err = write(f)
	if err == nil && mode != 0o600 {
		err = f.Chmod(mode)
	}
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("writing %s: %w", path, err), os.Remove(f.Name()))
	}
	return SyncFolder(filepath.Dir(path))
}

// nowhere is the error of a file that there is no place for. It names the file, and not the one meant to become it.
func nowhere(path string, err error) error {
	var of *fs.PathError
	if errors.As(err, &of) {
		return fmt.Errorf("writing %s: folder %s: %w", path, filepath.Dir(path), of.Err)
	}
	return err
}

// Sweep removes from a folder what a Write of some of its files left there that was ended on the way, by a power cut
// say. Nobody may write to those files meanwhile.
func Sweep(folder string, names ...string) error {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return err
	}
	var failed []error
	for _, e := range entries {
		for _, name := range names {
			number, ok := strings.CutPrefix(e.Name(), "."+name+"-")
			if ok && number != "" && strings.Trim(number, "0123456789") == "" { // as os.CreateTemp has it
				failed = append(failed, os.Remove(filepath.Join(folder, e.Name())))
			}
		}
	}
	return errors.Join(failed...)
}

// Move gives a file or folder another name on the same filesystem, and has that on the disk when it returns.
func Move(from, to string) error {
	if err := os.Rename(from, to); err != nil {
		return err
	}
	if err := SyncFolder(filepath.Dir(to)); err != nil || filepath.Dir(from) == filepath.Dir(to) {
		return err
	}
	return SyncFolder(filepath.Dir(from))
}

// SyncFolder has the names in a folder on the disk when it returns.
func SyncFolder(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("folder %s: %w", path, err)
	}
	return nil
}
