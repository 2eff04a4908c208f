package reprovision

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// cutEvery is how many of the points a test run leaves out for each that it takes; everyVariable says another number.
const cutEvery = 6

// TestPowerCut cuts the power of the machine at points of every transaction, with all of the guest on a real ext4: what
// its kernel has not been told to put on the disk by then, names and data, is gone. What is there after the next start
// tells how far it was, and is finished or taken back as after a kill.
func TestPowerCut(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED, NOT PASSED: a filesystem whose power can be cut needs root")
	}
	apart(t, func() string { return memory(t) }, cutAll)
}

// cutAll is TestPowerCut in a mount namespace of its own.
func cutAll(t *testing.T, dir string) {
	every := cutEvery
	if text, ok := os.LookupEnv(everyVariable); ok {
		var err error
		if every, err = strconv.Atoi(text); err != nil || every < 1 {
			t.Fatalf("%s is %q; want a number", everyVariable, text)
		}
	}
	disk := &cutDisk{image: filepath.Join(dir, "image"), dir: filepath.Join(dir, "fs")}
	if err := os.Mkdir(disk.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if lost := disk.loses(t); !lost {
		t.Fatal("what was not synced is there after a power cut: this test would show nothing")
	}
	cuts := 0
	for name := range killed {
		points := enumerate(t, name)
		for i, point := range points {
			for b, back := range []bool{false, true} {
				if (2*i+b+len(name))%every == 0 { // not the same of each
					disk.cutAt(t, name, point, back)
					cuts++
				}
			}
		}
	}
	if cuts < 60 {
		t.Errorf("the power was cut only %d times", cuts)
	}
	t.Logf("%d power cuts, each finished or taken back", cuts)
}

// cutDisk is an ext4 in a file.
type cutDisk struct{ image, dir string }

// make makes the filesystem anew and mounts it.
func (d *cutDisk) make(t *testing.T) {
	t.Helper()
	const size = 24 << 20
	if err := os.RemoveAll(d.image); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(d.image)
	if err == nil {
		err = f.Truncate(size)
	}
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	d.run(t, "mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0", d.image)
	d.mount(t)
}

func (d *cutDisk) run(t *testing.T, program string, args ...string) {
	t.Helper()
	if out, err := exec.Command(program, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v (apt packages e2fsprogs, mount)\n%s", program, err, out)
	}
}

func (d *cutDisk) mount(t *testing.T) {
	t.Helper()
	d.run(t, "mount", "-o", "loop", d.image, d.dir)
}

func (d *cutDisk) unmount(t *testing.T) {
	t.Helper()
	d.run(t, "umount", d.dir)
}

// EXT4_IOC_SHUTDOWN and its flag that leaves the journal where it is (fs/ext4/ext4.h of Linux): nothing is written any
// more, as after a power cut.
const (
	ext4Shutdown     = 0x8004587d
	ext4WithoutFlush = 2
)

func (d *cutDisk) cut() error {
	f, err := os.Open(d.dir)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.IoctlSetPointerInt(int(f.Fd()), ext4Shutdown, ext4WithoutFlush); err != nil {
		return fmt.Errorf("cutting the power of %s: %w", d.dir, err)
	}
	return nil
}

// loses tells whether a cut takes what was not synced, and nothing else: the control of this test.
func (d *cutDisk) loses(t *testing.T) bool {
	t.Helper()
	d.make(t)
	kept, lost := filepath.Join(d.dir, "kept"), filepath.Join(d.dir, "lost")
	if err := os.WriteFile(kept, []byte("kept"), 0o600); err != nil {
		t.Fatal(err)
	}
	unix.Sync()
	if err := os.WriteFile(lost, []byte("lost"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := d.cut(); err != nil {
		t.Fatal(err)
	}
	d.unmount(t)
	d.mount(t)
	defer d.unmount(t)
	if b, err := os.ReadFile(kept); err != nil || string(b) != "kept" {
		t.Errorf("what was synced is %q, %v after a power cut", b, err)
	}
	_, err := os.Lstat(lost)
	return os.IsNotExist(err)
}

// cutAt cuts the power at a point, and looks at what becomes of the guest.
func (d *cutDisk) cutAt(t *testing.T, name, point string, back bool) {
	t.Helper()
	d.make(t)
	defer d.unmount(t)
	w, err := grownWorld(d.dir, name)
	if err != nil {
		t.Fatal(err)
	}
	unix.Sync() // what was there before is not what is tested
	cut := false
	failure := w.run(killed[name].plan(w), func(at string) {
		if at == point && !cut {
			cut = true
			if err := d.cut(); err != nil {
				t.Fatal(err)
			}
		}
	})
	if !cut || failure == nil {
		t.Fatalf("%s: the power was cut at %q: %v, and the transaction ended by %v; want it to fail", name, point, cut,
			failure)
	}
	d.unmount(t)
	d.mount(t)
	if w, err = openWorld(d.dir); err == nil {
		err = w.runner().Stop(t.Context()) // the power cut did
	}
	if err != nil {
		t.Fatalf("%s, cut at %q: %v", name, point, err)
	}
	w.judge(t, name, point, back, true)
	d.swept(t, name+", cut at "+point)
}

// swept looks whether what was being written when the power was cut is gone.
func (d *cutDisk) swept(t *testing.T, where string) {
	t.Helper()
	err := filepath.WalkDir(filepath.Join(d.dir, "guests"), func(path string, e fs.DirEntry, err error) error {
		if err == nil && (strings.HasPrefix(e.Name(), ".") || strings.HasSuffix(e.Name(), ".part")) {
			t.Errorf("%s: %s is left", where, path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}
