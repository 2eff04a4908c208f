package link

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// events is a socket on which the kernel announces that something about interfaces, addresses or routes changed.
// What changed is not read: the state is looked at afresh, so a lost announcement (ENOBUFS) is as good as any.
type events struct {
	file *os.File
}

func subscribe() (*events, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("opening netlink for events: %w", err)
	}
	groups := uint32(unix.RTMGRP_LINK | unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV6_IFADDR |
		unix.RTMGRP_IPV4_ROUTE | unix.RTMGRP_IPV6_ROUTE |
		1<<(unix.RTNLGRP_IPV4_RULE-1) | 1<<(unix.RTNLGRP_IPV6_RULE-1))
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("subscribing to netlink events: %w", err)
	}
	return &events{file: os.NewFile(uintptr(fd), "netlink events")}, nil
}

// watch puts a token into dirty for every announcement until close is called. dirty has room for one: several
// announcements are one reason to look.
func (e *events) watch(dirty chan<- struct{}) error {
	buf := make([]byte, 1<<13)
	for {
		_, err := e.file.Read(buf)
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

func (e *events) close() { _ = e.file.Close() }
