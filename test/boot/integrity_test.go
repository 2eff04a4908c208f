package boot

import (
	"bytes"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/erofs/go-erofs"

	"rempart/builder/hypervisor/qemu"
	"rempart/builder/master"
	"rempart/firstboot/contract"
	"rempart/test/rig"
)

// copyDisk copies the system disk, holes and all.
func copyDisk(t *testing.T, m *rig.Master) string {
	t.Helper()
	from, err := os.Open(filepath.Join(m.Dir, master.RawFile))
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	name := filepath.Join(t.TempDir(), "damaged.raw")
	to, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	if _, err := io.Copy(to, from); err != nil {
		t.Fatal(err)
	}
	return name
}

// flip inverts one bit of a file.
func flip(t *testing.T, name string, offset int64) {
	t.Helper()
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var b [1]byte
	if _, err := f.ReadAt(b[:], offset); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 0x10
	if _, err := f.WriteAt(b[:], offset); err != nil {
		t.Fatal(err)
	}
}

func rootOffset(t *testing.T, m *rig.Master) int64 {
	t.Helper()
	for _, r := range m.Manifest.Disk.Regions {
		if r.Name == "partition root" {
			return r.Offset
		}
	}
	t.Fatal("the manifest names no root partition")
	return 0
}

// quietModule is a module of the root that no test profile loads: a file nobody reads.
const quietModule = "/wireguard.ko"

// quietPlace returns where the middle of that module lies on the disk.
func quietPlace(t *testing.T, m *rig.Master, disk string) int64 {
	t.Helper()
	f, err := os.Open(disk)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	start := rootOffset(t, m)
	size := int64(m.Manifest.Verity.DataBlocks) * contract.BlockSize
	root, err := erofs.Open(io.NewSectionReader(f, start, size))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range m.Manifest.Root {
		if !strings.HasSuffix(file.Path, quietModule) {
			continue
		}
		content, err := fs.ReadFile(root, file.Path)
		if err != nil {
			t.Fatal(err)
		}
		all := make([]byte, size)
		if _, err := f.ReadAt(all, start); err != nil {
			t.Fatal(err)
		}
		middle := len(content) / 2
		at := bytes.Index(all, content[middle:middle+64])
		if at < 0 {
			t.Fatalf("the content of %s is not on the disk as it is", file.Path)
		}
		return start + int64(at)
	}
	t.Fatalf("the root holds no %s", quietModule)
	return 0
}

// awaitPanic waits for the end that the design promises: the kernel panics, it does not restart.
func awaitPanic(t *testing.T, g *rig.Guest) {
	t.Helper()
	g.AwaitConsole("Kernel panic - not syncing: dm-verity device corrupted")
	if end := g.AwaitEnd(); end.Cause != qemu.Panicked {
		t.Errorf("after a verity error the guest ended by %+v; want %q", end, qemu.Panicked)
	}
}

// TestDamage flips one bit and shows that it is found: at once where it is read on the way to READY, else by the scrub.
func TestDamage(t *testing.T) {
	t.Parallel()
	m := rig.Build(t, profile)
	root := rootOffset(t, m)
	dataEnd := root + int64(m.Manifest.Verity.DataBlocks)*contract.BlockSize
	for _, tt := range []struct {
		name  string
		place func(disk string) int64
		ready bool // whether the guest gets to READY before the damage is found
	}{
		{"in the superblock", func(string) int64 { return root + 1024 }, false},
		{"in a file nobody reads", func(disk string) int64 {
			return quietPlace(t, m, disk)
		}, true},
		{"in the hash tree's root block", func(string) int64 { return dataEnd + contract.BlockSize + 5 }, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			disk := copyDisk(t, m)
			flip(t, disk, tt.place(disk))
			g := m.Boot(t, rig.Options{System: disk})
			awaitPanic(t, g)
			r, _ := g.Report()
			if r.Root.Scrubbed {
				t.Error("the scrub reported success on a damaged root")
			}
			if ready := strings.Contains(g.ConsoleText(), "\n"+contract.ReadyPrefix); ready != tt.ready {
				t.Errorf("READY before the damage was found: %v; want %v", ready, tt.ready)
			}
		})
	}
}

// TestDamageUnderRunningGuest flips a bit of a disk in use, before the scrub has passed it.
func TestDamageUnderRunningGuest(t *testing.T) {
	t.Parallel()
	m := rig.Build(t, profile)
	disk := copyDisk(t, m)
	g := m.Boot(t, rig.Options{System: disk, Append: contract.KeyInject + "=slow:scrub:20s"})
	g.AwaitReady()
	flip(t, disk, quietPlace(t, m, disk))
	awaitPanic(t, g)
}
