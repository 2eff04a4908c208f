package qcow2

import (
	"os"
	"path/filepath"
	"testing"

	"rempart/builder/disk"
	"rempart/builder/disk/internal/judge"
)

// master is content like a master's: a third that does not compress, as kernel and initramfs do not, two thirds of
// programs, and a hole.
func master(b *testing.B) *disk.Sparse {
	b.Helper()
	self, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	program, err := os.ReadFile(self)
	if err != nil {
		b.Fatal(err)
	}
	s := disk.NewSparse(64 << 20)
	put(b, s, 1<<20, random(8<<20, "kernel"))
	if err := s.Put(32<<20, repeated(program), 16<<20); err != nil {
		b.Fatal(err)
	}
	return s
}

func BenchmarkWrite(b *testing.B) {
	s := master(b)
	raw := judge.Raw(b, s)
	report := func(b *testing.B, path string) {
		st, err := os.Stat(path)
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(st.Size()), "bytes/image")
	}
	for _, c := range []Compression{Deflate, Zstd} {
		b.Run(c.String(), func(b *testing.B) {
			b.SetBytes(24 << 20)
			var path string
			for b.Loop() {
				path = save(b, s, Options{Compression: c})
			}
			report(b, path)
		})
		b.Run("qemu-img "+c.String(), func(b *testing.B) {
			b.SetBytes(24 << 20)
			path := filepath.Join(b.TempDir(), "image")
			for b.Loop() {
				judge.Run(b, "qemu-utils", "qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2",
					"-o", "compression_type="+c.String(), raw, path)
			}
			report(b, path)
		})
	}
}

func BenchmarkRead(b *testing.B) {
	for _, c := range []Compression{Deflate, Zstd} {
		b.Run(c.String(), func(b *testing.B) {
			i := openFile(b, save(b, master(b), Options{Compression: c}), OpenOptions{})
			b.SetBytes(i.Size())
			for b.Loop() {
				if _, err := disk.Digest(b.Context(), i, 0, i.Size()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// repeated is the same bytes again and again.
type repeated []byte

func (r repeated) ReadAt(b []byte, off int64) (int, error) {
	for n := 0; n < len(b); {
		n += copy(b[n:], r[(off+int64(n))%int64(len(r)):])
	}
	return len(b), nil
}
