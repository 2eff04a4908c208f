package files

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestWriteAndMove(t *testing.T) {
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "sub", "b")
	for _, content := range []string{"one", "two"} {
		if err := Write(a, []byte(content), 0o640); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(a)
		info, _ := os.Stat(a)
		if err != nil || string(got) != content || info.Mode().Perm() != 0o640 {
			t.Errorf("after Write(%q): %q, %v, %v; want it with mode 0640", content, got, info.Mode(), err)
		}
	}
	c := filepath.Join(dir, "sub", "c")
	if err := Write(c, nil, 0o600); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), c+":") {
		t.Errorf("Write into a folder that is not there = %v; want %v, and the file named", err, fs.ErrNotExist)
	}
	if err := os.Mkdir(filepath.Join(dir, "sub"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := Move(a, b); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(b); err != nil || string(got) != "two" {
		t.Errorf("after Move: %q, %v; want two", got, err)
	}
	if err := Write(filepath.Join(dir, "sub"), nil, 0o600); err == nil {
		t.Error("Write over a folder = nil; want an error")
	}
	if left, _ := filepath.Glob(filepath.Join(dir, ".*")); len(left) != 0 {
		t.Errorf("left behind: %q; want nothing", left)
	}
}

func TestData(t *testing.T) {
	t.Setenv("XDG_DATA_HOME", "/x")
	want := "/x/rempart/guests"
	if os.Geteuid() == 0 {
		want = "/var/lib/rempart/guests"
	}
	if got, err := Data("guests"); err != nil || got != want {
		t.Errorf("Data(guests) = %q, %v; want %q", got, err, want)
	}
}

// TestClone copies data between holes, and leaves nothing when it cannot.
func TestClone(t *testing.T) {
	dir := t.TempDir()
	from, to := filepath.Join(dir, "from"), filepath.Join(dir, "to")
	f, err := os.Create(from)
	if err != nil {
		t.Fatal(err)
	}
	const size = 3*copyChunk + 4096
	for _, at := range []int64{0, copyChunk - 3, 2 * copyChunk} {
		if _, err := f.WriteAt(bytes.Repeat([]byte("data"), 2000), at); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(f.Truncate(size), f.Close()); err != nil {
		t.Fatal(err)
	}
	if err := Clone(t.Context(), from, to); err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(to); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the copy has %d bytes, %v; want the same %d", len(got), err, len(want))
	}
	info, err := os.Stat(to)
	if err != nil {
		t.Fatal(err)
	}
	if s := info.Sys().(*syscall.Stat_t); s.Blocks*512 > size/2 || info.Mode().Perm() != 0o600 {
		t.Errorf("the copy takes %d bytes of %d, mode %v; want its holes, and 0600", s.Blocks*512, size, info.Mode())
	}
	if err := os.Remove(to); err != nil {
		t.Fatal(err)
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Clone(over, from, to); err == nil {
		t.Skip("SKIPPED, NOT PASSED: this filesystem shares blocks, which nothing breaks off")
	}
	if left, _ := filepath.Glob(to + "*"); len(left) != 0 {
		t.Errorf("a copy that was broken off left %q", left)
	}
}

// TestCopyData: what is zero becomes a hole, whatever lies around it, and nothing else does.
func TestCopyData(t *testing.T) {
	const size = 3*copyChunk + copyHole/2 + 1
	data := func(from, to int) []byte { return append(make([]byte, from), bytes.Repeat([]byte{7}, to-from)...) }
	for _, c := range []struct {
		name    string
		content []byte
		most    int64 // bytes of the disk that the copy takes
	}{
		{"zeros", make([]byte, size), 0},
		{"data", data(0, size), size + 4096},
		{"data after zeros", data(2*copyChunk+copyHole, size), copyChunk},
		{"a byte in the last hole", data(size-1, size), copyHole},
		{"a byte in the midst", append(data(copyChunk+copyHole-1, copyChunk+copyHole), make([]byte, 2*copyChunk)...),
			copyHole},
		{"pieces in turn", bytes.Repeat(data(copyHole, 2*copyHole), 24), 12*2*copyHole + 4096},
	} {
		dir := t.TempDir()
		from := filepath.Join(dir, "from")
		if err := os.WriteFile(from, c.content, 0o600); err != nil {
			t.Fatal(err)
		}
		in, err := os.Open(from)
		if err != nil {
			t.Fatal(err)
		}
		defer in.Close()
		out, err := os.Create(filepath.Join(dir, "to"))
		if err != nil {
			t.Fatal(err)
		}
		defer out.Close()
		length := int64(len(c.content))
		if err := errors.Join(out.Truncate(length), copyData(t.Context(), in, out, length), out.Sync()); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		if got, err := os.ReadFile(out.Name()); err != nil || !bytes.Equal(got, c.content) {
			t.Errorf("%s: the copy has %d bytes, %v; want the same %d", c.name, len(got), err, length)
		}
		info, err := out.Stat()
		if err != nil {
			t.Fatal(err)
		}
		if used := info.Sys().(*syscall.Stat_t).Blocks * 512; used > c.most {
			t.Errorf("%s: the copy takes %d bytes of the disk; want %d at most", c.name, used, c.most)
		}
	}
}

// TestSweep: what a Write left that was killed goes, and nothing that only looks like it.
func TestSweep(t *testing.T) {
	dir := t.TempDir()
	stay := []string{"a.json", ".a.json", ".a.json-", ".a.json-x1", ".b.json-12", "a.json-12", ".a.json-12.part"}
	for _, name := range append(stay, ".a.json-12", ".a.json-3456") {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := Sweep(dir, "a.json", "c.json"); err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != len(stay) {
		t.Errorf("after Sweep there are %v, %v; want %q", left, err, stay)
	}
	for _, name := range stay {
		if _, err := os.Lstat(filepath.Join(dir, name)); err != nil {
			t.Errorf("Sweep took %s", name)
		}
	}
}
