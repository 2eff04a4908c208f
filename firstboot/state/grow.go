package state

import (
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// resizeFS is EXT4_IOC_RESIZE_FS, _IOW('f', 16, __u64), of fs/ext4/ext4.h. The kernel grows a mounted filesystem
// through its journal: a power cut leaves it at the old size or the new one.
const resizeFS = 0x40086610

// Grow grows the ext4 mounted at dir to size bytes. It tells whether anything changed; a filesystem that is as large or
// larger already is left alone.
func Grow(dir string, size int64) (grown bool, err error) {
	var before unix.Statfs_t
	if err := unix.Statfs(dir, &before); err != nil {
		return false, fmt.Errorf("growing the filesystem: %w", err)
	}
	if before.Bsize <= 0 {
		return false, fmt.Errorf("growing the filesystem: block size %d", before.Bsize)
	}
	f, err := os.Open(dir)
	if err != nil {
		return false, fmt.Errorf("growing the filesystem: %w", err)
	}
	defer f.Close()
	blocks := uint64(size / before.Bsize)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), resizeFS, uintptr(unsafe.Pointer(&blocks)))
	if errno != 0 {
		return false, fmt.Errorf("growing the filesystem to %d bytes: %w", size, errno)
	}
	var after unix.Statfs_t
	if err := unix.Statfs(dir, &after); err != nil {
		return false, fmt.Errorf("growing the filesystem: %w", err)
	}
	return after.Blocks > before.Blocks, nil
}
