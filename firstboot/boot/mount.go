package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"rempart/firstboot/boottime"
	"rempart/firstboot/contract"
)

const newRoot = "/newroot"

// early are the mounts of the boot stage, which move on to the root.
var early = []struct {
	source, target, fstype, data string
	flags                        uintptr
}{
	{"devtmpfs", "/dev", "devtmpfs", "mode=0755", unix.MS_NOSUID | unix.MS_NOEXEC},
	{"proc", "/proc", "proc", "", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC},
	{"sysfs", "/sys", "sysfs", "", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC},
	{"tmpfs", "/run", "tmpfs", "mode=0755,size=16m", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC},
}

// mountEarly mounts what every later step reads, and takes the console, which the kernel could not open while /dev
// was empty.
func mountEarly() error {
	for _, m := range early {
		if err := os.MkdirAll(m.target, 0o755); err != nil {
			return fmt.Errorf("mounting %s: %w", m.target, err)
		}
		err := unix.Mount(m.source, m.target, m.fstype, m.flags, m.data)
		if err != nil && !errors.Is(err, unix.EBUSY) { // EBUSY: the kernel mounted devtmpfs itself
			return fmt.Errorf("mounting %s on %s: %w", m.fstype, m.target, err)
		}
		if m.target == "/dev" {
			takeConsole()
		}
	}
	return nil
}

// takeConsole makes the console standard input, output and error. Without a console there is nobody to tell.
func takeConsole() {
	fd, err := unix.Open("/dev/console", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	for std := range 3 {
		_ = unix.Dup3(fd, std, 0)
	}
	if fd > 2 {
		unix.Close(fd)
	}
}

// lock makes block devices read-only in this kernel.
func lock(nodes ...string) error {
	for _, node := range nodes {
		f, err := os.Open(node)
		if err != nil {
			return fmt.Errorf("making %s read-only: %w", node, err)
		}
		err = unix.IoctlSetPointerInt(int(f.Fd()), unix.BLKROSET, 1)
		f.Close()
		if err != nil {
			return fmt.Errorf("making %s read-only: %w", node, err)
		}
	}
	return nil
}

// mountRoot mounts the EROFS of a verity device. No set-uid program and no device node of the root is ever honoured.
func mountRoot(dm string) error {
	if err := os.MkdirAll(newRoot, 0o755); err != nil {
		return fmt.Errorf("mounting the root: %w", err)
	}
	if err := unix.Mount("/dev/"+dm, newRoot, "erofs", unix.MS_RDONLY|unix.MS_NODEV|unix.MS_NOSUID, ""); err != nil {
		return fmt.Errorf("mounting the EROFS of /dev/%s: %w", dm, err)
	}
	return nil
}

// handOver writes what was found for the stages to come, frees the initramfs, makes the new root the root and becomes
// firstboot. It returns only when that failed.
func handOver(found contract.Boot) error {
	found.Seconds = boottime.Now().Seconds()
	if err := os.MkdirAll(contract.RunDir, 0o755); err != nil {
		return fmt.Errorf("preparing %s: %w", contract.RunDir, err)
	}
	if err := os.WriteFile(contract.BootPath, encode(found), 0o644); err != nil {
		return fmt.Errorf("preparing %s: %w", contract.BootPath, err)
	}
	if _, err := os.Stat(newRoot + contract.Firstboot); err != nil {
		return fmt.Errorf("the root holds no %s: %w", contract.Firstboot, err)
	}
	for _, m := range early {
		if err := unix.Mount(m.target, newRoot+m.target, "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("moving %s to the root: %w", m.target, err)
		}
	}
	if err := os.Chdir(newRoot); err != nil {
		return fmt.Errorf("entering the root: %w", err)
	}
	emptyInitramfs()
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("switching root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("switching root: %w", err)
	}
	if err := os.Chdir("/"); err != nil {
		return fmt.Errorf("switching root: %w", err)
	}
	err := unix.Exec(contract.Firstboot, []string{contract.Firstboot}, []string{"PATH=/sbin:/bin", "HOME=/", "TERM=linux"})
	return fmt.Errorf("starting %s: %w", contract.Firstboot, err)
}

// emptyInitramfs gives the memory of the initramfs back: the files of a ramfs are memory. It stays on that one
// filesystem, so that nothing mounted below is touched, and it deletes nothing unless / really is a ramfs or tmpfs.
func emptyInitramfs() {
	var fs unix.Statfs_t
	if err := unix.Statfs("/", &fs); err != nil || fs.Type != unix.RAMFS_MAGIC && fs.Type != unix.TMPFS_MAGIC {
		return
	}
	var root unix.Stat_t
	if err := unix.Lstat("/", &root); err != nil {
		return
	}
	empty("/", root.Dev)
}

func empty(dir string, dev uint64) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		name := filepath.Join(dir, e.Name())
		var st unix.Stat_t
		if err := unix.Lstat(name, &st); err != nil || st.Dev != dev {
			continue
		}
		if st.Mode&unix.S_IFMT == unix.S_IFDIR {
			empty(name, dev)
		}
		_ = os.Remove(name) // a mount point stays, and holds nothing
	}
}

// encode writes a contract.Boot as JSON. By hand: encoding/json would add a fifth to this program.
func encode(b contract.Boot) []byte {
	seconds := func(f float64) string { return strconv.FormatFloat(f, 'f', 6, 64) }
	return []byte("{" +
		`"system_disk":` + strconv.Quote(b.SystemDisk) +
		`,"root_device":` + strconv.Quote(b.RootDevice) +
		`,"read_only":` + strconv.FormatBool(b.ReadOnly) +
		`,"root_hash":` + strconv.Quote(b.RootHash) +
		`,"started":` + seconds(b.Started) +
		`,"seconds":` + seconds(b.Seconds) + "}\n")
}
