package pid1

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// mount is one filesystem of the guest.
type mount struct {
	source, target, fstype, data string
	flags                        uintptr
	optional                     bool // a kernel may lack it
	make                         bool // the mount point is made (its parent is a tmpfs or devtmpfs)
}

const (
	confined = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	// Sizes of tmpfs keep a program that fills one from taking the memory of a 96 MB guest.
	tmpSize = "size=25%"
	runSize = "size=16m"
)

// mounts are what a root needs, in order. What the boot stage mounted and moved here is found and left, its flags
// set again.
var mounts = []mount{
	{source: "devtmpfs", target: "dev", fstype: "devtmpfs", data: "mode=0755", flags: unix.MS_NOSUID | unix.MS_NOEXEC},
	// hidepid=invisible: a child sees its own processes only (Documentation/filesystems/proc.rst).
	{source: "proc", target: "proc", fstype: "proc", data: "hidepid=invisible", flags: confined},
	{source: "sysfs", target: "sys", fstype: "sysfs", flags: confined},
	{source: "tmpfs", target: "run", fstype: "tmpfs", data: "mode=0755," + runSize, flags: confined},
	{source: "tmpfs", target: "tmp", fstype: "tmpfs", data: "mode=1777," + tmpSize, flags: confined},
	{source: "devpts", target: "dev/pts", fstype: "devpts", data: "mode=0620,ptmxmode=0666",
		flags: unix.MS_NOSUID | unix.MS_NOEXEC, make: true, optional: true},
	{source: "tmpfs", target: "dev/shm", fstype: "tmpfs", data: "mode=1777,size=4m", flags: confined, make: true,
		optional: true},
	{source: "securityfs", target: "sys/kernel/security", fstype: "securityfs", flags: confined, optional: true},
	{source: "cgroup2", target: "sys/fs/cgroup", fstype: "cgroup2", flags: confined, optional: true},
}

// mountAll mounts everything and returns what failed.
func mountAll(root string) error {
	var failed []error
	for _, m := range mounts {
		target := filepath.Join(root, m.target)
		if m.make {
			if err := os.MkdirAll(target, 0o755); err != nil {
				failed = append(failed, fmt.Errorf("mounting %s: %w", target, err))
				continue
			}
		}
		if err := mountOne(m, target); err != nil && !m.optional {
			failed = append(failed, err)
		}
	}
	return errors.Join(failed...)
}

func mountOne(m mount, target string) error {
	flags := m.flags
	if isMounted(target) {
		flags |= unix.MS_REMOUNT
	}
	if err := unix.Mount(m.source, target, m.fstype, flags, m.data); err != nil {
		return fmt.Errorf("mounting %s on %s: %w", m.fstype, target, err)
	}
	return nil
}

// isMounted tells whether a directory is on another filesystem than its parent.
func isMounted(dir string) bool {
	var here, above unix.Stat_t
	if unix.Stat(dir, &here) != nil || unix.Stat(filepath.Dir(dir), &above) != nil {
		return false
	}
	return here.Dev != above.Dev
}
