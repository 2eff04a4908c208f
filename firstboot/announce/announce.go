// Package announce hears from the kernel that links, addresses or routes have changed. What changed is not read: who
// hears of it looks at the state afresh, so a lost announcement (ENOBUFS) is as good as any, and several are one.
//
// What it deliberately does not do: say what changed, or wait for the announcements of one change to end.
package announce

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Socket is where announcements come.
type Socket struct{ file *os.File }

// Subscribe opens a socket for the announcements of some groups: RTMGRP_* of <linux/rtnetlink.h>.
func Subscribe(groups uint32) (*Socket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("opening netlink for events: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("subscribing to netlink events: %w", err)
	}
	return &Socket{os.NewFile(uintptr(fd), "netlink events")}, nil
}

// Watch puts a token into dirty, which has room for one, for every announcement until Close is called, and returns nil
// then.
func (s *Socket) Watch(dirty chan<- struct{}) error {
	buf := make([]byte, 1<<13)
	for {
		_, err := s.file.Read(buf)
		switch {
		case errors.Is(err, os.ErrClosed):
			return nil
		case err != nil && !errors.Is(err, syscall.ENOBUFS):
			return fmt.Errorf("reading netlink events: %w", err)
		}
		select {
		case dirty <- struct{}{}:
		default:
		}
	}
}

// Close ends Watch. Calling it again is harmless.
func (s *Socket) Close() { _ = s.file.Close() }
