package xen

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// xenstored's socket, where it runs in dom0 (xenstored(8)).
const xenstoreSocket = "/run/xenstored/socket"

// dom0Store connects as Xen's own tools do: by the socket of xenstored, and where that runs elsewhere, in a domain of
// its own, by the device.
func dom0Store(ctx context.Context, socket, device string) (io.ReadWriteCloser, error) {
	conn, err := dial(ctx, socket)
	if err == nil {
		return conn, nil
	}
	if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ECONNREFUSED) {
		return nil, err
	}
	f, errDevice := os.OpenFile(device, os.O_RDWR, 0)
	if errDevice != nil {
		return nil, errors.Join(err, errDevice)
	}
	return f, nil
}

// patient is how long one try to connect waits before it looks whether its caller has given up.
const patient = time.Second

// dial connects with a socket as a program that waits does. net.Dial does not wait: it fails at once where as many
// others wait as the queue holds, and that of xenstored holds two (listen(sock, 1) in tools/xenstore/xenstored_core.c;
// EAGAIN of connect(2)).
func dial(ctx context.Context, socket string) (net.Conn, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	f := os.NewFile(uintptr(fd), socket)
	defer f.Close()
	bound := unix.NsecToTimeval(patient.Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &bound); err != nil {
		return nil, os.NewSyscallError("setsockopt", err)
	}
	for {
		err := unix.Connect(fd, &unix.SockaddrUnix{Name: socket})
		if err == nil {
			break
		}
		if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
			return nil, &os.PathError{Op: "connect", Path: socket, Err: err}
		}
		if ctx.Err() != nil {
			return nil, fmt.Errorf("%s: too many wait to connect: %w", socket, context.Cause(ctx))
		}
	}
	conn, err := net.FileConn(f) // a duplicate
	if err != nil {
		return nil, fmt.Errorf("%s: %w", socket, err)
	}
	return conn, nil
}
