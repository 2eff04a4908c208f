package qcow2

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"rempart/builder/disk"
	"rempart/builder/disk/internal/judge"
)

// random is n bytes that do not compress, words n that do.
func random(n int, seed string) []byte {
	b := make([]byte, n)
	rand.NewChaCha8(sha256.Sum256([]byte(seed))).Read(b)
	return b
}

func words(n int) []byte {
	r := rand.New(rand.NewPCG(1, 2))
	var b bytes.Buffer
	for b.Len() < n {
		fmt.Fprintf(&b, "rule %d accept from zone-%d\n", r.IntN(1000), r.IntN(20))
	}
	return b.Bytes()[:n]
}

// put lays b at an offset.
func put(t testing.TB, s *disk.Sparse, at int64, b []byte) {
	t.Helper()
	if err := s.Put(at, bytes.NewReader(b), int64(len(b))); err != nil {
		t.Fatal(err)
	}
}

// sample has everything: clusters that compress and do not, zeros inside and outside extents, extents that share a
// cluster, and an end inside a cluster.
func sample(t testing.TB) *disk.Sparse {
	s := disk.NewSparse(9<<20 + 3*512)
	put(t, s, 0, words(100))
	put(t, s, 100, random(412, "a"))
	put(t, s, 70000, words(300000))
	put(t, s, 1<<20, random(1<<20+5000, "b"))
	put(t, s, 3<<20, make([]byte, 1<<20))
	put(t, s, 5<<20+12345, append(words(200000), random(200000, "c")...))
	put(t, s, 9<<20, words(3*512))
	return s
}

// save writes an image to a new file and returns its path.
func save(t testing.TB, s *disk.Sparse, o Options) string {
	t.Helper()
	return saveAs(t, filepath.Join(t.TempDir(), "image.qcow2"), s, o)
}

func saveAs(t testing.TB, path string, s *disk.Sparse, o Options) string {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := Write(t.Context(), f, s, o); err != nil {
		t.Fatal(err)
	}
	return path
}

// check has qemu-img find no error and no leak.
func check(t testing.TB, path string) {
	t.Helper()
	out := judge.Run(t, "qemu-utils", "qemu-img", "check", path)
	if !strings.HasPrefix(out, "No errors were found on the image.\n") {
		t.Errorf("qemu-img check:\n%s", out)
	}
}

func compare(t testing.TB, raw, qcow string) {
	t.Helper()
	out := judge.Run(t, "qemu-utils", "qemu-img", "compare", "-f", "raw", "-F", "qcow2", raw, qcow)
	if out != "Images are identical.\n" { // no warning about sizes either
		t.Errorf("qemu-img compare:\n%s", out)
	}
}

type info struct {
	VirtualSize   int64  `json:"virtual-size"`
	ClusterSize   int    `json:"cluster-size"`
	BackingFile   string `json:"backing-filename"`
	BackingFormat string `json:"backing-filename-format"`
	Specific      struct {
		Data struct {
			Compat          string
			CompressionType string `json:"compression-type"`
			RefcountBits    int    `json:"refcount-bits"`
			Corrupt         bool
		}
	} `json:"format-specific"`
}

func infoOf(t testing.TB, path string) info {
	t.Helper()
	var i info
	if err := json.Unmarshal(judge.Stdout(t, "qemu-utils", "qemu-img", "info", "--output=json", path), &i); err != nil {
		t.Fatal(err)
	}
	return i
}

func TestWriteForQEMU(t *testing.T) {
	samples := map[string]*disk.Sparse{
		"sample":  sample(t),
		"nothing": disk.NewSparse(0),
		"zeros":   disk.NewSparse(1 << 30),
		"sector":  disk.NewSparse(512),
		"full":    disk.NewSparse(1 << 20),
		"far":     disk.NewSparse(3 << 40),
	}
	put(t, samples["full"], 0, random(1<<20, "full"))
	put(t, samples["sector"], 0, words(512))
	put(t, samples["far"], 3<<40-1000, words(1000))
	put(t, samples["far"], 1<<40, random(70000, "far"))
	for name, s := range samples {
		for _, c := range []Compression{Deflate, Zstd} {
			t.Run(name+" "+c.String(), func(t *testing.T) {
				path := save(t, s, Options{Compression: c})
				check(t, path)
				compare(t, judge.Raw(t, s), path)
				got := infoOf(t, path)
				if got.VirtualSize != s.Size() || got.ClusterSize != clusterSize || got.Specific.Data.Compat != "1.1" ||
					got.Specific.Data.CompressionType != c.String() || got.Specific.Data.RefcountBits != 16 ||
					got.Specific.Data.Corrupt {
					t.Errorf("qemu-img info: %+v", got)
				}
			})
		}
	}
}

// TestManyReferenceCounts needs more than one block of reference counts, which each cover 2 GiB of file. The clusters
// that fill the space are allocated and never written, so qemu-img must find exactly those to be leaks, and no error.
func TestManyReferenceCounts(t *testing.T) {
	for _, leaked := range []int64{2*blockEntries - 6, 2*blockEntries - 5, 2*blockEntries - 4, 3 * blockEntries} {
		f, err := os.Create(filepath.Join(t.TempDir(), "image"))
		if err != nil {
			t.Fatal(err)
		}
		w := &writer{f: f, content: disk.NewSparse(1 << 20), size: 1 << 20, l2: map[int64][]uint64{}}
		w.allocate(1)
		w.allocate(leaked)
		if err := w.tables(); err != nil {
			t.Fatal(err)
		}
		f.Close()
		out, err := exec.CommandContext(t.Context(), "qemu-img", "check", f.Name()).CombinedOutput()
		const leaksOnly = 3 // exit status of qemu-img check
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != leaksOnly || bytes.Contains(out, []byte("ERROR")) ||
			!bytes.Contains(out, fmt.Appendf(nil, "\n%d leaked clusters were found", leaked)) {
			t.Errorf("qemu-img check: %v\n%s\nwant %d leaked clusters and no error", err, out[max(0, len(out)-500):], leaked)
		}
	}
}

func TestSizeOfFile(t *testing.T) {
	s := disk.NewSparse(64 << 20)
	for i := range int64(512) {
		put(t, s, i*(128<<10), words(clusterSize))
	}
	packed := 0
	for r := range compress(t.Context(), s, Deflate) {
		packed += len(r.data)
	}
	st, err := os.Stat(save(t, s, Options{}))
	if err != nil {
		t.Fatal(err)
	}
	// Header, L2, L1, two of reference counts; the compressed clusters to the byte, rounded up to a cluster once.
	if want := int64(5*clusterSize + (packed+clusterSize-1)/clusterSize*clusterSize); st.Size() != want {
		t.Errorf("file of %d bytes; want %d for %d bytes of compressed clusters", st.Size(), want, packed)
	}
}

func TestWriteIsDeterministic(t *testing.T) {
	for _, c := range []Compression{Deflate, Zstd} {
		var first []byte
		for i := range 5 {
			b, err := os.ReadFile(save(t, sample(t), Options{Compression: c}))
			if err != nil {
				t.Fatal(err)
			}
			if i == 0 {
				first = b
			} else if !bytes.Equal(b, first) {
				t.Fatalf("%v: run %d gives other bytes", c, i+1)
			}
		}
	}
}

func TestWriteOverwrites(t *testing.T) {
	path := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(path, random(20<<20, "old"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := Write(t.Context(), f, sample(t), Options{}); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(save(t, sample(t), Options{}))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("what the file held before shows in the image")
	}
}

func TestWriteOverBacking(t *testing.T) {
	dir := t.TempDir()
	base := disk.NewSparse(12 << 20)
	put(t, base, 0, random(12<<20, "base"))
	saveAs(t, filepath.Join(dir, "base.qcow2"), base, Options{})

	over := saveAs(t, filepath.Join(dir, "over.qcow2"), sample(t), Options{Size: 12 << 20,
		Backing: &Backing{Name: "base.qcow2", Format: "qcow2"}})
	check(t, over)
	want := disk.NewSparse(12 << 20)
	if err := want.PutSparse(0, sample(t)); err != nil {
		t.Fatal(err)
	}
	compare(t, judge.Raw(t, want), over)
	if got := infoOf(t, over); got.BackingFile != "base.qcow2" || got.BackingFormat != "qcow2" ||
		got.VirtualSize != 12<<20 {
		t.Errorf("qemu-img info: %+v", got)
	}

	// An overlay with nothing in it shows what is below; a cluster of zeros laid on it hides it.
	holes := disk.NewSparse(12 << 20)
	put(t, holes, 1<<20, make([]byte, clusterSize))
	overlay := saveAs(t, filepath.Join(dir, "overlay.qcow2"), holes, Options{HolesShowBacking: true,
		Backing: &Backing{Name: "base.qcow2", Format: "qcow2"}})
	check(t, overlay)
	want = disk.NewSparse(12 << 20)
	b := random(12<<20, "base")
	clear(b[1<<20 : 1<<20+clusterSize])
	put(t, want, 0, b)
	compare(t, judge.Raw(t, want), overlay)
	got := readAll(t, openFile(t, overlay, openDir(dir)))
	if !bytes.Equal(got, b) {
		t.Error("our reader sees another overlay than QEMU")
	}
}

func TestWriteRefusals(t *testing.T) {
	for _, c := range []struct {
		name string
		size int64
		o    Options
		want string
	}{
		{"half a sector", 1000, Options{}, "multiple of 512"},
		{"smaller than the content", 1024, Options{Size: 512}, "multiple of 512"},
		{"larger than QEMU takes", 1024, Options{Size: maxSize + 512}, "multiple of 512"},
		{"unknown compression", 1024, Options{Compression: 2}, "unsupported"},
		{"backing without name", 1024, Options{Backing: &Backing{Format: "raw"}}, "want a name"},
		{"backing without format", 1024, Options{Backing: &Backing{Name: "a"}}, "raw or qcow2"},
		{"long backing name", 1024, Options{Backing: &Backing{strings.Repeat("x", 1024), "raw"}}, "want a name"},
		{"holes without backing", 1024, Options{HolesShowBacking: true}, "none"},
	} {
		f, err := os.Create(filepath.Join(t.TempDir(), "image"))
		if err != nil {
			t.Fatal(err)
		}
		if err := Write(t.Context(), f, disk.NewSparse(c.size), c.o); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v; want an error with %q", c.name, err, c.want)
		}
		f.Close()
	}
}

func TestWriteErrors(t *testing.T) {
	short := disk.NewSparse(1 << 20)
	if err := short.Put(0, bytes.NewReader(make([]byte, 1000)), 1<<20); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(t.TempDir(), "image"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := Write(t.Context(), f, short, Options{}); err == nil || !strings.Contains(err.Error(), "unexpected EOF") {
		t.Errorf("content that ends early: %v", err)
	}
	noImage(t, f)

	full, err := os.Create(filepath.Join(judge.TinyDisk(t), "image"))
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	s := disk.NewSparse(8 << 20)
	put(t, s, 0, random(4<<20, "large"))
	if err := Write(t.Context(), full, s, Options{}); !errors.Is(err, syscall.ENOSPC) ||
		!strings.Contains(err.Error(), full.Name()) || !strings.Contains(err.Error(), "4194304") {
		t.Errorf("Write = %v; want ENOSPC that names the file and 4194304 bytes", err)
	}
	noImage(t, full)

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Write(ctx, f, sample(t), Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("Write cancelled = %v; want %v", err, context.Canceled)
	}
	noImage(t, f)
}

// noImage checks that what a failed Write left is not taken for an image.
func noImage(t *testing.T, f *os.File) {
	t.Helper()
	if is, err := IsImage(f); is || err != nil {
		t.Errorf("IsImage of what a failed write left = %v, %v", is, err)
	}
}
