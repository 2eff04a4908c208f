package state

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"rempart/firstboot/contract"
)

// find returns a foreign tool, or fails the test naming the package that has it.
func tool(t testing.TB, name, pkg string) string {
	t.Helper()
	for _, dir := range []string{"", "/usr/sbin/", "/sbin/"} {
		if p, err := exec.LookPath(dir + name); err == nil {
			return p
		}
	}
	t.Fatalf("%s is missing; install the package %s", name, pkg)
	return ""
}

func tools(t testing.TB) Tools {
	return Tools{Mke2fs: tool(t, "mke2fs", "e2fsprogs"), E2fsck: tool(t, "e2fsck", "e2fsprogs"),
		Log: slog.New(slog.NewTextHandler(io.Discard, nil))}
}

// image makes a sparse file.
func image(t testing.TB, size int64) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(file, size); err != nil {
		t.Fatal(err)
	}
	return file
}

func run1(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}

func probe(t testing.TB, file string) Found {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	found, err := Probe(f, info.Size())
	if err != nil {
		t.Fatalf("Probe(%s) = %v", file, err)
	}
	return found
}

func TestFormatsBlank(t *testing.T) {
	for _, size := range []int64{MinSize, 64 << 20, 256 << 20, 256<<20 + 512, 3 << 30} {
		file := image(t, size)
		began := time.Now()
		r := tools(t).Prepare(context.Background(), file, size)
		if r.Action != Formatted || r.Error != "" {
			t.Errorf("Prepare of %d zeros = %+v; want formatted", size, r)
			continue
		}
		t.Logf("%d MiB formatted in %v", size>>20, time.Since(began))
		run1(t, tool(t, "e2fsck", "e2fsprogs"), "-fn", file)
		out := run1(t, tool(t, "dumpe2fs", "e2fsprogs"), "-h", file)
		if !strings.Contains(out, "Filesystem volume name:   "+contract.StateLabel) || !strings.Contains(out, "has_journal") {
			t.Errorf("%d: dumpe2fs says\n%s", size, out)
		}
		if r := tools(t).Prepare(context.Background(), file, size); r.Action != Mounted || r.Bytes != 0 || r.Error != "" {
			t.Errorf("Prepare of a formatted disk = %+v; want mounted, not to be grown", r)
		}
	}
}

func TestTooSmall(t *testing.T) {
	for _, size := range []int64{512, 4096, 1 << 20, MinSize - 512} {
		file := image(t, size)
		if r := tools(t).Prepare(context.Background(), file, size); r.Action != FailedDisk || !strings.Contains(r.Error,
			"at least") {
			t.Errorf("Prepare of %d bytes = %+v; want it refused as too small", size, r)
		}
		if b, _ := os.ReadFile(file); !zero(b) {
			t.Errorf("Prepare of %d bytes wrote on it", size)
		}
	}
}

// TestInterruptedFormat cuts a real format short after every write that mke2fs or we make: the writes are taken from
// strace, laid on a blank disk one after the other, and after each the disk must be blank, interrupted or finished, and
// be made good by the next start.
func TestInterruptedFormat(t *testing.T) {
	strace, err := exec.LookPath("strace")
	const size = 32 << 20
	var stages map[string][]byte
	if err == nil {
		stages = stagesByStrace(t, strace, size)
	} else {
		t.Log("NOT TESTED after every single write: strace is missing; install the package strace. " +
			"Testing by killing instead")
		stages = stagesByKilling(t, size)
	}
	kinds := map[Kind]int{}
	for name, disk := range stages {
		file := filepath.Join(t.TempDir(), "disk")
		if err := os.WriteFile(file, disk, 0o600); err != nil {
			t.Fatal(err)
		}
		kind := probe(t, file).Kind
		kinds[kind]++
		if kind == Foreign {
			t.Errorf("%s: an interrupted format looks foreign: %+v", name, probe(t, file))
			continue
		}
		if r := tools(t).Prepare(context.Background(), file, size); r.Error != "" ||
			r.Action != map[Kind]string{Blank: Formatted, Interrupted: Reformatted, Ours: Mounted}[kind] {
			t.Errorf("%s: Prepare of a disk that is %s = %+v", name, kind, r)
		}
		run1(t, tool(t, "e2fsck", "e2fsprogs"), "-fn", file)
		if kind == Interrupted { // and the disk was given another size before the next start
			otherSize(t, name, disk, []int64{size + 512, 2 * size, size - 1<<20, size / 2}[kinds[kind]%4])
		}
	}
	t.Logf("%d stages: %v", len(stages), kinds)
	if kinds[Interrupted] < 3 {
		t.Errorf("only %d interrupted stages of %d were seen: the test does not test", kinds[Interrupted], len(stages))
	}
}

// otherSize starts with the disk of an interrupted format that was made larger, or smaller, meanwhile.
func otherSize(t *testing.T, name string, disk []byte, size int64) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(file, disk, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(file, size); err != nil {
		t.Fatal(err)
	}
	want := Reformatted
	if zero(disk[:window]) {
		want = Formatted // only the end was marked so far
	}
	if r := tools(t).Prepare(context.Background(), file, size); r.Action != want || r.Error != "" {
		t.Errorf("%s, then %d bytes for %d: Prepare = %+v; want it %s", name, size, len(disk), r, want)
	}
	run1(t, tool(t, "e2fsck", "e2fsprogs"), "-fn", file)
}

// stagesByKilling runs the format with an mke2fs that dies, by a limit on the file's size, at growing offsets, and
// adds the stages between our own writes.
func stagesByKilling(t *testing.T, size int64) map[string][]byte {
	stages := map[string][]byte{}
	real := tool(t, "mke2fs", "e2fsprogs")
	for _, after := range []string{"0", "0.001", "0.002", "0.003", "0.005", "0.01", "0.02", "0.05"} {
		script := filepath.Join(t.TempDir(), "mke2fs")
		text := "#!/bin/sh\nexec timeout -s KILL " + after + " " + real + " \"$@\"\n"
		if after == "0" {
			text = "#!/bin/sh\nkill -KILL $$\n"
		}
		if err := os.WriteFile(script, []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
		file := image(t, size)
		broken := tools(t)
		broken.Mke2fs = script
		broken.Prepare(context.Background(), file, size)
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		stages["killed after "+after+" s"] = b
	}
	return stages
}

// disks of other people; each must be left exactly as it is.
func TestForeign(t *testing.T) {
	const size = 32 << 20
	makers := map[string]func(file string){
		"xfs": func(f string) { lay(t, f, 0, "XFSB") },
		"LUKS": func(f string) {
			lay(t, f, 0, "LUKS\xba\xbe\x00\x02")
		},
		"LVM":       func(f string) { lay(t, f, 512, "LABELONE") },
		"RAID 1.0":  func(f string) { lay(t, f, size-8<<10, "\xfc\x4e\x2b\xa9") },
		"btrfs":     func(f string) { lay(t, f, 64<<10+64, "_BHRfS_M") },
		"one byte":  func(f string) { lay(t, f, window-1, "x") },
		"last byte": func(f string) { lay(t, f, size-1, "x") },
		"swap":      func(f string) { run1(t, tool(t, "mkswap", "util-linux"), f) },
		"FAT":       func(f string) { run1(t, tool(t, "mkfs.vfat", "dosfstools"), f) },
		"GPT":       func(f string) { run1(t, tool(t, "sgdisk", "gdisk"), "-n", "1:2048:+1M", f) },
		"ext4 of another name": func(f string) {
			run1(t, tool(t, "mke2fs", "e2fsprogs"), "-q", "-F", "-t", "ext4", "-L", "DATA", f)
		},
		"ext2 with our label": func(f string) {
			run1(t, tool(t, "mke2fs", "e2fsprogs"), "-q", "-F", "-t", "ext2", "-L", contract.StateLabel, f)
		},
		"marker with something behind": func(f string) {
			lay(t, f, 0, string(newMarker([16]byte{})))
			lay(t, f, 3000, "data")
		},
		"marker with something in it": func(f string) {
			lay(t, f, 0, string(newMarker([16]byte{})))
			lay(t, f, 900, "data")
		},
		"RAID 1.2 over a marker": func(f string) {
			lay(t, f, 0, string(newMarker([16]byte{})))
			lay(t, f, 4096, "\xfc\x4e\x2b\xa9")
		},
		"swap over a marker": func(f string) { // mkswap leaves the boot block alone
			lay(t, f, 0, string(newMarker([16]byte{})))
			run1(t, tool(t, "mkswap", "util-linux"), f)
		},
		"XFS before a marker": func(f string) { // which no mkfs clears at the end of a disk
			lay(t, f, 0, "XFSB")
			lay(t, f, size-window, string(newMarker([16]byte{})))
		},
		"somebody's ext4 over a marker": func(f string) { // mke2fs does too, where it sees a BSD label
			lay(t, f, 0, string(newMarker([16]byte{})))
			run1(t, tool(t, "mke2fs", "e2fsprogs"), "-q", "-F", "-t", "ext4", "-E", "nodiscard", "-L", "DATA",
				f)
			if !isMarker(head(t, f)) {
				t.Fatal("mke2fs has cleared the marker: it would not outlast a format")
			}
		},
	}
	for name, makeIt := range makers {
		file := image(t, size)
		makeIt(file)
		before, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		r := tools(t).Prepare(context.Background(), file, size)
		if r.Action != ForeignDisk || !strings.Contains(r.Error, "left alone") {
			t.Errorf("%s: Prepare = %+v; want foreign", name, r)
		}
		after, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(before, after) {
			t.Errorf("%s: the disk was changed", name)
		}
		t.Logf("%s: %s", name, r.Error)
	}
}

// TestMarkInAFile: a filesystem that was mounted is no format cut short, whatever a file on it has where that has
// its mark. Somebody's may reach to the end of a data disk.
func TestMarkInAFile(t *testing.T) {
	const size = 32 << 20
	file := image(t, size)
	run1(t, tool(t, "mke2fs", "e2fsprogs"), "-q", "-F", "-t", "ext4", "-L", "hers", file)
	lay(t, file, superOffset+atMounted, "\x01\x02\x03\x04")
	lay(t, file, size-window, string(newMarker([16]byte{1})))
	before, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	data := tools(t)
	data.Disk = Role{What: "data disk d", Label: "d", Refuses: func(string) string { return "" }}
	if r := data.Prepare(context.Background(), file, size); r.Action != Mounted || r.Error != "" {
		t.Errorf("Prepare = %+v; want it mounted", r)
	}
	after, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(before, after) {
		t.Error("the disk was changed")
	}
}

func head(t testing.TB, file string) []byte {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return b[:window]
}

func lay(t testing.TB, file string, at int64, s string) {
	t.Helper()
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte(s), at); err != nil {
		t.Fatal(err)
	}
}

func TestLargerAndSmallerDisk(t *testing.T) {
	const size = 64 << 20
	file := image(t, size)
	if r := tools(t).Prepare(context.Background(), file, size); r.Action != Formatted {
		t.Fatalf("Prepare = %+v", r)
	}
	if err := os.Truncate(file, 4*size); err != nil {
		t.Fatal(err)
	}
	r := tools(t).Prepare(context.Background(), file, 4*size)
	if r.Action != Mounted || r.Bytes != 4*size-tail {
		t.Errorf("Prepare of a larger disk = %+v; want it to be grown to %d", r, 4*size-tail)
	}
	if err := os.Truncate(file, size/2); err != nil {
		t.Fatal(err)
	}
	if r := tools(t).Prepare(context.Background(), file, size/2); r.Action != ForeignDisk || !strings.Contains(r.Error,
		"smaller than its filesystem and was left alone; make it as large again") {
		t.Errorf("Prepare of a smaller disk = %+v; want it left alone", r)
	}
}

func TestErrorsAreChecked(t *testing.T) {
	const size = 32 << 20
	file := image(t, size)
	if r := tools(t).Prepare(context.Background(), file, size); r.Action != Formatted {
		t.Fatalf("Prepare = %+v", r)
	}
	// The way the kernel leaves it after "EXT4-fs error": the flag in s_state.
	debugfs := tool(t, "debugfs", "e2fsprogs")
	run1(t, debugfs, "-w", "-R", "ssv state 2", file)
	if !probe(t, file).Errors {
		t.Fatalf("Probe = %+v; want errors", probe(t, file))
	}
	if r := tools(t).Prepare(context.Background(), file, size); r.Action != Mounted || r.Error != "" {
		t.Errorf("Prepare = %+v; want it repaired and mounted", r)
	}
	if probe(t, file).Errors {
		t.Error("errors are still flagged after e2fsck -p")
	}
	// What -p refuses to decide is left to a person: the root directory is gone.
	run1(t, debugfs, "-w", "-R", "ssv state 2", file)
	run1(t, debugfs, "-w", "-R", "clri <2>", file)
	if r := tools(t).Prepare(context.Background(), file, size); r.Action != FailedDisk || !strings.Contains(r.Error,
		"from the host") {
		t.Errorf("Prepare of a filesystem beyond -p = %+v; want failed", r)
	}
}

func TestToolsMissing(t *testing.T) {
	const size = 32 << 20
	file := image(t, size)
	broken := tools(t)
	broken.Mke2fs = "/nonexistent/mke2fs"
	if r := broken.Prepare(context.Background(), file, size); r.Action != FailedDisk || !strings.Contains(r.Error,
		"mke2fs") {
		t.Errorf("Prepare without mke2fs = %+v; want failed", r)
	}
	if k := probe(t, file).Kind; k != Interrupted {
		t.Errorf("after it the disk is %s; want interrupted", k)
	}
}

func TestSkeleton(t *testing.T) {
	dir := t.TempDir()
	for range 2 {
		if err := Skeleton(dir, os.Geteuid() == 0); err != nil {
			t.Fatal(err)
		}
	}
	for name, mode := range map[string]fs.FileMode{"root": fs.ModeDir | 0o700, "tmp": fs.ModeDir | fs.ModeSticky | 0o777,
		"home": fs.ModeDir | 0o755, "lib/rempart": fs.ModeDir | 0o755} {
		if info, err := os.Lstat(filepath.Join(dir, name)); err != nil || info.Mode() != mode {
			t.Errorf("%s: %v, %v; want %v", name, info, err, mode)
		}
	}
	if l, err := os.Readlink(filepath.Join(dir, "run")); err != nil || l != "../run" {
		t.Errorf("run -> %q, %v; want ../run", l, err)
	}
}

// TestSkeletonOverHostileState: a guest broken into has put links where directories were.
func TestSkeletonOverHostileState(t *testing.T) {
	dir, outside := t.TempDir(), t.TempDir()
	for _, name := range []string{"log", "lib"} {
		if err := os.Symlink(outside, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := Skeleton(dir, os.Geteuid() == 0); err == nil || !strings.Contains(err.Error(), "/var/log") {
		t.Errorf("Skeleton = %v; want it to name /var/log", err)
	}
	if entries, err := os.ReadDir(outside); err != nil || len(entries) > 0 {
		t.Errorf("Skeleton left %v outside", entries)
	}
	if _, err := os.Stat(filepath.Join(dir, "spool")); err != nil {
		t.Errorf("what could be made was not: %v", err)
	}
}

func FuzzProbe(f *testing.F) {
	super := make([]byte, 1024)
	binary.LittleEndian.PutUint16(super[atMagic:], superMagic)
	copy(super[atLabel:], contract.StateLabel)
	binary.LittleEndian.PutUint32(super[atIncompat:], incompatExtent|incompat64)
	binary.LittleEndian.PutUint32(super[atBlocksLow:], 100)
	binary.LittleEndian.PutUint32(super[atLogBlockSize:], 2)
	f.Add(super, []byte(nil))
	f.Add(newMarker([16]byte{1}), newMarker([16]byte{1}))
	f.Fuzz(func(t *testing.T, head, end []byte) {
		const size = 4 << 20
		disk := make([]byte, size)
		copy(disk[superOffset:], head)
		if len(end) <= window {
			copy(disk[size-window:], end)
		}
		found, err := Probe(bytes.NewReader(disk), size)
		if err != nil {
			t.Fatal(err)
		}
		if (found.Kind == Blank) != (zero(disk[:window]) && zero(disk[size-window:])) {
			t.Errorf("Probe = %+v of a disk that is zero: %v", found, zero(disk))
		}
		if found.Kind == Ours && (found.BlockSize < 1024 || found.Blocks < 1 || found.Blocks*found.BlockSize > size) {
			t.Errorf("Probe = %+v of a disk of %d bytes", found, size)
		}
	})
}
