package inside_test

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"rempart/builder/disk/inside"
	"rempart/builder/disk/internal/judge"
)

// tree lays files in a folder: of every size that matters, links, and a directory in a directory.
func tree(t testing.TB) (dir string, files map[string][]byte) {
	t.Helper()
	dir = t.TempDir()
	noise := make([]byte, 70_000)
	rand.NewChaCha8([32]byte{9}).Read(noise)
	files = map[string][]byte{"empty": {}, "small": []byte("hello\n"), "d/page": noise[:4096], "d/e/large": noise}
	for name, b := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, b, 0o640); err != nil {
			t.Fatal(err)
		}
	}
	for name, target := range map[string]string{"link": "d/e/large", "d/up": "../small", "d/abs": "/d/page",
		"loop": "loop", "out": "../../etc/passwd", "dlink": "d/e"} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	return dir, files
}

// images makes one image of each filesystem by its own tools.
func images(t testing.TB) (all map[string][]byte, files map[string][]byte) {
	t.Helper()
	dir, files := tree(t)
	all = map[string][]byte{}
	work := t.TempDir()
	ext4 := filepath.Join(work, "ext4")
	judge.Run(t, "e2fsprogs", "mke2fs", "-q", "-F", "-t", "ext4", "-L", "FOUR", "-d", dir, ext4, "4M")
	erofs := filepath.Join(work, "erofs")
	judge.Run(t, "erofs-utils", "mkfs.erofs", "-T0", erofs, dir)
	fat := filepath.Join(work, "fat")
	judge.Run(t, "dosfstools", "mkfs.fat", "-C", "-n", "FAT", fat, "2048")
	judge.Run(t, "mtools", "mmd", "-i", fat, "::d", "::d/e")
	for name := range files {
		judge.Run(t, "mtools", "mcopy", "-i", fat, filepath.Join(dir, name), "::"+name)
	}
	for kind, path := range map[string]string{"ext4": ext4, "erofs": erofs, "fat12": fat} {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		all[kind] = b
	}
	return all, files
}

func open(t testing.TB, b []byte) *inside.Volume {
	t.Helper()
	v, err := inside.OpenVolume(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// TestVolumes reads the same tree from each filesystem.
func TestVolumes(t *testing.T) {
	all, files := images(t)
	labels := map[string]string{"ext4": "FOUR", "erofs": "", "fat12": "FAT"}
	for kind, b := range all {
		v := open(t, b)
		if v.Kind != kind || v.Label != labels[kind] {
			t.Errorf("a volume of %s is told as %q, label %q; want %q", kind, v.Kind, v.Label, labels[kind])
		}
		for name, want := range files {
			got, err := fs.ReadFile(v, name)
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s: %s = %d bytes, %v; want %d", kind, name, len(got), err, len(want))
			}
		}
		size, used, err := v.Usage()
		if err != nil || used < 74_000 || used > size {
			t.Errorf("%s: Usage = %d, %d, %v", kind, size, used, err)
		}
		var names []string
		if err := v.Walk(".", func(name string, _ fs.FileInfo, err error) error {
			names = append(names, name)
			return err
		}); err != nil {
			t.Errorf("%s: Walk: %v", kind, err)
		}
		for name := range files {
			if !slices.Contains(names, name) {
				t.Errorf("%s: Walk did not come to %s", kind, name)
			}
		}
		if kind == "fat12" {
			continue
		}
		for name, want := range map[string]string{"link": "d/e/large", "d/up": "small", "d/abs": "d/page",
			"dlink/large": "d/e/large", "dlink/../page": "d/page", "d/../../small": "small"} {
			if got, err := inside.Resolve(v, name, true); err != nil || got != want {
				t.Errorf("%s: Resolve(%s) = %q, %v; want %q", kind, name, got, err, want)
			}
		}
		if got, err := inside.Resolve(v, "dlink", false); err != nil || got != "dlink" {
			t.Errorf("%s: Resolve(dlink), not followed = %q, %v", kind, got, err)
		}
		if _, err := inside.Resolve(v, "loop", true); !errors.Is(err, inside.ErrLinks) {
			t.Errorf("%s: Resolve(loop) = %v; want %v", kind, err, inside.ErrLinks)
		}
		if _, err := inside.Resolve(v, "out", true); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: Resolve(out) = %v; want %v: it leads nowhere but inside", kind, err, fs.ErrNotExist)
		}
		i, err := v.Lstat("d/page")
		if err != nil || i.Mode() != 0o640 || inside.MetaOf(i).Inode == 0 {
			t.Errorf("%s: Lstat = %o, %+v, %v; want mode 0640 and an inode", kind, i.Mode(), inside.MetaOf(i), err)
		}
	}
	below, err := fs.Sub(noLinks{open(t, all["ext4"])}, "d") // where all links lead somewhere
	if err != nil {
		t.Fatal(err)
	}
	if err := fstest.TestFS(below, "page", "e/large"); err != nil {
		t.Error(err)
	}
}

// TestTimes reads a time of an EROFS, which has 64 bits for it, that no calendar has.
func TestTimes(t *testing.T) {
	dir, _ := tree(t)
	image := filepath.Join(t.TempDir(), "image")
	judge.Run(t, "erofs-utils", "mkfs.erofs", "-T99999999999999", image, dir)
	b, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	v := open(t, b)
	entries, err := v.ReadDir("d")
	if err != nil || len(entries) == 0 {
		t.Fatal(entries, err)
	}
	for _, e := range entries {
		i, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		if text, err := json.Marshal(i.ModTime()); err != nil {
			t.Errorf("the time of %s is %s, %v; want one that JSON has, or none", e.Name(), text, err)
		}
	}
}

// counter counts the bytes that are read.
type counter struct {
	*bytes.Reader
	n int64
}

func (c *counter) ReadAt(b []byte, off int64) (int, error) {
	c.n += int64(len(b))
	return c.Reader.ReadAt(b, off)
}

// TestLargeDirectory reads a directory of many files, of which some are damaged, some have an attribute, and one a name
// that is no text: once, and not once for each file.
func TestLargeDirectory(t *testing.T) {
	const files, bad = 3000, 200
	dir := t.TempDir()
	for i := range files {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("file-%04d", i)), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "no\xfftext"), []byte("found"), 0o600); err != nil {
		t.Fatal(err)
	}
	image := filepath.Join(t.TempDir(), "image")
	judge.Run(t, "e2fsprogs", "mke2fs", "-q", "-F", "-t", "ext4", "-N", "4096", "-d", dir, image, "32M")
	var script strings.Builder
	script.WriteString("ea_set /file-0000 user.note hello\n")
	for i := 1; i <= bad; i++ {
		fmt.Fprintf(&script, "sif /file-%04d size 0x8000000000000000\n", i)
	}
	cmds := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(cmds, []byte(script.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	judge.Run(t, "e2fsprogs", "debugfs", "-w", "-f", cmds, image)
	b, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	r := &counter{Reader: bytes.NewReader(b)}
	v, err := inside.OpenVolume(r, int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	entries, err := v.ReadDir(".")
	if len(entries) != files-bad+2 || err == nil { // and lost+found
		t.Errorf("ReadDir = %d files, %v; want %d, and the damage", len(entries), err, files-bad+2)
	} else if lines := strings.Count(err.Error(), "\n"); lines > 20 {
		t.Errorf("%d lines tell of the damage to a directory; want some", lines)
	}
	for _, e := range entries {
		if i, err := e.Info(); err != nil || inside.MetaOf(i).Attributes != nil {
			t.Errorf("%s has its attributes in a listing: %v", e.Name(), err)
		}
		if f, err := v.Open(e.Name()); err != nil {
			t.Errorf("Open(%q): %v", e.Name(), err)
		} else {
			f.Close()
		}
	}
	if r.n > int64(len(b)) {
		t.Errorf("%d bytes were read of an image of %d, for %d files", r.n, len(b), files)
	}
	if i, err := v.Lstat("file-0000"); err != nil || string(inside.MetaOf(i).Attributes["user.note"]) != "hello" {
		t.Errorf("Lstat = %+v, %v; want an attribute", inside.MetaOf(i), err)
	}
	if got, err := fs.ReadFile(v, "no\xfftext"); err != nil || string(got) != "found" {
		t.Errorf("a name that is no text = %q, %v", got, err)
	}
}

// noLinks hides what TestFS cannot know: that Open follows no link.
type noLinks struct{ *inside.Volume }

func (n noLinks) Open(name string) (fs.File, error) {
	if !fs.ValidPath(name) {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrInvalid}
	}
	to, err := inside.Resolve(n.Volume, name, true)
	if err != nil {
		return nil, err
	}
	return n.Volume.Open(to)
}

// TestPartitions reads what sfdisk writes.
func TestPartitions(t *testing.T) {
	all, _ := images(t)
	for table, script := range map[string]string{
		"gpt": "label: gpt\nname=one, start=2048, size=8192\nname=two, start=20480, size=8192\n",
		"dos": "label: dos\nstart=2048, size=8192, type=83\nstart=20480, size=20480, type=5\n" +
			"start=22528, size=2048, type=83\nstart=30720, size=2048, type=82\n",
	} {
		disk := filepath.Join(t.TempDir(), "disk")
		if err := os.WriteFile(disk, make([]byte, 24<<20), 0o600); err != nil {
			t.Fatal(err)
		}
		input := filepath.Join(t.TempDir(), "script")
		if err := os.WriteFile(input, []byte(script), 0o600); err != nil {
			t.Fatal(err)
		}
		judge.Run(t, "fdisk", "sh", "-c", fmt.Sprintf("PATH=$PATH:/sbin:/usr/sbin sfdisk -q %s < %s", disk, input))
		b, err := os.ReadFile(disk)
		if err != nil {
			t.Fatal(err)
		}
		copy(b[2048*512:], all["ext4"])
		got, parts, damaged, err := inside.Partitions(bytes.NewReader(b), int64(len(b)))
		var places []string
		for _, p := range parts {
			places = append(places, fmt.Sprintf("%d:%d+%d", p.Number, p.Offset/512, p.Size/512))
		}
		want, kind := "1:2048+8192 2:20480+8192", "gpt"
		if table == "dos" {
			want, kind = "1:2048+8192 2:20480+20480 5:22528+2048 6:30720+2048", "mbr"
		}
		if err != nil || damaged != nil || got != kind || strings.Join(places, " ") != want {
			t.Errorf("%s: Partitions = %s, %v, %v, %v; want %s, %s", table, got, places, damaged, err, kind, want)
			continue
		}
		p, err := inside.Find(parts, "1")
		if err != nil {
			t.Fatal(err)
		}
		if v, err := inside.OpenVolume(p.Part(bytes.NewReader(b)), p.Size); err != nil || v.Kind != "ext4" {
			t.Errorf("%s: partition 1: %+v, %v; want ext4", table, v, err)
		}
		if table == "gpt" {
			if p, err := inside.Find(parts, "two"); err != nil || p.Number != 2 {
				t.Errorf("Find(two) = %+v, %v", p, err)
			}
			twins := []inside.Partition{{Number: 1, Name: "root"}, {Number: 2, Name: "root"}}
			if p, err := inside.Find(twins, "root"); !errors.Is(err, inside.ErrNoPartition) {
				t.Errorf("Find of a name that two have = %+v, %v; want %v", p, err, inside.ErrNoPartition)
			}
			b[512+60]++
			if _, parts, damaged, err := inside.Partitions(bytes.NewReader(b), int64(len(b))); err != nil || damaged == nil ||
				len(parts) != 2 {
				t.Errorf("a damaged GPT: %v, %v, %v; want the backup's partitions and the damage", parts, damaged, err)
			}
		}
		if _, err := inside.Find(parts, "9"); !errors.Is(err, inside.ErrNoPartition) {
			t.Errorf("Find(9) = %v; want %v", err, inside.ErrNoPartition)
		}
	}
	for kind, b := range all {
		if got, parts, _, err := inside.Partitions(bytes.NewReader(b), int64(len(b))); got != inside.None || parts != nil ||
			err != nil {
			t.Errorf("a volume of %s: Partitions = %s, %v, %v; want none", kind, got, parts, err)
		}
	}
}

// use does everything with a volume that a command does.
func use(v *inside.Volume) (files int) {
	_ = v.Walk(".", func(name string, i fs.FileInfo, err error) error {
		if files++; err != nil {
			return nil
		}
		switch {
		case i.Mode().IsRegular():
			f, err := v.Open(name)
			if err != nil {
				return nil
			}
			_, _ = io.Copy(io.Discard, io.LimitReader(f, 1<<16))
			f.Close()
		case i.Mode()&fs.ModeSymlink != 0:
			_, _ = v.ReadLink(name)
			_, _ = inside.Resolve(v, name, true)
		}
		return nil
	})
	_, _, _ = v.Usage()
	return files
}

// FuzzOpenVolume changes bytes of the filesystems.
func FuzzOpenVolume(f *testing.F) {
	all, files := images(f)
	kinds := []string{"ext4", "erofs", "fat12"}
	for n, kind := range kinds {
		if got := use(open(f, all[kind])); got < len(files) {
			f.Fatalf("%s, as it was made, has %d files", kind, got)
		}
		f.Add(uint8(n), []byte{0, 4, 0x18, 1})
	}
	f.Add(uint8(1), []byte{0, 4, 0x0e, 0xff, 0, 4, 0x0c, 9})
	f.Fuzz(func(t *testing.T, which uint8, changes []byte) {
		b := bytes.Clone(all[kinds[int(which)%len(kinds)]])
		for ; len(changes) >= 4; changes = changes[4:] {
			b[int(binary.BigEndian.Uint32(changes)>>8)%len(b)] = changes[3]
		}
		if v, err := inside.OpenVolume(bytes.NewReader(b), int64(len(b))); err == nil {
			use(v)
		}
	})
}

// FuzzPartitions reads anything as a partition table.
func FuzzPartitions(f *testing.F) {
	b := make([]byte, 64<<10)
	copy(b[446:], []byte{0, 0, 0, 0, 5, 0, 0, 0, 1, 0, 0, 0, 9, 0, 0, 0})
	copy(b[510:], []byte{0x55, 0xAA})
	copy(b[512:], b[:512])
	f.Add(b[:1024])
	f.Fuzz(func(t *testing.T, start []byte) {
		b := make([]byte, 64<<10)
		copy(b, start)
		_, all, _, err := inside.Partitions(bytes.NewReader(b), int64(len(b)))
		for _, p := range all {
			if err == nil && (p.Offset < 0 || p.Size <= 0 || p.Size > int64(len(b))-p.Offset) {
				t.Errorf("partition %+v of a disk of %d bytes", p, len(b))
			}
		}
	})
}
