package ext4

import (
	"bytes"
	"encoding/binary"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// smallImages are filesystems that a few changed bytes reach every part of. Without checksums: a hostile hand makes
// those right.
func smallImages(t testing.TB) (all [][]byte) {
	t.Helper()
	tree := t.TempDir()
	for i := range 40 {
		name := filepath.Join(tree, strings.Repeat("x", i+1))
		if err := os.WriteFile(name, bytes.Repeat([]byte{byte(i)}, i*100), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(filepath.Join(tree, "d/e/f"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, to := range map[string]string{"short": "x", "long": strings.Repeat("y/", 100)} {
		if err := os.Symlink(to, filepath.Join(tree, name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, options := range []string{"-t ext4 -O ^metadata_csum,inline_data", "-t ext2", "-t ext3 -J size=1"} {
		image := makeFS(t, tree, "3M", append(strings.Fields(options), "-b", "1024", "-N", "64")...)
		if strings.Contains(options, "ext3") {
			file := filepath.Join(t.TempDir(), "b")
			if err := os.WriteFile(file, make([]byte, 2048), 0o600); err != nil {
				t.Fatal(err)
			}
			run(t, "ea_set x user.note hello\njo\njw -b 1500,1501 "+file+"\njw -b 1502 -r 1501 "+file+"\njc\n", "debugfs",
				"-w", image)
		}
		b, err := os.ReadFile(image)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, b)
	}
	return all
}

// readAll does everything with a filesystem, and returns how many bytes it has read.
func readAll(f *FS) (n int64) {
	_ = f.Walk(func(_ string, i *Inode, _ error) error {
		if i == nil {
			return nil
		}
		_, _ = f.Readlink(i)
		_, _ = f.Attributes(i)
		file, err := f.Open(i)
		if err != nil {
			return nil
		}
		_ = file.Data(func(int64, int64) error { return nil })
		got, _ := io.Copy(io.Discard, io.NewSectionReader(file, 0, min(file.Size(), 1<<16)))
		n += got
		_, _ = file.ReadAt(make([]byte, 100), file.Size()-50)
		return nil
	})
	_ = f.Inodes(func(*Inode, uint32, error) error { return nil })
	return n
}

func FuzzOpen(f *testing.F) {
	images := smallImages(f)
	for i, image := range images {
		fs, err := Open(bytes.NewReader(image), int64(len(image)))
		if err != nil || readAll(fs) == 0 {
			f.Fatalf("image %d, as it was made: %v", i, err)
		}
		if i == 2 && fs.info.Transactions == 0 {
			f.Fatal("the log of the third image is empty")
		}
		f.Add(uint8(i), []byte{0, 0, 0, 0})
		f.Add(uint8(i), []byte{0, 4, 0x18, 1, 0, 0x14, 3, 0xff})
	}
	// Each four bytes of the input change one of the image.
	f.Fuzz(func(t *testing.T, which uint8, changes []byte) {
		image := bytes.Clone(images[int(which)%len(images)])
		for ; len(changes) >= 4; changes = changes[4:] {
			at := int(binary.BigEndian.Uint32(changes)>>8) % len(image)
			image[at] = changes[3]
		}
		length, lengthErr := Length(bytes.NewReader(image))
		fs, err := Open(bytes.NewReader(image), int64(len(image)))
		if err == nil {
			readAll(fs)
		}
		if lengthErr == nil && length <= 0 || err == nil && (lengthErr != nil || length > int64(len(image))) {
			t.Errorf("Length = %d, %v of %d bytes; Open = %v", length, lengthErr, len(image), err)
		}
	})
}

// TestHostile changes bytes where structures are, many times over.
func TestHostile(t *testing.T) {
	for i, base := range smallImages(t) {
		fs, err := Open(bytes.NewReader(base), int64(len(base)))
		if err != nil {
			t.Fatal(err)
		}
		var spots []int64
		for off := int64(superOffset); off < superOffset+superSize; off++ {
			spots = append(spots, off)
		}
		table, err := fs.inodeTable(0)
		if err != nil {
			t.Fatal(err)
		}
		for off := range int64(13 * fs.s.inodeSize) {
			spots = append(spots, int64(table)*fs.s.blockSize+off)
		}
		for off := int64(2048); off < 2048+64; off++ { // descriptors
			spots = append(spots, off)
		}
		if i == 2 {
			offset, err := (&journal{f: fs, file: journalFile(t, fs)}).offset(0)
			if err != nil {
				t.Fatal(err)
			}
			for off := range int64(2 * fs.s.blockSize) {
				spots = append(spots, offset+off)
			}
		}
		opened := 0
		for _, off := range spots {
			was := base[off]
			for _, value := range []byte{0, was ^ 0x80, 0xff} {
				base[off] = value
				if fs, err := Open(bytes.NewReader(base), int64(len(base))); err == nil {
					opened++
					readAll(fs)
				}
			}
			base[off] = was
		}
		if opened < len(spots) {
			t.Errorf("image %d: of %d changed bytes only %d left a filesystem: the change is not where it matters", i,
				3*len(spots), opened)
		}
	}
}

func journalFile(t *testing.T, f *FS) *File {
	t.Helper()
	i, err := f.Inode(f.s.journalInode)
	if err != nil {
		t.Fatal(err)
	}
	file, err := f.Open(i)
	if err != nil {
		t.Fatal(err)
	}
	return file
}
