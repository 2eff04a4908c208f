package ext4

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"rempart/builder/disk/internal/judge"
)

var (
	madeAt    = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	touchedAt = time.Date(2026, 2, 3, 4, 5, 6, 789, time.UTC)
)

func makeOptions(size int64) Options {
	return Options{Size: size, Label: "TEST", UUID: [16]byte{1, 2, 3}, HashSeed: [16]byte{4}, Time: madeAt}
}

// someFiles are directories and files of many sizes; large is that of one of them.
func someFiles(large int64) []NewFile {
	list := []NewFile{{Dir: true, Mode: 0o755, Modified: touchedAt},
		{Path: "lib", Dir: true, Mode: 0o755, Modified: touchedAt},
		{Path: "lib/dhcp", Dir: true, Mode: 0o750, UID: 905, GID: 905, Modified: touchedAt},
		{Path: "tmp", Dir: true, Mode: 0o1777, Modified: touchedAt}}
	for _, size := range []int64{0, 1, 4095, 4096, 4097, 100_000, large} {
		list = append(list, NewFile{Path: fmt.Sprintf("lib/dhcp/leases-%d", size), Mode: 0o640, UID: 905, GID: 70_000,
			Modified: touchedAt, Size: size, Content: io.LimitReader(&pattern{byte(size)}, size)})
	}
	for i := range 300 { // more than one block of names
		list = append(list, NewFile{Path: fmt.Sprintf("tmp/%03d-%s", i, strings.Repeat("n", i%60)), Mode: 0o600,
			Modified: touchedAt})
	}
	return list
}

// pattern is a reader of bytes that are all one.
type pattern struct{ b byte }

func (p *pattern) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = p.b
	}
	return len(b), nil
}

// makeImage makes a filesystem in a sparse file.
func makeImage(t *testing.T, size int64, list []NewFile) (path string, err error) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "image")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	return path, Make(f, makeOptions(size), list)
}

// TestMake has what is made judged by e2fsck, read by our own reader, and mounted.
func TestMake(t *testing.T) {
	for _, tt := range []struct{ size, large int64 }{
		{16 << 20, 2 << 20}, {64<<20 + 5000, 20 << 20}, {128 << 20, 1 << 20}, {128<<20 + 4096, 1 << 20},
		{128<<20 + 12<<20, 1 << 20}, {255 << 20, 120 << 20}, {1 << 30, 300 << 20}, {20 << 30, 1 << 20},
	} {
		t.Run(fmt.Sprint(tt.size), func(t *testing.T) {
			path, err := makeImage(t, tt.size, someFiles(tt.large))
			if err != nil {
				t.Fatal(err)
			}
			judge.Run(t, "e2fsprogs", "e2fsck", "-fn", path)
			readBack(t, path, someFiles(tt.large))
			mounted(t, path, someFiles(tt.large))
		})
	}
}

// TestRoom fills filesystems to what Room says, with many files and with large ones, and has e2fsck judge them.
func TestRoom(t *testing.T) {
	for _, size := range []int64{10 << 20, 16 << 20, 100 << 20, 129 << 20, 900 << 20} {
		files, room := Room(size)
		list := []NewFile{{Path: "d", Dir: true, Mode: 0o755, Modified: touchedAt}}
		room -= Takes(list[0])
		for i := 1; i < files && room > 0; i++ {
			n := NewFile{Path: fmt.Sprintf("d/%0255d", i), Mode: 0o600, Modified: touchedAt, Size: 1}
			if i%100 == 1 {
				n.Size = min(MaxContent, max(room/2, 1))
			}
			if room -= Takes(n); room < 0 {
				break
			}
			n.Content = io.LimitReader(&pattern{}, n.Size)
			list = append(list, n)
		}
		path, err := makeImage(t, size, list)
		if err != nil {
			t.Errorf("%d files in %d bytes, as Room says: %v", len(list), size, err)
			continue
		}
		if out, err := exec.Command("e2fsck", "-fn", path).CombinedOutput(); err != nil {
			t.Errorf("%d bytes: e2fsck -fn: %v\n%s", size, err, out)
		}
	}
	if files, room := Room(1 << 20); files != 0 || room != 0 {
		t.Errorf("Room(1 MiB) = %d, %d; want none", files, room)
	}
}

// TestMakeTimes reads times back that do not fit into 31 bits, and none.
func TestMakeTimes(t *testing.T) {
	times := []time.Time{time.Unix(-1, 0), time.Unix(-1<<31, 5), time.Unix(1<<31-1, 7), time.Unix(1<<31, 0),
		time.Unix(1<<33, 999_999_999), {}}
	var list []NewFile
	for i, at := range times {
		list = append(list, NewFile{Path: fmt.Sprint(i), Modified: at})
	}
	path, err := makeImage(t, 16<<20, list)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := Open(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range times {
		if n, err := f.Lookup(fmt.Sprint(i)); err != nil || !n.Modified.Equal(want) {
			t.Errorf("a file of %v is read as %+v, %v", want.UTC(), n, err)
		}
	}
}

// readBack compares what our reader finds with what was to be made.
func readBack(t *testing.T, path string, list []NewFile) {
	t.Helper()
	image, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer image.Close()
	info, err := image.Stat()
	if err != nil {
		t.Fatal(err)
	}
	f, err := Open(image, info.Size())
	if err != nil {
		t.Fatal(err)
	}
	if got := f.Info(); got.Label != "TEST" || !got.Clean || got.Errors {
		t.Errorf("Info = %+v; want a clean one labelled TEST", got)
	}
	want := map[string]NewFile{}
	for _, n := range list {
		want[n.Path] = n
	}
	err = f.Walk(func(name string, i *Inode, err error) error {
		if err != nil {
			t.Errorf("%s: %v", name, err)
			return nil
		}
		if name == "lost+found" {
			return nil
		}
		w, ok := want[name]
		delete(want, name)
		if !ok || i.Mode&0o7777 != w.Mode || i.UID != w.UID || i.GID != w.GID || i.FileMode().IsDir() != w.Dir ||
			!w.Dir && i.Size != w.Size || !i.Modified.Equal(w.Modified) {
			t.Errorf("%s is %+v; want %+v", name, i, w)
			return nil
		}
		if w.Dir {
			return nil
		}
		file, err := f.Open(i)
		if err != nil {
			return err
		}
		sameBytes(t, name, io.NewSectionReader(file, 0, file.Size()), w)
		return nil
	})
	if err != nil || len(want) != 0 {
		t.Errorf("Walk = %v; %d files are missing", err, len(want))
	}
}

func sameBytes(t *testing.T, name string, got io.Reader, want NewFile) {
	t.Helper()
	a, b := make([]byte, 1<<20), make([]byte, 1<<20)
	for at := int64(0); ; at += int64(len(a)) {
		n, err := io.ReadFull(got, a)
		m := 0
		if want.Content != nil {
			m, _ = io.ReadFull(want.Content, b)
		}
		if !bytes.Equal(a[:n], b[:m]) {
			t.Errorf("%s has other bytes than it should after %d", name, at)
			return
		}
		if err != nil || n == 0 {
			return
		}
	}
}

// mounted has the kernel read it, write to it and take it off again.
func mounted(t *testing.T, path string, list []NewFile) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED, NOT PASSED: mounting needs root")
	}
	dir := t.TempDir()
	if out, err := exec.Command("mount", "-t", "ext4", "-o", "loop", path, dir).CombinedOutput(); err != nil {
		t.Skipf("SKIPPED, NOT PASSED: this machine cannot mount a file: %v: %s", err, out)
	}
	taken := false
	take := func() {
		if taken {
			return
		}
		taken = true
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	}
	defer take()
	for _, n := range list {
		if n.Dir {
			continue
		}
		f, err := os.Open(filepath.Join(dir, n.Path))
		if err != nil {
			t.Error(err)
			continue
		}
		sameBytes(t, n.Path, f, n)
		f.Close()
	}
	for i := range 50 {
		name := filepath.Join(dir, "tmp", fmt.Sprint("new", i))
		if err := os.WriteFile(name, bytes.Repeat([]byte("x"), 5000*i), 0o600); err != nil {
			t.Error(err)
		}
	}
	take()
	if out, err := exec.Command("e2fsck", "-fn", path).CombinedOutput(); err != nil {
		t.Errorf("e2fsck -fn after the kernel wrote to it: %v\n%s", err, out)
	}
}

func TestMakeIsReproducible(t *testing.T) {
	var sums [2][]byte
	for i := range sums {
		path, err := makeImage(t, 32<<20, someFiles(1<<20))
		if err != nil {
			t.Fatal(err)
		}
		if sums[i], err = os.ReadFile(path); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(sums[0], sums[1]) {
		t.Error("the same files made two different filesystems")
	}
}

func TestMakeRefuses(t *testing.T) {
	file := func(path string) NewFile { return NewFile{Path: path, Mode: 0o600, Modified: touchedAt} }
	for name, tt := range map[string]struct {
		size int64
		list []NewFile
		want string
	}{
		"tiny":      {4 << 20, nil, "too small"},
		"negative":  {-1, nil, "too small"},
		"huge":      {17 << 40, nil, "want less than 16 TiB"},
		"full":      {16 << 20, []NewFile{{Path: "a", Size: 15 << 20, Content: &pattern{}}}, "no room"},
		"orphan":    {16 << 20, []NewFile{file("a/b")}, "no directory for it"},
		"in a file": {16 << 20, []NewFile{file("a"), file("a/b")}, "no directory for it"},
		"twice":     {16 << 20, []NewFile{file("a"), file("a")}, "there already"},
		"rooted":    {16 << 20, []NewFile{file("a"), file("/a")}, "below the root"},
		"dots":      {16 << 20, []NewFile{file("..")}, "1 to 255 bytes"},
		"long":      {16 << 20, []NewFile{file(strings.Repeat("x", 256))}, "1 to 255 bytes"},
		"short":     {16 << 20, []NewFile{{Path: "a", Size: 5, Content: strings.NewReader("abc")}}, "EOF"},
		"no bytes":  {16 << 20, []NewFile{{Path: "a", Size: 5}}, "want permissions, and a content"},
		"type":      {16 << 20, []NewFile{{Path: "a", Mode: 0o100644}}, "want permissions"},
	} {
		var image sink
		if err := Make(&image, makeOptions(tt.size), tt.list); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: Make = %v; want %q", name, err, tt.want)
		}
	}
	if err := Make(&sink{}, Options{Size: 16 << 20}, nil); err == nil {
		t.Error("no UUID and no time were taken")
	}
	failing := &sink{err: errors.New("the disk is full")}
	if err := Make(failing, makeOptions(16<<20), nil); !errors.Is(err, failing.err) {
		t.Errorf("Make onto a full disk = %v; want %v", err, failing.err)
	}
}

// sink takes everything, or nothing.
type sink struct{ err error }

func (s *sink) WriteAt(b []byte, _ int64) (int, error) {
	if s.err != nil {
		return 0, s.err
	}
	return len(b), nil
}
