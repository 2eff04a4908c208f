package module

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Plugged hears of devices that are plugged in while the machine runs.
type Plugged struct{ file *os.File }

// EventSocket opens the kernel's device event socket (group 1 of NETLINK_KOBJECT_UEVENT, lib/kobject_uevent.c). It does
// not block.
func EventSocket() (fd int, err error) {
	fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK,
		unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return -1, fmt.Errorf("listening for devices: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1}); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("listening for devices: %w", err)
	}
	return fd, nil
}

// ListenPlugged begins to hear.
func ListenPlugged() (*Plugged, error) {
	fd, err := EventSocket()
	if err != nil {
		return nil, err
	}
	return &Plugged{os.NewFile(uintptr(fd), "device events")}, nil
}

// gather is how long the events of one device are waited for: it shows further ones (PCI -> virtio -> disk).
const gather = 100 * time.Millisecond

// Each calls look after devices came whose driver a module may be, once for all that come together, until ctx is done.
// What the events say is not trusted: look goes through the devices themselves.
func (p *Plugged) Each(ctx context.Context, look func()) error {
	defer context.AfterFunc(ctx, func() { p.file.Close() })()
	buf := make([]byte, 1<<13) // the kernel's are of 2 KiB (UEVENT_BUFFER_SIZE)
	for {
		n, err := p.file.Read(buf)
		switch {
		case errors.Is(err, os.ErrClosed):
			return nil
		case err != nil && !errors.Is(err, unix.ENOBUFS):
			return fmt.Errorf("listening for devices: %w", err)
		case err == nil && !needsDriver(buf[:n]):
			continue
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(gather):
		}
		look()
	}
}

// needsDriver tells an event of a device that is added and names its driver: "add@PATH" and lines of KEY=VALUE, each
// ended by a zero byte.
func needsDriver(event []byte) bool {
	return bytes.HasPrefix(event, []byte("add@")) && bytes.Contains(event, []byte("\x00MODALIAS="))
}
