package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"rempart/builder/files"
)

// writeFile writes a file that appears whole or not at all, or lays the same into a block device.
func writeFile(name string, write func(f *os.File) error) error {
	info, err := os.Stat(name)
	if err != nil || info.Mode()&fs.ModeDevice == 0 {
		return files.WriteFrom(name, 0o644, write)
	}
	f, err := os.OpenFile(name, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := errors.Join(write(f), f.Sync()); err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	return nil
}
