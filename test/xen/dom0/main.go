// Command dom0 is the init of the dom0 in which Xen's tests run: it mounts a root made of Debian packages, starts Xen's
// own daemons in it, and carries out what the test orders over a virtio-serial port; see package order. By their
// names it is two of Xen's hotplug scripts.
package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"rempart/firstboot/power"
	"rempart/test/xen/early"
)

// root is where dom0's root is mounted; the daemons and all that is ordered run in it.
const root = "/newroot"

func main() {
	scripts := map[string]func([]string) error{"block": blockScript, "vif-bridge": vifScript}
	if script := scripts[filepath.Base(os.Args[0])]; script != nil {
		if err := script(os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, os.Args[0]+":", err)
			os.Exit(1)
		}
		return
	}
	if err := boot(); err != nil {
		fmt.Println("dom0:", err)
	}
	_ = power.Sent(os.Stdout)
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	select {} // an init that ends takes the kernel with it
}

func boot() error {
	if err := early.Begin(); err != nil {
		return err
	}
	if err := linkStreams(); err != nil {
		return err
	}
	if err := mountRoot(); err != nil {
		return err
	}
	go reap()
	if err := startXen(); err != nil {
		return err
	}
	return serve()
}

type mount struct {
	source, target, fstype, data string
	flags                        uintptr
}

func mountAll(mounts []mount) error {
	for _, m := range mounts {
		if err := os.MkdirAll(m.target, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.source, m.target, m.fstype, m.flags, m.data); err != nil {
			return fmt.Errorf("mounting %s on %s: %w", m.source, m.target, err)
		}
	}
	return nil
}

// linkStreams makes what udev makes elsewhere. Without it the lock of Xen's hotplug scripts spins until xl gives up.
func linkStreams() error {
	for name, target := range map[string]string{"fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1",
		"stderr": "fd/2"} {
		if err := os.Symlink(target, filepath.Join("/dev", name)); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	return nil
}

// mountRoot lays memory over the root of packages, which is read-only.
func mountRoot() error {
	if err := os.MkdirAll("/upper", 0o755); err != nil {
		return err
	}
	if err := awaitFile("/dev/vda"); err != nil {
		return err
	}
	err := mountAll([]mount{
		{source: "run", target: "/run", fstype: "tmpfs"},
		{source: "/dev/vda", target: "/lower", fstype: "erofs", flags: unix.MS_RDONLY},
		{source: "upper", target: "/upper", fstype: "tmpfs"},
	})
	if err != nil {
		return err
	}
	for _, dir := range []string{"/upper/files", "/upper/work"} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
	}
	return mountAll([]mount{
		{source: "overlay", target: root, fstype: "overlay",
			data: "lowerdir=/lower,upperdir=/upper/files,workdir=/upper/work"},
		{source: "/dev", target: root + "/dev", flags: unix.MS_BIND},
		{source: "/proc", target: root + "/proc", flags: unix.MS_BIND},
		{source: "/sys", target: root + "/sys", flags: unix.MS_BIND},
		{source: "/run", target: root + "/run", flags: unix.MS_BIND},
		{source: "devpts", target: root + "/dev/pts", fstype: "devpts", data: "ptmxmode=0666"},
		{source: "xenfs", target: root + "/proc/xen", fstype: "xenfs"},
	})
}

// tools is where Debian keeps the tools of this version of Xen.
const tools = "/usr/lib/xen-4.17/bin"

// startXen starts what the xen service of a Debian dom0 starts.
func startXen() error {
	for _, dir := range []string{"/run/xenstored", "/run/xen", "/run/lock", "/var/lib/xen", "/var/log/xen/console"} {
		if err := os.MkdirAll(root+dir, 0o755); err != nil {
			return err
		}
	}
	for _, args := range [][]string{
		{tools + "/xenstored", "--pid-file", "/run/xen/xenstored.pid"}, // returns when it can be asked
		{tools + "/xen-init-dom0"},
		{tools + "/xenconsoled", "--pid-file=/run/xen/xenconsoled.pid", "--log=guest", "--timestamp=none"},
		{"/bin/ip", "link", "set", "lo", "up"},
	} {
		cmd := command(args)
		out, err := start(cmd)
		if err != nil {
			return fmt.Errorf("%q: %w\n%s", args, err, out)
		}
	}
	return nil
}

// command is a program of dom0's root.
func command(args []string) *exec.Cmd {
	return &exec.Cmd{Path: args[0], Args: args, Dir: "/", SysProcAttr: &syscall.SysProcAttr{Chroot: root, Setpgid: true},
		Env: []string{"PATH=" + tools + ":/usr/sbin:/usr/bin:/sbin:/bin:/busybox", "TERM=linux", "HOME=/root", "LANG=C",
			"SYSTEMD_IGNORE_CHROOT=1"}} // in one the tools of udev do nothing (running_in_chroot of virt.c)
}
