package sealed

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rempart/firstboot/cmdline"
	"rempart/firstboot/contract"
	"rempart/firstboot/module"
	"rempart/test/rig"
)

// prepare loads the modules of the devices.
func prepare(modules string) error {
	line, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return err
	}
	loader, err := module.Open(modules, cmdline.Parse(string(line)).ModuleParameters)
	if err != nil {
		return err
	}
	if err := loader.Load("virtio_mmio"); err != nil {
		fmt.Println(err) // where devices are on PCI only, it may be missing
	}
	return loader.Coldplug("/sys", map[string]bool{})
}

// way is a path to a disk.
type way struct {
	name  string
	try   func(device string, at int64, b []byte) error
	takes bool // it takes bytes away that others wrote
}

// ways are all that are tried, the plain ones first.
func ways() []way {
	write := func(flags int) func(string, int64, []byte) error {
		return func(device string, at int64, b []byte) error {
			fd, err := unix.Open(device, unix.O_WRONLY|flags, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			if _, err := unix.Pwrite(fd, b, at); err != nil {
				return err
			}
			return unix.Fsync(fd)
		}
	}
	return []way{
		{name: "write", try: write(0)},
		{name: "write, synchronous", try: write(unix.O_SYNC)},
		{name: "write, told that it is writable", try: func(device string, at int64, b []byte) error {
			fd, err := unix.Open(device, unix.O_RDONLY, 0)
			if err != nil {
				return err
			}
			err = unix.IoctlSetPointerInt(fd, unix.BLKROSET, 0)
			unix.Close(fd)
			if err != nil {
				return err
			}
			return write(0)(device, at, b)
		}},
		{name: "memory map", try: func(device string, at int64, b []byte) error {
			fd, err := unix.Open(device, unix.O_RDWR, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			page := at / pageSize * pageSize
			view, err := unix.Mmap(fd, page, pageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
			if err != nil {
				return err
			}
			copy(view[at-page:], b)
			return errors.Join(unix.Msync(view, unix.MS_SYNC), unix.Munmap(view))
		}},
		{name: "zero out", try: punch(unix.FALLOC_FL_ZERO_RANGE), takes: true},
		{name: "discard", try: punch(unix.FALLOC_FL_PUNCH_HOLE), takes: true},
		{name: "a node of its own", try: func(device string, at int64, b []byte) error {
			var st unix.Stat_t
			if err := unix.Stat(device, &st); err != nil {
				return err
			}
			const node = "/node"
			_ = os.Remove(node)
			if err := unix.Mknod(node, unix.S_IFBLK|0o600, int(st.Rdev)); err != nil {
				return err
			}
			return write(0)(node, at, b)
		}},
	}
}

const pageSize = 4096

// punch takes bytes away: Linux passes it to the disk as writing zeros, or as discarding.
func punch(mode uint32) func(string, int64, []byte) error {
	return func(device string, at int64, b []byte) error {
		fd, err := unix.Open(device, unix.O_RDWR, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		page := at / pageSize * pageSize
		return unix.Fallocate(fd, mode|unix.FALLOC_FL_KEEP_SIZE, page, pageSize)
	}
}

// tryAll tries every way at every place, on the disk and on the partitions of it.
func tryAll(t *testing.T) {
	line, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	list, ok, err := cmdline.Parse(string(line)).One(placesVar)
	if err != nil || !ok {
		t.Fatalf("no %s on the kernel's command line: %v", placesVar, err)
	}
	device := systemDisk(t)
	b := []byte(strings.Repeat("IMPLANT!", sector/8))
	for _, text := range strings.Split(list, ",") {
		at, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range ways() {
			if w.takes {
				continue // below
			}
			tell(w.name, device, at, w.try(device, at, b))
			if part, offset := partition(device, at); part != "" {
				tell(w.name, part, offset, w.try(part, offset, b))
			}
		}
	}
	// The last place is in a large file, so that nothing beside it is taken away.
	at, err := strconv.ParseInt(list[strings.LastIndexByte(list, ',')+1:], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range ways() {
		if w.takes {
			tell(w.name, device, at, w.try(device, at, b))
		}
	}
	// What a disk that took none of it leaves in the cache is not what it holds.
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0); err != nil {
		t.Error(err)
	}
}

func tell(way, device string, at int64, err error) {
	if err == nil {
		fmt.Printf("%s%s: %s at %d\n", wrote, way, device, at)
	} else {
		fmt.Printf("%s%s: %s at %d: %v\n", refused, way, device, at, err)
	}
}

// systemDisk waits for the disk whose serial says that it is the system's.
func systemDisk(t *testing.T) string {
	for end := time.Now().Add(rig.Patience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		disks, _ := filepath.Glob("/sys/block/vd*")
		for _, disk := range disks {
			serial, _ := os.ReadFile(filepath.Join(disk, "serial"))
			node := filepath.Join("/dev", filepath.Base(disk))
			if _, err := os.Stat(node + "3"); err == nil && strings.TrimSpace(string(serial)) == contract.SystemSerial {
				return node
			}
		}
	}
	t.Fatal("there is no system disk")
	return ""
}

// partition is the partition of a disk that holds an offset, and where in it; empty: none does.
func partition(device string, at int64) (node string, offset int64) {
	name := filepath.Base(device)
	parts, _ := filepath.Glob(filepath.Join("/sys/block", name, name+"*"))
	for _, p := range parts {
		number := func(file string) int64 {
			b, _ := os.ReadFile(filepath.Join(p, file))
			n, _ := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
			return n * sector
		}
		if start := number("start"); at >= start && at < start+number("size") {
			return filepath.Join("/dev", filepath.Base(p)), at - start
		}
	}
	return "", 0
}
