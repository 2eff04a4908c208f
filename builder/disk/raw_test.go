package disk_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"rempart/builder/disk"
	"rempart/builder/disk/internal/judge"
)

func put(t testing.TB, s *disk.Sparse, at int64, b []byte) {
	t.Helper()
	if err := s.Put(at, bytes.NewReader(b), int64(len(b))); err != nil {
		t.Fatal(err)
	}
}

// holey is an image with data at awkward places, and zeros inside its extents.
func holey(t testing.TB) (*disk.Sparse, []byte) {
	s := disk.NewSparse(32<<20 + 1000)
	want := make([]byte, s.Size())
	for at, b := range map[int64][]byte{
		0:                 random(100, "start"),
		5000:              random(10000, "awkward"),
		1<<20 - 7:         random(14, "across"),
		2 << 20:           make([]byte, 8<<20),
		12<<20 + 1:        append(make([]byte, 1<<20), append(random(1, "one"), make([]byte, 1<<20)...)...),
		32<<20 + 1000 - 3: random(3, "end"),
	} {
		put(t, s, at, b)
		copy(want[at:], b)
	}
	return s, want
}

func TestWriteRaw(t *testing.T) {
	s, want := holey(t)
	path := filepath.Join(t.TempDir(), "raw")
	// What the file held before must not shine through the holes, nor reach beyond the end.
	if err := os.WriteFile(path, random(40<<20, "old"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := disk.WriteRaw(t.Context(), f, s); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Fatal("the file does not hold the image")
	}
	var st syscall.Stat_t
	if err := syscall.Fstat(int(f.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	// Eight blocks of 4 KiB hold all that is not zero; stat counts 512 bytes.
	if st.Blocks*512 > 64<<10 {
		t.Errorf("%d bytes of disk for some 40 KiB of data", st.Blocks*512)
	}
}

func TestFullDisk(t *testing.T) {
	f, err := os.Create(filepath.Join(judge.TinyDisk(t), "raw"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	s := disk.NewSparse(8 << 20)
	put(t, s, 1<<20, random(4<<20, "large"))
	err = disk.WriteRaw(t.Context(), f, s)
	if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), f.Name()) ||
		!strings.Contains(err.Error(), "4194304") {
		t.Errorf("WriteRaw = %v; want ENOSPC that names the file and 4194304 bytes", err)
	}
}

func TestWriteRawErrors(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "raw"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	short := disk.NewSparse(1 << 20)
	if err := short.Put(0, strings.NewReader("short"), 1<<20); err != nil {
		t.Fatal(err)
	}
	if err := disk.WriteRaw(t.Context(), f, short); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("WriteRaw of content that ends early = %v; want %v", err, io.ErrUnexpectedEOF)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s, _ := holey(t)
	if err := disk.WriteRaw(ctx, f, s); !errors.Is(err, context.Canceled) {
		t.Errorf("WriteRaw cancelled = %v; want %v", err, context.Canceled)
	}
}

func TestDigest(t *testing.T) {
	s, want := holey(t)
	for _, r := range [][2]int64{{0, 0}, {0, 1}, {4999, 3}, {0, s.Size()}, {1<<20 - 8, 1 << 20}, {s.Size() - 1, 1}} {
		got, err := disk.Digest(t.Context(), s, r[0], r[1])
		if wanted := sha256.Sum256(want[r[0] : r[0]+r[1]]); err != nil || got != wanted {
			t.Errorf("Digest(%d, %d) = %x, %v; want %x", r[0], r[1], got, err, wanted)
		}
	}
	if _, err := disk.Digest(t.Context(), s, s.Size()-1, 2); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("Digest beyond the end = %v; want %v", err, io.ErrUnexpectedEOF)
	}
}

func TestDigests(t *testing.T) {
	layout, _, image := system(t, 0)
	regions := layout.Regions()
	sums, err := disk.Digests(t.Context(), image, regions)
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range regions {
		if want, err := disk.Digest(t.Context(), image, r.Offset, r.Length); err != nil || sums[i] != want {
			t.Errorf("%s: %x; want %x, %v", r.Name, sums[i], want, err)
		}
	}
	regions[3].Length = image.Size()
	if _, err := disk.Digests(t.Context(), image, regions); err == nil || !strings.Contains(err.Error(), regions[3].Name) {
		t.Errorf("Digests beyond the end = %v; want an error that names %q", err, regions[3].Name)
	}
}

// TestSparse lays extents at random and compares with a plain slice.
func TestSparse(t *testing.T) {
	for seed := range uint64(50) {
		r := rand.New(rand.NewPCG(seed, 0))
		size := r.IntN(5000) + 1
		s, want, taken := disk.NewSparse(int64(size)), make([]byte, size), make([]bool, size)
		for range 30 {
			at, n := r.IntN(size+100)-50, r.IntN(300)
			b := random(n, "extent")
			ok := n == 0 || at >= 0 && at+n <= size
			for k := at; ok && k < at+n; k++ {
				ok = !taken[k]
			}
			err := s.Put(int64(at), bytes.NewReader(b), int64(n))
			if (err == nil) != ok {
				t.Fatalf("seed %d: Put(%d, %d bytes) of %d = %v; want success %v", seed, at, n, size, err, ok)
			}
			if ok && n > 0 {
				copy(want[at:], b)
				for k := at; k < at+n; k++ {
					taken[k] = true
				}
			}
		}
		for range 30 {
			at, b := r.IntN(size), make([]byte, r.IntN(size+100))
			n, err := s.ReadAt(b, int64(at))
			w := want[at:min(size, at+len(b))]
			if !bytes.Equal(b[:n], w) || (err == io.EOF) != (n < len(b)) || err != nil && err != io.EOF {
				t.Fatalf("seed %d: ReadAt(%d bytes, %d) = %d, %v, or other bytes", seed, len(b), at, n, err)
			}
		}
	}
	if _, err := disk.NewSparse(10).ReadAt(make([]byte, 1), -1); err == nil {
		t.Error("ReadAt at a negative offset: no error")
	}
	part := disk.NewSparse(100)
	if err := disk.NewSparse(199).PutSparse(100, part); err == nil {
		t.Error("PutSparse of an image that does not fit: no error")
	}
}

func BenchmarkWriteRaw(b *testing.B) {
	s := disk.NewSparse(256 << 20)
	if err := s.Put(0, bytes.NewReader(random(64<<20, "bench")), 64<<20); err != nil {
		b.Fatal(err)
	}
	f, err := os.Create(filepath.Join(b.TempDir(), "raw"))
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	b.SetBytes(64 << 20)
	for b.Loop() {
		if err := disk.WriteRaw(b.Context(), f, s); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDigest(b *testing.B) {
	s := disk.NewSparse(64 << 20)
	if err := s.Put(0, bytes.NewReader(random(32<<20, "bench")), 32<<20); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(s.Size())
	for b.Loop() {
		if _, err := disk.Digest(b.Context(), s, 0, s.Size()); err != nil {
			b.Fatal(err)
		}
	}
}
