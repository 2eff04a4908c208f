package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"rempart/firstboot/contract/xenstore"
)

// blockScript stands in for Xen's hotplug script of the same name where a disk is a block device, or a file that
// becomes one: tells xenstore which. Of the original's sixty processes each takes a good part of a second in a dom0 in
// software, and xl gives up after forty. Anything else is left to it.
func blockScript(args []string) error {
	f, err := os.OpenFile(xenstore.Device, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	conn := xenstore.New(f)
	defer conn.Close()
	var st unix.Stat_t
	ctx, base := context.Background(), os.Getenv("XENBUS_PATH")
	device, err := conn.Now().Read(ctx, base+"/params")
	if removing := len(args) == 1 && args[0] == "remove"; removing && errors.Is(err, xenstore.ErrAbsent) {
		return nil // the whole guest is gone already
	} else if err != nil {
		return err
	} else if stat := unix.Stat(string(device), &st); stat == nil && st.Mode&unix.S_IFMT == unix.S_IFREG {
		if removing {
			return detach(ctx, conn, base)
		}
		if device, err = attach(ctx, conn, base, string(device), &st); err != nil {
			return err
		}
	} else if stat != nil || st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return original()
	} else if removing {
		return nil
	}
	for _, node := range []struct{ name, value string }{
		{"physical-device", fmt.Sprintf("%x:%x", unix.Major(st.Rdev), unix.Minor(st.Rdev))},
		{"physical-device-path", strings.TrimSpace(string(device))},
		{"hotplug-status", "connected"},
	} {
		if err := conn.Now().Write(ctx, base+"/"+node.name, []byte(node.value)); err != nil {
			return err
		}
	}
	return nil
}

// nodePath is where the original keeps the name of the loop device of a file.
const nodePath = "/node"

// attach has a loop device be a file, as far as the disk may be written to, and tells which and what it is.
func attach(ctx context.Context, conn *xenstore.Conn, base, file string, st *unix.Stat_t) (device []byte, err error) {
	mode, err := conn.Now().Read(ctx, base+"/mode")
	if err != nil {
		return nil, err
	}
	flags, config := os.O_RDWR, unix.LoopConfig{}
	if string(mode) == "r" {
		flags, config.Info.Flags = os.O_RDONLY, unix.LO_FLAGS_READ_ONLY
	}
	f, err := os.OpenFile(file, flags, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	config.Fd = uint32(f.Fd())
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer control.Close()
	for {
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, fmt.Errorf("a free loop device: %w", err)
		}
		name := fmt.Sprintf("/dev/loop%d", n)
		loop, err := os.OpenFile(name, flags, 0)
		if err != nil {
			return nil, err
		}
		err = unix.IoctlLoopConfigure(int(loop.Fd()), &config)
		loop.Close()
		if errors.Is(err, unix.EBUSY) {
			continue // another script was faster
		}
		if err == nil {
			err = unix.Stat(name, st)
		}
		if err != nil {
			return nil, fmt.Errorf("%s as %s: %w", file, name, err)
		}
		return []byte(name), conn.Now().Write(ctx, base+nodePath, []byte(name))
	}
}

// detach frees what attach took; while somebody has it open the kernel waits with that.
func detach(ctx context.Context, conn *xenstore.Conn, base string) error {
	name, err := conn.Now().Read(ctx, base+nodePath)
	if errors.Is(err, xenstore.ErrAbsent) {
		return nil
	}
	if err != nil {
		return err
	}
	loop, err := os.Open(string(name))
	if err != nil {
		return err
	}
	defer loop.Close()
	return unix.IoctlSetInt(int(loop.Fd()), unix.LOOP_CLR_FD, 0)
}

// original becomes Xen's own script.
func original() error {
	name := os.Args[0] + ".debian"
	return unix.Exec(name, append([]string{name}, os.Args[1:]...), os.Environ())
}
