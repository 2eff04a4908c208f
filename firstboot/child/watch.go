package child

import (
	"context"
	"os"

	"golang.org/x/sys/unix"
)

// WatchDir tells of files of another child that were put into place in a directory, by renaming. It ends with ctx. The
// first change is told at once: what was put there before anybody watched is then not missed.
func WatchDir(ctx context.Context, dir string) (<-chan struct{}, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("inotify_init1", err)
	}
	f := os.NewFile(uintptr(fd), "changes in "+dir) // not blocking, so it can be closed while it is read
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_MOVED_TO|unix.IN_ONLYDIR); err != nil {
		f.Close()
		return nil, os.NewSyscallError("inotify_add_watch "+dir, err)
	}
	changes := make(chan struct{}, 1)
	changes <- struct{}{}
	context.AfterFunc(ctx, func() { f.Close() })
	go func() {
		defer close(changes)
		// What changed is not asked: the buffer may have overflowed.
		for b := make([]byte, 4096); ; {
			if _, err := f.Read(b); err != nil {
				return
			}
			select {
			case changes <- struct{}{}:
			default:
			}
		}
	}()
	return changes, nil
}
