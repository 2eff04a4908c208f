package inside_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"rempart/builder/disk/ext4"
	"rempart/builder/disk/inside"
	"rempart/builder/disk/internal/judge"
)

// The crafted filesystems are ext2, which has no checksums that would give them away, with these blocks. The first
// inode that a file gets is 12 (Documentation/filesystems/ext4/special_inodes.rst).
const (
	craftedBlock = 4096
	firstInode   = 12
)

// directory is the content of a directory with as many names of a length as fit into so many blocks, each of its own,
// that all lead to the inode. The first sorts before the others, and leads to the inode sub.
func directory(blocks, length int, inode, sub uint32) []byte {
	const header = 8 // Documentation/filesystems/ext4/directory.rst
	size := (header + length + 3) &^ 3
	names := craftedBlock / size // of a block
	b := make([]byte, blocks*craftedBlock)
	for n := range blocks * names {
		at, room := n/names*craftedBlock+n%names*size, size
		if n%names == names-1 {
			room = craftedBlock - n%names*size // the last has the rest of its block
		}
		e := b[at : at+header+length]
		binary.LittleEndian.PutUint32(e, inode)
		binary.LittleEndian.PutUint16(e[4:], uint16(room))
		e[6] = byte(length)
		for k := range length { // the number, in characters
			e[header+length-1-k] = 'A' + byte(n>>min(5*k, 63)%32)
		}
	}
	binary.LittleEndian.PutUint32(b, sub)
	b[header] = '!'
	return b
}

// crafted makes a filesystem of so many blocks with files d0, d1 and so on, from inode 12 on in their order, and calls
// them directories.
func crafted(t *testing.T, blocks int, more string, contents ...[]byte) *os.File {
	t.Helper()
	dir := t.TempDir()
	image := filepath.Join(dir, "image")
	judge.Run(t, "e2fsprogs", "mke2fs", "-q", "-F", "-t", "ext2", "-b", fmt.Sprint(craftedBlock), "-N", "64", image,
		fmt.Sprint(blocks))
	var script strings.Builder
	for i, b := range contents {
		file := filepath.Join(dir, fmt.Sprint(i))
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&script, "write %s d%d\nsif d%[2]d mode 040755\n", file, i)
	}
	cmds := filepath.Join(dir, "cmds")
	if err := os.WriteFile(cmds, []byte(script.String()+more), 0o600); err != nil {
		t.Fatal(err)
	}
	judge.Run(t, "e2fsprogs", "debugfs", "-w", "-f", cmds, image)
	f, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// shared makes the block map of a file have one block, with this content, at so many places, by a tree of depth two
// from a block on where nothing else is. It returns what debugfs needs for that, and what writes the tree.
func shared(name string, root, places int, content []byte) (script string, write func(t *testing.T, image *os.File)) {
	const perBlock = craftedBlock / 4
	script = fmt.Sprintf("sif %s block[DIND] %d\nsif %[1]s size %[3]d\n", name, root, (12+perBlock+places)*craftedBlock)
	return script, func(t *testing.T, image *os.File) {
		t.Helper()
		children := (places + perBlock - 1) / perBlock
		one := uint32(root + 1 + children)
		tree := make([]byte, (1+children)*craftedBlock)
		for i := range children {
			binary.LittleEndian.PutUint32(tree[4*i:], uint32(root+1+i))
		}
		for i := range places {
			binary.LittleEndian.PutUint32(tree[craftedBlock+4*i:], one)
		}
		if _, err := image.WriteAt(append(tree, content...), int64(root)*craftedBlock); err != nil {
			t.Fatal(err)
		}
	}
}

// load reads an image into memory.
func load(t *testing.T, image *os.File) *bytes.Reader {
	t.Helper()
	b, err := io.ReadAll(image)
	if err != nil {
		t.Fatal(err)
	}
	return bytes.NewReader(b)
}

func openExt(t *testing.T, image io.ReaderAt, size int64) *ext4.FS {
	t.Helper()
	f, err := ext4.Open(image, size)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// live is how many bytes of memory are in use.
func live() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// TestHostileDirectory reads directories with more names than any honest one: short ones, and the longest in a single
// block that is there many times.
func TestHostileDirectory(t *testing.T) {
	const mostNames, perLong = 1 << 20, craftedBlock / 264
	many, long := directory(mostNames/341+10, 4, firstInode, firstInode), directory(1, 255, firstInode, firstInode)
	places := mostNames/perLong + 10
	script, write := shared("d1", 20000, places, long)
	image := crafted(t, places+30000, script, many, long)
	write(t, image)
	f := openExt(t, image, int64(places+30000)*craftedBlock)
	for _, tt := range []struct {
		name     string
		perBlock int
		memory   uint64 // bytes: of the names, and of a slice of them with room to grow
	}{{"d0", 341, 96 << 20}, {"d1", perLong, 384 << 20}} {
		i, err := f.Lookup(tt.name)
		if err != nil {
			t.Fatal(err)
		}
		before := live()
		entries, err := f.ReadDir(i)
		memory := live() - before
		runtime.KeepAlive(entries)
		if !errors.Is(err, ext4.ErrDamaged) || len(entries) <= mostNames || len(entries) > mostNames+tt.perBlock ||
			memory > tt.memory {
			t.Errorf("ReadDir(%s) = %d names, %v, by %d MiB; want about %d and that it is damaged, by %d MiB at most", tt.name,
				len(entries), err, memory>>20, mostNames, tt.memory>>20)
		}
		t.Logf("%s: %d names by %d MiB", tt.name, len(entries), memory>>20)
	}
}

// TestHostileWalk walks folders within folders, none of more names than a folder may have, all of them kept at a time.
func TestHostileWalk(t *testing.T) {
	const folders, mostNames, blocks = 3, 1 << 21, 2060
	var contents [][]byte
	for n := range uint32(folders) {
		contents = append(contents, directory(blocks, 4, firstInode+folders, firstInode+n+1))
	}
	contents = append(contents, nil) // which all other names lead to
	image := load(t, crafted(t, folders*blocks+10000, fmt.Sprintf("sif d%d mode 0100644\n", folders), contents...))
	v, err := inside.OpenVolume(image, image.Size())
	if err != nil {
		t.Fatal(err)
	}
	before, held, calls := live(), uint64(0), 0
	err = v.Walk("d0", func(string, fs.FileInfo, error) error {
		if calls++; calls == folders { // before the last folder is read
			held = live() - before
		}
		return nil
	})
	if err == nil || !strings.Contains(err.Error(), fmt.Sprint(mostNames)) || calls != folders {
		t.Errorf("Walk = %v after %d calls; want it ended by its bound, in the last folder", err, calls)
	}
	const most = 512 << 20
	if held > most {
		t.Errorf("two folders take %d MiB; want %d at most", held>>20, most>>20)
	}
	t.Logf("two folders: %d MiB", held>>20)
	calls = 0
	err = openExt(t, image, image.Size()).Walk(func(string, *ext4.Inode, error) error { calls++; return nil })
	if !errors.Is(err, ext4.ErrDamaged) || !strings.Contains(err.Error(), fmt.Sprint(mostNames)) || calls > 10 {
		t.Errorf("the walk of ext4 = %v after %d calls; want it ended by its bound, in the last folder", err, calls)
	}
}

// TestSharedDirectories walks folders that each have most of the blocks there are: the walk ends when it has read as
// many as there are.
func TestSharedDirectories(t *testing.T) {
	const blocks, places = 21000, 15000
	long := directory(1, 255, firstInode+3, firstInode+3)
	var contents [][]byte
	var writes []func(*testing.T, *os.File)
	all := ""
	for n := range 3 {
		script, write := shared(fmt.Sprint("d", n), 10000+1000*n, places, long)
		all, writes, contents = all+script, append(writes, write), append(contents, nil)
	}
	image := crafted(t, blocks, all+"sif d3 mode 0100644\n", append(contents, nil)...)
	for _, write := range writes {
		write(t, image)
	}
	calls := 0
	memory := load(t, image)
	err := openExt(t, memory, memory.Size()).Walk(func(string, *ext4.Inode, error) error { calls++; return nil })
	if most := blocks * (craftedBlock / 264); !errors.Is(err, ext4.ErrDamaged) || calls > most || calls < most/2 {
		t.Errorf("Walk = %v after %d names; want it ended, after %d at most", err, calls, most)
	}
}
