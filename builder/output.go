package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"rempart/builder/files"
)

// writeFile writes a file that appears whole or not at all, or lays the same into a block device that nobody has
// mounted, or sends it down what else has that name, such as a pipe. A link leads to the file that is meant, and stays:
// /dev/stdout is one.
func writeFile(name string, write func(f *os.File) error) error {
	info, err := os.Stat(name)
	if err != nil || info.Mode().IsRegular() {
		if target, err := filepath.EvalSymlinks(name); err == nil {
			name = target
		}
		return files.WriteFrom(name, 0o644, write)
	}
	flags, sync := os.O_WRONLY, false
	if info.Mode()&(fs.ModeDevice|fs.ModeCharDevice) == fs.ModeDevice {
		flags, sync = flags|unix.O_EXCL, true // without O_CREAT: EBUSY when it is in use by the system (open(2))
	}
	f, err := os.OpenFile(name, flags, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	err = write(f)
	if sync {
		err = errors.Join(err, f.Sync())
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	return nil
}
