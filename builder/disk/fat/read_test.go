package fat

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"rempart/builder/disk/internal/judge"
)

// foreign makes a volume of a width by mkfs.fat and mtools, with the files given.
func foreign(t testing.TB, bits, sizeKiB string, files map[string][]byte, more ...string) []byte {
	t.Helper()
	dir := t.TempDir()
	image := filepath.Join(dir, "image")
	judge.Run(t, "dosfstools", "mkfs.fat", append(more, "-C", "-F", bits, "-n", "LABEL", "-i", "12345678", image,
		sizeKiB)...)
	made := map[string]bool{}
	for name, content := range files {
		for i, c := range name {
			if c == '/' && !made[name[:i]] {
				made[name[:i]] = true
				judge.Run(t, "mtools", "mmd", "-i", image, "::"+name[:i])
			}
		}
		file := filepath.Join(dir, "content")
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
		judge.Run(t, "mtools", "mcopy", "-i", image, file, "::"+name)
	}
	b, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func someFiles() map[string][]byte {
	noise := make([]byte, 70_000)
	rand.NewChaCha8([32]byte{7}).Read(noise)
	return map[string][]byte{"a.txt": []byte("hello\n"), "UPPER.BIN": noise[:5000], "empty": {},
		"dir/a long name with spaces.conf": noise[:513], "dir/sub/deep.bin": noise, "dir/sub/two.dots.conf": []byte("x")}
}

// TestReadForeign reads what mkfs.fat and mtools wrote, of each width.
func TestReadForeign(t *testing.T) {
	for bits, size := range map[string]string{"12": "2048", "16": "16384", "32": "65536"} {
		files := someFiles()
		b := foreign(t, bits, size, files)
		v, err := OpenVolume(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			t.Fatalf("FAT%s: %v", bits, err)
		}
		var names []string
		for name, content := range files {
			names = append(names, name)
			got, err := fs.ReadFile(v, name)
			if err != nil || !bytes.Equal(got, content) {
				t.Errorf("FAT%s: %s = %d bytes, %v; want the %d written", bits, name, len(got), err, len(content))
			}
			runs, err := v.Extents(name)
			var joined []byte
			for _, r := range runs {
				joined = append(joined, b[r.Offset:r.Offset+r.Length]...)
			}
			if err != nil || !bytes.Equal(joined, content) {
				t.Errorf("FAT%s: the extents of %s hold %d other bytes, %v", bits, name, len(joined), err)
			}
		}
		if err := fstest.TestFS(v, names...); err != nil {
			t.Errorf("FAT%s: %v", bits, err)
		}
		total, used, err := v.Usage()
		if err != nil || used < 75_000 || used > total || v.Label() != "LABEL" {
			t.Errorf("FAT%s: Usage = %d, %d, %v, label %q", bits, total, used, err, v.Label())
		}
	}
}

// TestReadOwn reads what this package writes.
func TestReadOwn(t *testing.T) {
	files := append(bootFiles(), manyFiles()...)
	image := build(t, files, options())
	v, err := OpenVolume(image, image.Size())
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if f.Dir {
			continue
		}
		got, err := fs.ReadFile(v, f.Path)
		if err != nil || !bytes.Equal(got, content(t, f)) {
			t.Errorf("%s: %d bytes, %v; want %d", f.Path, len(got), err, f.Size)
		}
	}
	if v.Label() != options().Label {
		t.Errorf("Label = %q; want %q", v.Label(), options().Label)
	}
}

// readAllOf does everything with a volume, and returns how many files it has seen.
func readAllOf(v *Volume) (n int) {
	_ = fs.WalkDir(v, ".", func(name string, e fs.DirEntry, err error) error {
		n++
		if err != nil || e.IsDir() {
			return nil
		}
		f, err := v.Open(name)
		if err != nil {
			return nil
		}
		_, _ = io.Copy(io.Discard, io.LimitReader(f, 1<<16))
		return nil
	})
	_, _, _ = v.Usage()
	return n
}

// TestReadHostile makes loops: an end is reached, and something is said.
func TestReadHostile(t *testing.T) {
	whole := foreign(t, "16", "16384", someFiles())
	entry := func(b []byte, name string) []byte {
		at := bytes.Index(b, []byte(name))
		if at < 0 {
			t.Fatalf("no entry %q", name)
		}
		return b[at:]
	}
	for name, tt := range map[string]struct {
		spoil func(b []byte)
		file  string
	}{
		"a directory in itself": {func(b []byte) {
			copy(entry(b, "SUB        ")[26:28], entry(b, "DIR        ")[26:28])
		}, "dir/sub"},
		"a chain in a circle": {func(b []byte) {
			c := binary.LittleEndian.Uint16(entry(b, "DEEP    BIN")[26:])
			binary.LittleEndian.PutUint16(b[2048+2*int(c):], c) // the table is behind the reserved sectors of mkfs.fat
			binary.LittleEndian.PutUint32(entry(b, "DEEP    BIN")[28:], 1<<31)
		}, "dir/sub/deep.bin"},
		"a chain out of the volume": {func(b []byte) {
			binary.LittleEndian.PutUint16(entry(b, "DEEP    BIN")[26:], 0xFFF0)
		}, "dir/sub/deep.bin"},
	} {
		b := bytes.Clone(whole)
		tt.spoil(b)
		v, err := OpenVolume(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		readAllOf(v)
		if _, err = fs.ReadFile(v, tt.file); tt.file == "dir/sub" {
			_, err = fs.ReadDir(v, tt.file)
		}
		if !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v; want %v", name, err, ErrDamaged)
		}
	}
	for _, b := range [][]byte{nil, make([]byte, 512), whole[:512], []byte(strings.Repeat("\xEB", 4096))} {
		if v, err := OpenVolume(bytes.NewReader(b), int64(len(b))); err == nil {
			t.Errorf("OpenVolume of %d bytes = %+v; want an error", len(b), v)
		}
	}
}

func FuzzOpenVolume(f *testing.F) {
	images := [][]byte{foreign(f, "12", "512", someFiles()), foreign(f, "16", "2560", someFiles(), "-s", "1")}
	for i, image := range images {
		v, err := OpenVolume(bytes.NewReader(image), int64(len(image)))
		if err != nil || readAllOf(v) < len(someFiles()) {
			f.Fatalf("image %d, as it was made: %v", i, err)
		}
		f.Add(uint8(i), []byte{0, 0, 13, 4})
		f.Add(uint8(i), []byte{0, 2, 0, 1, 0, 8, 0, 2})
	}
	// Each four bytes of the input change one of the image.
	f.Fuzz(func(t *testing.T, which uint8, changes []byte) {
		image := bytes.Clone(images[int(which)%len(images)])
		for ; len(changes) >= 4; changes = changes[4:] {
			at := int(binary.BigEndian.Uint32(changes)>>8) % min(len(image), 1<<17)
			image[at] = changes[3]
		}
		if v, err := OpenVolume(bytes.NewReader(image), int64(len(image))); err == nil {
			readAllOf(v)
		}
	})
}
