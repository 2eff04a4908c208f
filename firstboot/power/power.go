// Package power is about the end of a machine: it watches for the power button, the KEY_POWER event that ACPI's button
// driver, or a hypervisor's virtual one, sends to /dev/input, and sees the last words off.
//
// What it deliberately does not do: decide what a press means.
package power

import (
	"encoding/binary"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// struct input_event on 64-bit machines and its values; <linux/input.h>, <linux/input-event-codes.h>.
const (
	eventSize = 24
	eventKey  = 1 // EV_KEY
	keyPower  = 116
	pressed   = 1
)

// Buttons opens every input device below dev (the mount point of devtmpfs). Those it cannot open are left out.
func Buttons(dev string) []*os.File {
	names, _ := filepath.Glob(filepath.Join(dev, "input", "event*"))
	var files []*os.File
	for _, name := range names {
		if f, err := os.Open(name); err == nil {
			files = append(files, f)
		}
	}
	return files
}

// Pressed waits up to timeout milliseconds (-1: for ever) and tells whether the power button was pressed on one of
// the devices. An error means that waiting again is useless.
func Pressed(buttons []*os.File, timeout int) (bool, error) {
	fds := make([]unix.PollFd, len(buttons))
	for i, f := range buttons {
		fds[i] = unix.PollFd{Fd: int32(f.Fd()), Events: unix.POLLIN}
	}
	n, err := unix.Poll(fds, timeout)
	if err == unix.EINTR || err == nil && n == 0 {
		return false, nil
	}
	if err != nil {
		return false, os.NewSyscallError("poll", err)
	}
	var b [64 * eventSize]byte
	for i, fd := range fds {
		if fd.Revents == 0 {
			continue
		}
		n, err := buttons[i].Read(b[:])
		if err != nil {
			return false, err
		}
		if holdsPress(b[:n]) {
			return true, nil
		}
	}
	return false, nil
}

// holdsPress tells whether a press of the power key is among the events.
func holdsPress(b []byte) bool {
	for ; len(b) >= eventSize; b = b[eventSize:] {
		// Two 8-byte times, then type, code, value.
		if binary.NativeEndian.Uint16(b[16:]) == eventKey && binary.NativeEndian.Uint16(b[18:]) == keyPower &&
			binary.NativeEndian.Uint32(b[20:]) == pressed {
			return true
		}
	}
	return false
}
