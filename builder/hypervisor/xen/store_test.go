package xen

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// shortQueue listens as xenstored does, and has as many connections wait as its queue holds.
func shortQueue(t *testing.T) (socket string, listener net.Listener) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "socket")
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), socket)
	defer f.Close()
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrUnix{Name: socket}), unix.Listen(fd, 1)); err != nil {
		t.Fatal(err)
	}
	if listener, err = net.FileListener(f); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	for range 10 {
		waiting, err := net.Dial("unix", socket)
		if errors.Is(err, unix.EAGAIN) {
			return socket, listener
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { waiting.Close() })
	}
	t.Fatal("the queue of the socket is never full")
	return
}

// TestDialWaits: others that wait to be taken are no reason to give up, or to go another way.
func TestDialWaits(t *testing.T) {
	socket, listener := shortQueue(t)
	device := filepath.Join(t.TempDir(), "device")
	if err := os.WriteFile(device, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	connected := make(chan error)
	go func() {
		conn, err := dom0Store(t.Context(), socket, device)
		if err == nil {
			if _, isSocket := conn.(net.Conn); !isSocket {
				err = errors.New("the device was taken, which is there for a xenstored that runs elsewhere")
			}
			_, writeErr := conn.Write([]byte("hello"))
			err = errors.Join(err, writeErr, conn.Close())
		}
		connected <- err
	}()
	for range 3 {
		conn, err := listener.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	if err := <-connected; err != nil {
		t.Errorf("dom0Store of a socket that others wait at = %v; want a connection", err)
	}
}

// TestDialGivesUp with who asked for it.
func TestDialGivesUp(t *testing.T) {
	socket, _ := shortQueue(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := dial(ctx, socket); !errors.Is(err, context.Canceled) {
		t.Errorf("dial at a socket that takes nobody = %v; want %v", err, context.Canceled)
	}
}

// TestStoreElsewhere: without a socket it is the device.
func TestStoreElsewhere(t *testing.T) {
	dir := t.TempDir()
	socket, device := filepath.Join(dir, "socket"), filepath.Join(dir, "device")
	_, err := dom0Store(t.Context(), socket, device)
	for _, name := range []string{socket, device} {
		if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), name) {
			t.Errorf("dom0Store without xenstored = %v; want an error that names %s", err, name)
		}
	}
	if err := os.WriteFile(device, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := dom0Store(t.Context(), socket, device)
	if err != nil {
		t.Fatalf("dom0Store by the device = %v", err)
	}
	f.Close()
}
