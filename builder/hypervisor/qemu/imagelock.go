package qemu

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// writeLock is the byte of an image that every QEMU which may write to it holds a lock on, whoever started it
// (block/file-posix.c: RAW_LOCK_PERM_BASE is 100; include/block/block-common.h: BLK_PERM_WRITE is bit 1).
const writeLock = 100 + 1

// Writes tells whether some QEMU on this machine has the image or volume at a path open to write to it. A file that is
// not there nobody writes to. It takes no lock itself, not for a moment.
func Writes(path string) (bool, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	l := unix.Flock_t{Type: unix.F_WRLCK, Start: writeLock, Len: 1}
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, &l); err != nil {
		return false, fmt.Errorf("asking who writes to %s: %w", path, err)
	}
	return l.Type != unix.F_UNLCK, nil
}
