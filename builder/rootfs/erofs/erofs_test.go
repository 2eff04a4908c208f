package erofs

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"rempart/builder/rootfs/debtest"
	"rempart/builder/rootfs/tree"
)

// sample is a tree with every kind of entry and the sizes where layouts change.
func sample(t testing.TB) *tree.Tree {
	t.Helper()
	s := new(tree.Tree)
	add := func(e tree.Entry) {
		t.Helper()
		if err := s.Add(e); err != nil {
			t.Fatal(err)
		}
	}
	for _, size := range []int{0, 1, 31, 32, 4031, 4032, 4063, 4064, 4065, 4095, 4096, 4097, 8192, 1<<20 + 3} {
		add(tree.Bytes(fmt.Sprintf("sizes/%d", size), 0o644, bytes.Repeat([]byte{byte(size), 'x'}, size/2+1)[:size], "t"))
	}
	for i := range 600 { // more than one block of directory
		add(tree.Bytes(fmt.Sprintf("many/a file with a rather long name, number %d", i), 0o600, []byte{byte(i)}, "t"))
	}
	add(tree.Dir("tmp", 0o777|fs.ModeSticky, "t"))
	add(tree.Dir("a/b/c", 0o700, "t"))
	add(tree.Bytes("setuid", 0o755|fs.ModeSetuid, []byte("s"), "t"))
	add(tree.Symlink("link", "sizes/4096", "t"))
	add(tree.Symlink("long", strings.Repeat("x/", 2000), "t"))
	owned := tree.Bytes("owned", 0o640, []byte("o"), "t")
	owned.UID, owned.GID = 900, 70000
	add(owned)
	return s
}

// write writes the image of a tree to a file.
func write(t testing.TB, s *tree.Tree) string {
	t.Helper()
	image, err := Write(s)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(file, image, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// TestFsck lets fsck.erofs check the image and unpack it.
func TestFsck(t *testing.T) {
	s := sample(t)
	file := write(t, s)
	out := filepath.Join(t.TempDir(), "out")
	debtest.Run(t, "erofs-utils", "fsck.erofs", "--extract="+out, "--no-preserve", file)
	compareFiles(t, s, out)
}

// TestKernelMounts lets the kernel mount the image and compares every file, mode and owner.
func TestKernelMounts(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED, NOT PASSED: mounting a loop device needs root; fsck.erofs alone judges the image in this run")
	}
	s := sample(t)
	dir := t.TempDir()
	debtest.Run(t, "mount", "mount", "-t", "erofs", "-o", "loop,ro", write(t, s), dir)
	defer debtest.Run(t, "mount", "umount", dir)
	compareFiles(t, s, dir)
	for _, e := range s.Entries() {
		info, err := os.Lstat(filepath.Join(dir, e.Path))
		if err != nil {
			t.Fatal(err)
		}
		stat := info.Sys().(*syscall.Stat_t)
		if info.Mode() != e.Mode || int(stat.Uid) != e.UID || int(stat.Gid) != e.GID || stat.Mtim.Sec != Epoch {
			t.Errorf("/%s: mode %v owner %d:%d time %d; want %v %d:%d %d", e.Path, info.Mode(), stat.Uid, stat.Gid,
				stat.Mtim.Sec, e.Mode, e.UID, e.GID, Epoch)
		}
		if want := links(t, dir, e); uint64(stat.Nlink) != want {
			t.Errorf("/%s has %d links; want %d", e.Path, stat.Nlink, want)
		}
	}
}

// links counts what the number of links of an entry must be.
func links(t *testing.T, dir string, e *tree.Entry) uint64 {
	t.Helper()
	if !e.Mode.IsDir() {
		return 1
	}
	names, err := os.ReadDir(filepath.Join(dir, e.Path))
	if err != nil {
		t.Fatal(err)
	}
	n := uint64(2)
	for _, name := range names {
		if name.IsDir() {
			n++
		}
	}
	return n
}

// compareFiles compares the content of all files and links of a tree with those below dir, and their number.
func compareFiles(t *testing.T, s *tree.Tree, dir string) {
	t.Helper()
	for _, e := range s.Entries() {
		switch p := filepath.Join(dir, e.Path); {
		case e.Mode.IsRegular():
			r, err := e.Open()
			if err != nil {
				t.Fatal(err)
			}
			want, err := io.ReadAll(r)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := os.ReadFile(p); err != nil || !bytes.Equal(got, want) {
				t.Errorf("/%s: %d bytes, %v; want %d bytes", e.Path, len(got), err, len(want))
			}
		case e.Mode.IsDir():
			if info, err := os.Lstat(p); err != nil || !info.IsDir() {
				t.Errorf("/%s: %v, %v; want a directory", e.Path, info, err)
			}
		default:
			if got, err := os.Readlink(p); err != nil || got != e.Link {
				t.Errorf("/%s links to %.40q, %v; want %.40q", e.Path, got, err, e.Link)
			}
		}
	}
	n := 0
	if err := filepath.WalkDir(dir, func(string, fs.DirEntry, error) error { n++; return nil }); err != nil {
		t.Fatal(err)
	}
	if want := len(s.Entries()); n != want {
		t.Errorf("%d entries came out; want %d", n, want)
	}
}

// TestReproducible writes the same tree twice, laid in another order.
func TestReproducible(t *testing.T) {
	first, err := Write(sample(t))
	if err != nil {
		t.Fatal(err)
	}
	shuffled := new(tree.Tree)
	entries := sample(t).Entries()
	for i := range entries {
		if err := shuffled.Add(*entries[len(entries)-1-i]); err != nil {
			t.Fatal(err)
		}
	}
	second, err := Write(shuffled)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first, second) {
		t.Errorf("two images of the same tree differ: %d and %d bytes", len(first), len(second))
	}
}

// TestRefuses gives Write what has no place in a root, and files whose size is not what their entry says.
func TestRefuses(t *testing.T) {
	short := func(size int64) tree.Entry {
		e := tree.Bytes("short", 0o644, []byte("abc"), "t")
		e.Size = size
		return e
	}
	for _, e := range []tree.Entry{
		{Path: "pipe", Mode: fs.ModeNamedPipe | 0o600},
		{Path: "null", Mode: fs.ModeDevice | fs.ModeCharDevice | 0o666, Major: 1, Minor: 3},
		tree.Symlink("nowhere", "", "t"),
		tree.Bytes(strings.Repeat("x", 256), 0o644, nil, "t"),
		short(4),       // inline
		short(1 << 20), // in blocks of its own
		short(maxImage),
		short(-1),
	} {
		s := new(tree.Tree)
		if err := s.Add(e); err != nil {
			t.Fatal(err)
		}
		if _, err := Write(s); err == nil {
			t.Errorf("Write of %.20q (%v, %d bytes) = nil; want an error", e.Path, e.Mode, e.Size)
		}
	}
}
