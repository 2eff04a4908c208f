package run

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"rempart/firstboot/module"
	"rempart/firstboot/power"
)

// foreignPort is where the other system answers.
const foreignPort = 2222

// prepareInside loads the modules of the devices, and mounts what the other system writes to.
func prepareInside(modules string) error {
	none := func(string) string { return "" }
	boot, err := module.Open(modules, none)
	if err == nil {
		err = boot.Coldplug("/sys", map[string]bool{})
	}
	if err == nil {
		err = boot.Load("erofs")
	}
	const root = "/newroot"
	if err == nil {
		err = mounted("/dev/vda3", root, "erofs", unix.MS_RDONLY)
	}
	if err != nil {
		return err
	}
	rest, err := module.Open(filepath.Join(root, modules), none)
	if err != nil {
		return err
	}
	for _, name := range []string{"virtio_net", "button", "evdev"} {
		if err := rest.Load(name); err != nil {
			return err
		}
	}
	return mounted("/dev/vda4", dataInside, "ext4", 0)
}

// dataInside is where the other system has mounted what it writes to.
const dataInside = "/data"

// mounted mounts a partition as soon as the kernel has found it.
func mounted(device, where, kind string, flags uintptr) (err error) {
	if err := os.MkdirAll(where, 0o755); err != nil {
		return err
	}
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if err = unix.Mount(device, where, kind, flags, ""); err == nil {
			return nil
		}
	}
	return fmt.Errorf("mount %s: %w", device, err)
}

// liveInside is what the other system does: it writes where it may and where nobody looks, answers at a port, asks for
// a name, and goes when its power button is pressed.
func liveInside(t *testing.T) {
	lives, err := os.OpenFile(filepath.Join(dataInside, "lives"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o4755)
	if err != nil {
		t.Fatal(err)
	}
	_, err = lives.WriteString("a life\n")
	err = errors.Join(err, lives.Close(), os.WriteFile(filepath.Join(dataInside, "etc", "issue"), []byte("mine\n"), 0o644))
	whole, errOpen := os.OpenFile("/dev/vda", os.O_WRONLY|os.O_SYNC, 0)
	if err := errors.Join(err, errOpen); err != nil {
		t.Fatal(err)
	}
	_, err = whole.WriteAt([]byte("mine!"), 20480) // behind the partition table, before the first partition
	if err := errors.Join(err, whole.Close(), answerInside()); err != nil {
		t.Fatal(err)
	}
	by, err := bootedInside()
	if err != nil {
		t.Fatal(err)
	}
	booted, err := os.OpenFile(filepath.Join(dataInside, "booted"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	_, err = fmt.Fprintln(booted, by)
	if err := errors.Join(err, booted.Close()); err != nil {
		t.Fatal(err)
	}
	unix.Sync()
	fmt.Print("\nother login: ")
	for {
		pressed, err := power.Pressed(power.Buttons("/dev"), -1)
		if err != nil {
			t.Fatal(err)
		}
		if pressed {
			break
		}
	}
	if err := unix.Unmount(dataInside, 0); err != nil {
		t.Fatal(err)
	}
}

// answerInside takes the address that a user-mode network gives its only guest, and answers there.
func answerInside() error {
	links, err := netlink.LinkList()
	if err != nil {
		return err
	}
	for _, l := range links {
		if l.Attrs().Flags&net.FlagLoopback != 0 {
			continue
		}
		a, err := netlink.ParseAddr("10.0.2.15/24")
		if err == nil {
			err = errors.Join(netlink.AddrAdd(l, a), netlink.LinkSetUp(l))
		}
		if err != nil {
			return err
		}
	}
	listener, err := net.Listen("tcp4", fmt.Sprintf(":%d", foreignPort))
	if err != nil {
		return err
	}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			fmt.Fprintln(conn, "hello")
			conn.Close()
		}
	}()
	return nil
}
