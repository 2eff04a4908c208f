package handover

import (
	"context"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"rempart/firstboot/contract"
)

// Watch tells of changes in the directory of lists: of a list, or that all have been handed over. It ends with ctx. The
// first change is told at once: what was handed over before anybody watched is then not missed.
func Watch(ctx context.Context, root string) (<-chan struct{}, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("inotify_init1", err)
	}
	f := os.NewFile(uintptr(fd), "changes of lists") // not blocking, so it can be closed while it is read
	dir := filepath.Join(root, contract.ListsDir)
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
