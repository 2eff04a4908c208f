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

// blockScript stands in for Xen's hotplug script of the same name where a disk is a block device: tells xenstore which
// one. Of the original's sixty processes each takes a good part of a second in a dom0 in software, and xl gives up
// after forty. Anything but block devices is left to it.
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
	} else if stat := unix.Stat(string(device), &st); stat != nil || st.Mode&unix.S_IFMT != unix.S_IFBLK {
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

// original becomes Xen's own script.
func original() error {
	name := os.Args[0] + ".debian"
	return unix.Exec(name, append([]string{name}, os.Args[1:]...), os.Environ())
}
