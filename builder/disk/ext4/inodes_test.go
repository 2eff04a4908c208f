package ext4

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestInodes finds what names lead to, and a file that no name leads to any more.
func TestInodes(t *testing.T) {
	for _, options := range []string{"-t ext4", "-t ext4 -O ^metadata_csum,^64bit", "-t ext2 -b 1024"} {
		tree := t.TempDir()
		for i := range 30 {
			if err := os.WriteFile(filepath.Join(tree, fmt.Sprint("f", i)), []byte("x"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		image := makeFS(t, tree, "8M", strings.Fields(options)...)
		run(t, "unlink f7\n", "debugfs", "-w", image) // debugfs leaves the inode as it is
		f := open(t, image)
		named := map[uint32]bool{}
		if err := f.Walk(func(_ string, i *Inode, err error) error {
			if err == nil {
				named[i.Number] = true
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
		var hidden []*Inode
		seen := 0
		if err := f.Inodes(func(i *Inode, _ uint32, err error) error {
			if err == nil && named[i.Number] {
				seen++
			} else if err == nil {
				hidden = append(hidden, i)
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
		if seen != len(named) || len(hidden) != 1 || hidden[0].Size != 1 {
			t.Errorf("%s: Inodes saw %d of %d with names, %d without; want all, and one", options, seen, len(named), len(hidden))
		}
	}
}

// counter counts the bytes that are read.
type counter struct {
	io.ReaderAt
	n int64
}

func (c *counter) ReadAt(b []byte, off int64) (int, error) {
	c.n += int64(len(b))
	return c.ReaderAt.ReadAt(b, off)
}

// TestSharedTrees gives many directories one block map that fails at its very end: reading them all costs the map once,
// not once for each.
func TestSharedTrees(t *testing.T) {
	tree := t.TempDir()
	const dirs = 400
	var script strings.Builder
	for i := range dirs {
		if err := os.Mkdir(filepath.Join(tree, fmt.Sprint("d", i)), 0o700); err != nil {
			t.Fatal(err)
		}
		// A tree of depth two whose root is block 4000, below which are the 256 blocks after it.
		fmt.Fprintf(&script, "sif d%d block[DIND] 4000\nsif d%d size %d\n", i, i, 64<<20)
	}
	image := makeFS(t, tree, "8M", "-t", "ext2", "-b", "1024", "-N", "1024")
	run(t, script.String(), "debugfs", "-w", image)
	b, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 256 {
		binary.LittleEndian.PutUint32(b[4000<<10+4*i:], uint32(4001+i))
		for k := range 256 {
			binary.LittleEndian.PutUint32(b[(4001+i)<<10+4*k:], 5000)
		}
	}
	binary.LittleEndian.PutUint32(b[4256<<10+4*255:], 1<<31)
	reads := &counter{ReaderAt: bytes.NewReader(b)}
	f, err := Open(reads, int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	damaged := 0
	if err := f.Walk(func(_ string, _ *Inode, err error) error {
		if errors.Is(err, ErrDamaged) {
			damaged++
		}
		return nil
	}); err != nil && !errors.Is(err, ErrDamaged) {
		t.Fatal(err)
	}
	if damaged < dirs || reads.n > int64(len(b)) {
		t.Errorf("%d of %d directories are damaged, %d bytes read of an image of %d; want all, and less than the image",
			damaged, dirs, reads.n, len(b))
	}
}

// TestMoreInodesThanRoom refuses a filesystem that says it has more inodes than all of it could hold.
func TestMoreInodesThanRoom(t *testing.T) {
	image := makeFS(t, t.TempDir(), "1M", "-t", "ext2", "-b", "1024", "-I", "256")
	b, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	const inodes, perGroup = superOffset, superOffset + 0x28
	binary.LittleEndian.PutUint32(b[inodes:], 4096+1)
	binary.LittleEndian.PutUint32(b[perGroup:], 8192)
	if _, err := Open(bytes.NewReader(b), int64(len(b))); !errors.Is(err, ErrDamaged) {
		t.Errorf("Open of a filesystem of 1 MiB with 4097 inodes of 256 bytes = %v; want %v", err, ErrDamaged)
	}
}
