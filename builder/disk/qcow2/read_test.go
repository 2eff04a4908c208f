package qcow2

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"rempart/builder/disk"
	"rempart/builder/disk/internal/judge"
)

func openFile(t testing.TB, path string, o OpenOptions) *Image {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	i, err := Open(f, st.Size(), o)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// openDir opens backing files by their last name in one folder.
func openDir(dir string) OpenOptions {
	return OpenOptions{Backing: func(name, format string) (BackingFile, error) {
		f, err := os.Open(filepath.Join(dir, filepath.Base(name)))
		if err != nil {
			return BackingFile{}, err
		}
		st, err := f.Stat()
		if err != nil {
			return BackingFile{}, err
		}
		return BackingFile{ReaderAt: f, Size: st.Size(), Format: format}, nil
	}}
}

func readAll(t testing.TB, i *Image) []byte {
	t.Helper()
	b, err := io.ReadAll(io.NewSectionReader(i, 0, i.Size()))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// same compares an image with what it should hold: whole, in pieces, in parallel, and by its extents.
func same(t *testing.T, i *Image, want []byte) {
	t.Helper()
	if i.Size() != int64(len(want)) {
		t.Fatalf("size %d; want %d", i.Size(), len(want))
	}
	if !bytes.Equal(readAll(t, i), want) {
		t.Fatal("content differs")
	}
	var group sync.WaitGroup
	for g := range uint64(4) {
		group.Go(func() {
			r := rand.New(rand.NewPCG(g, 0))
			for range 100 {
				at := r.IntN(len(want))
				b := make([]byte, r.IntN(100000))
				n, err := i.ReadAt(b, int64(at))
				if end := min(at+len(b), len(want)); n != end-at || !bytes.Equal(b[:n], want[at:end]) ||
					(err != nil) != (n < len(b)) || err != nil && err != io.EOF {
					t.Errorf("ReadAt(%d bytes, %d) = %d, %v, or other bytes", len(b), at, n, err)
					return
				}
			}
		})
	}
	group.Wait()
	s, err := i.Sparse(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, s.Size())
	if _, err := s.ReadAt(b, 0); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b, want) {
		t.Error("the sparse image differs")
	}
}

func bytesOf(t testing.TB, s *disk.Sparse) []byte {
	t.Helper()
	b := make([]byte, s.Size())
	if _, err := s.ReadAt(b, 0); err != nil {
		t.Fatal(err)
	}
	return b
}

func TestReadsItself(t *testing.T) {
	for _, c := range []Compression{Deflate, Zstd} {
		same(t, openFile(t, save(t, sample(t), Options{Compression: c}), OpenOptions{}), bytesOf(t, sample(t)))
	}
}

func TestReadsQEMU(t *testing.T) {
	raw := judge.Raw(t, sample(t))
	want := bytesOf(t, sample(t))
	run := func(name string, args ...string) {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "image.qcow2")
			args := append(append([]string{"convert", "-f", "raw", "-O", "qcow2"}, args...), raw, path)
			judge.Run(t, "qemu-utils", "qemu-img", args...)
			same(t, openFile(t, path, OpenOptions{}), want)
		})
	}
	for _, size := range []string{"512", "4k", "64k", "2M"} {
		for _, compression := range []string{"", "zlib", "zstd"} {
			args := []string{"-o", "cluster_size=" + size}
			if compression != "" {
				args = []string{"-c", "-o", "cluster_size=" + size + ",compression_type=" + compression}
			}
			run(size+" "+compression, args...)
		}
		run(size+" version 2", "-o", "compat=0.10,cluster_size="+size)
		run(size+" version 2 compressed", "-c", "-o", "compat=0.10,cluster_size="+size)
		run(size+" explicit zeros", "-S", "0", "-o", "cluster_size="+size)
	}
	for _, preallocation := range []string{"metadata", "falloc", "full"} {
		run("preallocation "+preallocation, "-o", "preallocation="+preallocation)
	}
	run("refcounts of 64 bits", "-o", "refcount_bits=64")
	run("lazy refcounts", "-o", "lazy_refcounts=on")
	run("in parallel out of order", "-W", "-m", "8", "-c")
}

func TestReadsChains(t *testing.T) {
	for _, size := range []string{"512", "64k"} {
		t.Run(size, func(t *testing.T) {
			dir := t.TempDir()
			path := func(name string) string { return filepath.Join(dir, name) }
			content := random(3<<20, "base")
			if err := os.WriteFile(path("base.raw"), content, 0o600); err != nil {
				t.Fatal(err)
			}
			// Each image is larger than the one below; writes and zeros go to the middle one and the top.
			for _, c := range [][]string{
				{"qemu-img", "create", "-f", "qcow2", "-b", "base.raw", "-F", "raw", "-o", "cluster_size=" + size,
					path("mid.qcow2"), "4M"},
				{"qemu-io", "-c", "write -P 0x11 1M 100k", "-c", "write -z 2M 128k", path("mid.qcow2")},
				{"qemu-img", "create", "-f", "qcow2", "-b", "mid.qcow2", "-F", "qcow2", path("top.qcow2"), "5M"},
				{"qemu-io", "-c", "write -P 0x22 1100k 64k", "-c", "write -z 0 64k", "-c", "write -P 0x33 4608k 512",
					path("top.qcow2")},
			} {
				judge.Run(t, "qemu-utils", c[0], c[1:]...)
			}
			judge.Run(t, "qemu-utils", "qemu-img", "convert", "-O", "raw", path("top.qcow2"), path("top.raw"))
			want, err := os.ReadFile(path("top.raw"))
			if err != nil {
				t.Fatal(err)
			}
			same(t, openFile(t, path("top.qcow2"), openDir(dir)), want)
		})
	}
}

func TestBackingIsNeverOpenedUnasked(t *testing.T) {
	path := save(t, disk.NewSparse(1<<20), Options{Backing: &Backing{Name: "/etc/shadow", Format: "raw"}})
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(bytes.NewReader(b), int64(len(b)), OpenOptions{}); !errors.Is(err, ErrBacking) ||
		!strings.Contains(err.Error(), "/etc/shadow") {
		t.Errorf("Open = %v; want %v that names the file", err, ErrBacking)
	}
	refused := errors.New("not in the store")
	_, err = Open(bytes.NewReader(b), int64(len(b)), OpenOptions{Backing: func(name, format string) (BackingFile, error) {
		if name != "/etc/shadow" || format != "raw" {
			t.Errorf("asked for %q of format %q", name, format)
		}
		return BackingFile{}, refused
	}})
	if !errors.Is(err, ErrBacking) || !errors.Is(err, refused) {
		t.Errorf("Open = %v; want %v and what the opener said", err, ErrBacking)
	}
	// A format nobody vouches for is not guessed.
	_, err = Open(bytes.NewReader(b), int64(len(b)), OpenOptions{Backing: func(name, format string) (BackingFile, error) {
		return BackingFile{ReaderAt: bytes.NewReader(nil)}, nil
	}})
	if !errors.Is(err, ErrUnsupported) {
		t.Errorf("Open = %v; want %v", err, ErrUnsupported)
	}
}

func TestEndlessChain(t *testing.T) {
	path := save(t, disk.NewSparse(1<<20), Options{Backing: &Backing{Name: "myself", Format: "qcow2"}})
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	opened := 0
	_, err = Open(bytes.NewReader(b), int64(len(b)), OpenOptions{Backing: func(name, format string) (BackingFile, error) {
		opened++
		return BackingFile{bytes.NewReader(b), int64(len(b)), format}, nil
	}})
	if !errors.Is(err, ErrUnsupported) || opened != maxDepth-1 {
		t.Errorf("Open = %v after %d backing files; want %v after %d", err, opened, ErrUnsupported, maxDepth-1)
	}
}

func TestForeignFeatures(t *testing.T) {
	for _, c := range []struct {
		name string
		args []string
		want string
	}{
		{"extended L2", []string{"-o", "extended_l2=on"}, "extended L2"},
		{"data file", []string{"-o", "data_file=" + filepath.Join(t.TempDir(), "data")}, "external data file"},
		// Not LUKS, for which qemu-img measures the processor, and gives up where it is shared.
		{"encryption", []string{"--object", "secret,id=s,data=x", "-o", "encrypt.format=aes,encrypt.key-secret=s"},
			"encryption method 1"},
	} {
		path := filepath.Join(t.TempDir(), "image.qcow2")
		judge.Run(t, "qemu-utils", "qemu-img", append(append([]string{"create", "-f", "qcow2"}, c.args...), path, "1M")...)
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Open(bytes.NewReader(b), int64(len(b)), OpenOptions{}); !errors.Is(err, ErrUnsupported) ||
			!strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v; want %v with %q", c.name, err, ErrUnsupported, c.want)
		}
	}
}

// TestSnapshotsAreIgnored reads the active state of an image that has one.
func TestSnapshotsAreIgnored(t *testing.T) {
	path := save(t, sample(t), Options{})
	judge.Run(t, "qemu-utils", "qemu-img", "snapshot", "-c", "before", path)
	judge.Run(t, "qemu-utils", "qemu-io", "-c", "write -P 0x44 0 200k", path)
	want := bytesOf(t, sample(t))
	copy(want, bytes.Repeat([]byte{0x44}, 200<<10))
	same(t, openFile(t, path, OpenOptions{}), want)
}

func TestDamage(t *testing.T) {
	good, err := os.ReadFile(save(t, sample(t), Options{}))
	if err != nil {
		t.Fatal(err)
	}
	l1 := int64(binary.BigEndian.Uint64(good[hdrL1Offset:]))
	l2 := int64(binary.BigEndian.Uint64(good[l1:]) & offsetMask)
	u32 := func(at int64, v uint32) func([]byte) { return func(b []byte) { binary.BigEndian.PutUint32(b[at:], v) } }
	u64 := func(at int64, v uint64) func([]byte) { return func(b []byte) { binary.BigEndian.PutUint64(b[at:], v) } }
	for _, c := range []struct {
		name   string
		damage func([]byte)
		want   error
	}{
		{"magic", u32(0, 0), ErrFormat},
		{"version 1", u32(hdrVersion, 1), ErrUnsupported},
		{"version 4", u32(hdrVersion, 4), ErrUnsupported},
		{"unknown feature", u64(hdrIncompatible, 1<<63), ErrUnsupported},
		{"marked corrupt", u64(hdrIncompatible, incompatCorrupt), ErrCorrupt},
		{"unknown compression", func(b []byte) {
			u64(hdrIncompatible, incompatCompression)(b)
			u32(hdrHeaderLength, hdrWithCompressionLen)(b)
			b[hdrCompressionType] = 9
		}, ErrUnsupported},
		{"compression without type", u64(hdrIncompatible, incompatCompression), ErrCorrupt},
		{"encrypted", u32(hdrCryptMethod, 1), ErrUnsupported},
		{"clusters of 256 bytes", u32(hdrClusterBits, 8), ErrCorrupt},
		{"clusters of 4 MiB", u32(hdrClusterBits, 22), ErrCorrupt},
		{"clusters of 2^4294967295 bytes", u32(hdrClusterBits, 0xFFFFFFFF), ErrCorrupt},
		{"negative size", u64(hdrSize, 1<<63), ErrCorrupt},
		{"size the L1 does not cover", u64(hdrSize, 1<<40), ErrCorrupt},
		{"L1 of 4 billion", u32(hdrL1Size, 0xFFFFFFFF), ErrUnsupported},
		{"L1 beyond the file", u64(hdrL1Offset, uint64(len(good)+clusterSize)), ErrCorrupt},
		{"L1 not aligned", u64(hdrL1Offset, 512), ErrCorrupt},
		{"L1 nowhere", u64(hdrL1Offset, 0), ErrCorrupt},
		{"header length", u32(hdrHeaderLength, 1<<31), ErrCorrupt},
		{"header length odd", u32(hdrHeaderLength, 105), ErrCorrupt},
		{"extension beyond the cluster", func(b []byte) { u32(hdrV3Length, 7)(b); u32(hdrV3Length+4, 1<<30)(b) }, ErrCorrupt},
		{"backing name beyond the cluster", func(b []byte) {
			u64(hdrBackingOffset, 65000)(b)
			u32(hdrBackingSize, 1000)(b)
		}, ErrCorrupt},
		{"backing name long", func(b []byte) { u64(hdrBackingOffset, 200)(b); u32(hdrBackingSize, 5000)(b) }, ErrCorrupt},
		{"L2 beyond the file", u64(l1, 1<<40), ErrCorrupt},
		{"L2 not aligned", u64(l1, uint64(l2)+512), ErrCorrupt},
		{"L1 reserved bits", u64(l1, uint64(l2)|1), ErrCorrupt},
		{"cluster beyond the file", u64(l2, 1<<40), ErrCorrupt},
		{"cluster not aligned", u64(l2, clusterSize+512), ErrCorrupt},
		{"cluster with reserved bits", u64(l2, clusterSize|2), ErrCorrupt},
		{"compressed beyond the file", u64(l2, flagCompressed|1<<40), ErrCorrupt},
		{"compressed in the header", u64(l2, flagCompressed|100), ErrCorrupt},
		{"compressed in place", u64(l2, flagCompressed|flagCopied|clusterSize), ErrCorrupt},
		{"compressed data", func(b []byte) { clear(b[clusterSize:][:64]) }, ErrCorrupt},
	} {
		b := bytes.Clone(good)
		c.damage(b)
		i, err := Open(bytes.NewReader(b), int64(len(b)), OpenOptions{})
		if err == nil {
			_, err = io.Copy(io.Discard, io.NewSectionReader(i, 0, i.Size()))
		}
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v; want %v", c.name, err, c.want)
		}
	}
	for _, n := range []int{0, 3, 71, 103, 200, clusterSize, len(good) / 2, len(good) - 3*clusterSize} {
		i, err := Open(bytes.NewReader(good[:n]), int64(n), OpenOptions{})
		if err == nil {
			_, err = io.Copy(io.Discard, io.NewSectionReader(i, 0, i.Size()))
		}
		if !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrFormat) {
			t.Errorf("cut off after %d bytes: %v; want %v", n, err, ErrCorrupt)
		}
	}
}

func TestTwoL1EntriesNameOneTable(t *testing.T) {
	s := disk.NewSparse(1 << 30)
	put(t, s, 0, words(100))
	put(t, s, 600<<20, words(100))
	b, err := os.ReadFile(save(t, s, Options{}))
	if err != nil {
		t.Fatal(err)
	}
	l1 := binary.BigEndian.Uint64(b[hdrL1Offset:])
	copy(b[l1+8:l1+16], b[l1:l1+8])
	if _, err := Open(bytes.NewReader(b), int64(len(b)), OpenOptions{}); !errors.Is(err, ErrCorrupt) {
		t.Errorf("Open = %v; want %v", err, ErrCorrupt)
	}
}

func TestSparseLeavesHolesOut(t *testing.T) {
	i := openFile(t, save(t, sample(t), Options{}), OpenOptions{})
	s, err := i.Sparse(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range s.Extents() {
		got = append(got, fmt.Sprintf("%d+%d", e.Offset/clusterSize, (e.Length+clusterSize-1)/clusterSize))
	}
	// Of sample in clusters: 0; 1 to 5; 16 to 32; (48 to 63 are zeros); 80 to 86; 144.
	if want := "0+6 16+17 80+7 144+1"; strings.Join(got, " ") != want {
		t.Errorf("extents %v; want %s", got, want)
	}
}

func TestIsImage(t *testing.T) {
	for content, want := range map[string]bool{
		"": false, "QF": false, "QFI\xfb": true, "QFI\xfb\x00\x00": true, "\x00\x00\x00\x00": false,
	} {
		if got, err := IsImage(strings.NewReader(content)); got != want || err != nil {
			t.Errorf("IsImage(%q) = %v, %v; want %v", content, got, err, want)
		}
	}
}
