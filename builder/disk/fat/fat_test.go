package fat

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"rempart/builder/disk"
	"rempart/builder/disk/internal/judge"
)

func options() Options { return Options{Label: "RMPBOOT", Serial: 0x1234ABCD, HiddenSectors: 4096} }

func file(path string, size int) File {
	b := make([]byte, size)
	rand.NewChaCha8(sha256.Sum256([]byte(path))).Read(b)
	return File{Path: path, Size: int64(size), Content: bytes.NewReader(b)}
}

// bootFiles is the shape of a master's boot partition.
func bootFiles() []File {
	return []File{
		file("EFI/BOOT/BOOTX64.EFI", 95<<10),
		file("loader/loader.conf", 40),
		file("loader/entries/rempart.conf", 300),
		file("boot/vmlinuz", 3<<20),
		file("boot/initrd", 2<<20+17),
		file("boot/grub/grub.cfg", 511),
		file("empty", 0),
		{Path: "emptydir", Dir: true},
	}
}

// manyFiles is a directory that takes more than one cluster of any size, with names of every awkward kind.
func manyFiles() []File {
	files := []File{
		file("UPPER.TXT", 1), file("lower.txt", 2), file("MixedCas.e", 3), file("no_ext", 4), file(".hidden", 5),
		file("two.dots.tar", 6), file("with space.txt", 7), file("exactly8.abc", 8), file("ninechars.abc", 9),
		file("ext.four", 10), file("Grüße-東京.txt", 11), file("emoji 😀.txt", 18),
		file("WITHSP~1.TXT", 12), file("plus+,;=[].x", 13),
		file(strings.Repeat("n", 255), 14), file(strings.Repeat("m", 13), 15), file(strings.Repeat("m", 26), 16),
		file("a/b/c/d/e/f/g/deep", 17),
	}
	for i := range 1200 {
		files = append(files, file(fmt.Sprintf("many/long file name %04d.config", i), i%3*512))
	}
	return files
}

func build(t *testing.T, files []File, o Options) *disk.Sparse {
	t.Helper()
	image, err := Build(files, o)
	if err != nil {
		t.Fatal(err)
	}
	return image
}

var variants = []struct {
	name  string
	files func() []File
	size  int64
}{
	{"boot", bootFiles, 0},
	{"many", manyFiles, 0},
	{"empty", func() []File { return nil }, 0},
	{"sized", bootFiles, 100 << 20},
	{"odd size", bootFiles, 100<<20 + 512},
	{"4 KiB clusters", manyFiles, 600 << 20},
	{"16 GiB", bootFiles, 16 << 30},
}

func TestForeignReaders(t *testing.T) {
	for _, v := range variants {
		t.Run(v.name, func(t *testing.T) {
			o := options()
			o.Size = v.size
			files := v.files()
			image := build(t, files, o)
			if v.size != 0 && image.Size() != v.size {
				t.Errorf("size %d; want %d", image.Size(), v.size)
			}
			raw := judge.Raw(t, image)
			fsck(t, raw)
			mtools(t, raw, files)
			grub(t, raw, files)
		})
	}
}

// fsck has the checker of dosfstools agree with every figure.
func fsck(t *testing.T, raw string) {
	t.Helper()
	out := judge.Run(t, "dosfstools", "fsck.vfat", "-n", "-v", raw)
	for _, bad := range []string{"differ", "wrong", "Wrong", "Reclaim", "Uninitialized", "not ", "Inconsistent", "dirty"} {
		if strings.Contains(out, bad) {
			t.Errorf("fsck.vfat says %q:\n%s", bad, out)
		}
	}
	m := regexp.MustCompile(`(\d+) files, (\d+)/(\d+) clusters`).FindStringSubmatch(out)
	if m == nil || !strings.Contains(out, "FATs, 32 bit entries") {
		t.Fatalf("fsck.vfat does not see FAT32:\n%s", out)
	}
	// The free count is checked by fsck only when it is set, so check that it is.
	f, err := os.Open(raw)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info := make([]byte, sectorSize)
	if _, err := f.ReadAt(info, sectorSize); err != nil {
		t.Fatal(err)
	}
	var used, clusters uint32
	fmt.Sscan(m[2], &used)
	fmt.Sscan(m[3], &clusters)
	if got := binary.LittleEndian.Uint32(info[488:]); got != clusters-used {
		t.Errorf("free clusters in FSInfo = %d; want %d", got, clusters-used)
	}
	if got := binary.LittleEndian.Uint32(info[492:]); got != used+2 {
		t.Errorf("next free cluster in FSInfo = %d; want %d", got, used+2)
	}
	if clusters < minClusters {
		t.Errorf("%d clusters; want at least %d", clusters, minClusters)
	}
}

// mtools copies everything out and compares.
func mtools(t *testing.T, raw string, files []File) {
	t.Helper()
	if out := judge.Run(t, "mtools", "mdir", "-i", raw, "::"); !strings.Contains(out, "Volume in drive : is RMPBOOT") ||
		!strings.Contains(out, "Serial Number is 1234-ABCD") {
		t.Errorf("mdir:\n%s", out)
	}
	if len(files) == 0 {
		return
	}
	dir := t.TempDir()
	judge.Run(t, "mtools", "mcopy", "-s", "-n", "-m", "-i", raw, "::*", dir)
	seen := 0
	for _, f := range files {
		if strings.Contains(f.Path, "😀") {
			continue // mtools knows no UTF-16 surrogates; GRUB does, below
		}
		path := filepath.Join(dir, f.Path)
		info, err := os.Stat(path)
		if err != nil {
			t.Error(err)
			continue
		}
		if f.Dir {
			if !info.IsDir() {
				t.Errorf("%s is no directory", f.Path)
			}
			continue
		}
		seen++
		got, err := os.ReadFile(path)
		if err != nil {
			t.Error(err)
			continue
		}
		if !bytes.Equal(got, content(t, f)) {
			t.Errorf("%s: content differs", f.Path)
		}
		if f.Size > 0 && info.ModTime().UTC().Format("2006-01-02 15:04:05") != "1980-01-01 00:00:00" {
			t.Errorf("%s: time %v; want 1980-01-01", f.Path, info.ModTime())
		}
	}
	if seen == 0 {
		t.Error("compared nothing")
	}
}

// grub reads the larger and the awkward files with the FAT module of GRUB itself.
func grub(t *testing.T, raw string, files []File) {
	t.Helper()
	read := 0
	for _, f := range files {
		if f.Dir || f.Size == 0 || read >= 40 {
			continue
		}
		read++
		got := judge.Stdout(t, "grub-common", "grub-fstest", raw, "cat", "(loop0)/"+f.Path)
		if !bytes.Equal(got, content(t, f)) {
			t.Errorf("grub reads %s as %d other bytes", f.Path, len(got))
		}
	}
}

func content(t *testing.T, f File) []byte {
	t.Helper()
	b := make([]byte, f.Size)
	if f.Size > 0 {
		if _, err := f.Content.ReadAt(b, 0); err != nil && err != io.EOF {
			t.Fatal(err)
		}
	}
	return b
}

func TestFileKnowsIt(t *testing.T) {
	raw := judge.Raw(t, build(t, bootFiles(), options()))
	out := judge.Run(t, "file", "file", "-b", raw)
	for _, want := range []string{"DOS/MBR boot sector", `label: "RMPBOOT    "`, "hidden sectors 4096", "FAT (32 bit)",
		"serial number 0x1234abcd"} {
		if !strings.Contains(out, want) {
			t.Errorf("file says %q; want %q in it", out, want)
		}
	}
}

// digest is of the bytes of an image.
func digest(t *testing.T, image *disk.Sparse) [32]byte {
	t.Helper()
	sum, err := disk.Digest(t.Context(), image, 0, image.Size())
	if err != nil {
		t.Fatal(err)
	}
	return sum
}

func TestDeterministic(t *testing.T) {
	files := manyFiles()
	want := digest(t, build(t, files, options()))
	slices.Reverse(files)
	if got := digest(t, build(t, files, options())); got != want {
		t.Error("the order in which files are given changes the image")
	}
	o := options()
	o.Serial++
	if got := digest(t, build(t, files, o)); got == want {
		t.Error("the serial number is not in the image")
	}
}

func TestSizeTellsWhatBuildMakes(t *testing.T) {
	for _, v := range variants {
		o := options()
		o.Size = v.size
		size, err := Size(v.files(), o)
		if err != nil {
			t.Fatal(err)
		}
		if image := build(t, v.files(), o); image.Size() != size {
			t.Errorf("%s: Size = %d; Build makes %d", v.name, size, image.Size())
		}
	}
}

func TestSmallestIsSmallest(t *testing.T) {
	size, err := Size(bootFiles(), options())
	if err != nil {
		t.Fatal(err)
	}
	// 65541 clusters of 512 bytes, two FATs of 513 sectors, 32 reserved sectors, in whole pages.
	if want := int64(66600 * 512); size != want {
		t.Errorf("smallest volume = %d; want %d", size, want)
	}
	o := options()
	o.Size = size - 4096
	if _, err := Build(bootFiles(), o); err == nil || !strings.Contains(err.Error(), fmt.Sprint(size)) {
		t.Errorf("a volume one page smaller: %v; want an error that says %d", err, size)
	}
}

// TestContiguousAndFull fills volumes around the place where the FAT grows by a sector, to the last cluster.
func TestContiguousAndFull(t *testing.T) {
	for _, size := range []int{minClusters*512 - 512, 70000*512 + 1, 90112 * 512, 90112*512 + 65536} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			files := []File{{Path: "fill", Size: int64(size), Content: bytes.NewReader(make([]byte, size))}}
			image := build(t, files, options())
			if waste := image.Size() - int64(size); waste > 2<<20 {
				t.Errorf("%d bytes beyond the content; want less than 2 MiB", waste)
			}
			judge.Run(t, "dosfstools", "fsck.vfat", "-n", judge.Raw(t, image))
		})
	}
}

func TestRefusals(t *testing.T) {
	one := func(path string) []File { return []File{file(path, 1)} }
	for _, c := range []struct {
		name  string
		files []File
		o     Options
		want  string
	}{
		{"no label", nil, Options{}, "label"},
		{"lower-case label", nil, Options{Label: "boot"}, "not allowed"},
		{"long label", nil, Options{Label: "ABCDEFGHIJKL"}, "label"},
		{"size of half a sector", nil, Options{Label: "A", Size: 64<<20 + 256}, "multiple of 512"},
		{"negative size", nil, Options{Label: "A", Size: -512}, "multiple of 512"},
		{"size below FAT32", nil, Options{Label: "A", Size: 20 << 20}, "too small"},
		{"size beyond FAT32", nil, Options{Label: "A", Size: 4 << 40}, "2 TiB"},
		{"absolute path", one("/a"), options(), "clean relative path"},
		{"path with dots", one("a/../b"), options(), "clean relative path"},
		{"empty path", one(""), options(), "clean relative path"},
		{"same file twice", append(one("a"), one("a")...), options(), "upper from lower"},
		{"same but for case", append(one("boot/a"), one("boot/A")...), options(), "upper from lower"},
		{"directory but for case", append(one("boot/a"), one("BOOT/b")...), options(), "upper from lower"},
		{"below a file", append(one("a"), one("a/b")...), options(), "meets"},
		{"colon", one("a:b"), options(), "does not allow"},
		{"control character", one("a\x01"), options(), "does not allow"},
		{"final dot", one("a."), options(), "dot"},
		{"not UTF-8", one("a\xff"), options(), "clean relative path"},
		{"name too long", one(strings.Repeat("x", 256)), options(), "longer than 255"},
		{"file of 4 GiB", []File{{Path: "a", Size: 1 << 32, Content: bytes.NewReader(nil)}}, options(), "4294967295"},
		{"no content", []File{{Path: "a", Size: 1}}, options(), "content"},
	} {
		_, err := Build(c.files, c.o)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v; want an error with %q", c.name, err, c.want)
		}
	}
}

func TestShortContentIsAnError(t *testing.T) {
	image := build(t, []File{{Path: "a", Size: 100, Content: bytes.NewReader(make([]byte, 99))}}, options())
	if _, err := disk.Digest(t.Context(), image, 0, image.Size()); err == nil {
		t.Error("a file shorter than it said was read without an error")
	}
}
