package vmdk_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"rempart/builder/disk"
	"rempart/builder/disk/internal/judge"
	"rempart/builder/disk/vmdk"
)

// content is a disk of size bytes with data at its start, around the first grain table's end, and at its end.
func content(t testing.TB, size int64) *disk.Sparse {
	t.Helper()
	s := disk.NewSparse(size)
	noise := make([]byte, 300_000)
	rand.NewChaCha8([32]byte{4}).Read(noise)
	text := []byte(strings.Repeat("the same again and again ", 9000))
	put := func(at int64, b []byte) {
		if at < 0 || at+int64(len(b)) > size {
			return
		}
		if err := s.Put(at, bytes.NewReader(b), int64(len(b))); err != nil {
			t.Fatal(err)
		}
	}
	put(1000, noise)
	put(1<<20, text)
	put(32<<20-70_000, noise[:140_000])
	put(40<<20, make([]byte, 100_000)) // zeros that are called data
	put(size-700, noise[:700])
	return s
}

func write(t testing.TB, s *disk.Sparse, kind vmdk.Kind) string {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "image.vmdk"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := vmdk.Write(t.Context(), f, "image.vmdk", s, kind); err != nil {
		t.Fatal(err)
	}
	return f.Name()
}

func open(t testing.TB, path string) *vmdk.Image {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	i, err := vmdk.Open(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// same compares an image, and its sparse view, with a raw file.
func same(t *testing.T, i *vmdk.Image, raw string) {
	t.Helper()
	want, err := os.ReadFile(raw)
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(io.NewSectionReader(i, 0, i.Size()))
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("it holds %d other bytes, %v; want %d", len(got), err, len(want))
	}
	s, err := i.Sparse(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(io.NewSectionReader(s, 0, s.Size())); err != nil || !bytes.Equal(got, want) {
		t.Errorf("without its holes it holds %d other bytes, %v; want %d", len(got), err, len(want))
	}
}

// TestWriteForeign writes images, and has qemu-img check and compare them.
func TestWriteForeign(t *testing.T) {
	for _, size := range []int64{512, 1 << 20, 64<<20 + 512} {
		s := content(t, size)
		raw := judge.Raw(t, s)
		for _, kind := range []vmdk.Kind{vmdk.StreamOptimized, vmdk.MonolithicSparse} {
			path := write(t, s, kind)
			judge.Run(t, "qemu-utils", "qemu-img", "compare", "-f", "vmdk", "-F", "raw", path, raw)
			judge.Run(t, "qemu-utils", "qemu-img", "check", "-f", "vmdk", path)
			if out := judge.Run(t, "qemu-utils", "qemu-img", "info", "-f", "vmdk", path); !strings.Contains(out, string(kind)) {
				t.Errorf("qemu-img info does not say %s:\n%s", kind, out)
			}
			i := open(t, path)
			if i.Kind() != kind {
				t.Errorf("Kind = %s; want %s", i.Kind(), kind)
			}
			same(t, i, raw)
			again, err := os.ReadFile(write(t, s, kind))
			if err != nil {
				t.Fatal(err)
			}
			if b, err := os.ReadFile(path); err != nil || !bytes.Equal(b, again) {
				t.Errorf("%s of %d bytes: two writes differ (%v)", kind, size, err)
			}
		}
	}
}

// TestReadForeign reads what qemu-img writes.
func TestReadForeign(t *testing.T) {
	raw := judge.Raw(t, content(t, 100<<20+512))
	for _, options := range []string{"subformat=streamOptimized", "subformat=monolithicSparse",
		"subformat=monolithicSparse,zeroed_grain=on"} {
		path := filepath.Join(t.TempDir(), "image.vmdk")
		judge.Run(t, "qemu-utils", "qemu-img", "convert", "-f", "raw", "-O", "vmdk", "-o", options, raw, path)
		same(t, open(t, path), raw)
	}
}

// TestChecksum spoils what nothing but the checksum of a grain tells of.
func TestChecksum(t *testing.T) {
	b, err := os.ReadFile(write(t, content(t, 1<<20), vmdk.StreamOptimized))
	if err != nil {
		t.Fatal(err)
	}
	const first = 128 * 512 // where the grains begin
	size := binary.LittleEndian.Uint32(b[first+8:])
	b[first+12+size-1]++
	i, err := vmdk.Open(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := i.ReadAt(make([]byte, 512), 1024); !errors.Is(err, vmdk.ErrCorrupt) {
		t.Errorf("ReadAt of a grain with another checksum = %v; want %v", err, vmdk.ErrCorrupt)
	}
}

// TestOpenRefuses opens what is none of ours, and what was spoilt.
func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	flat := filepath.Join(dir, "flat.vmdk")
	judge.Run(t, "qemu-utils", "qemu-img", "create", "-f", "vmdk", "-o", "subformat=monolithicFlat", flat, "1M")
	base, over := filepath.Join(dir, "base.vmdk"), filepath.Join(dir, "over.vmdk")
	judge.Run(t, "qemu-utils", "qemu-img", "create", "-f", "vmdk", base, "1M")
	judge.Run(t, "qemu-utils", "qemu-img", "create", "-f", "vmdk", "-b", base, "-F", "vmdk", over)
	for path, want := range map[string]string{flat: "in other files", over: "lies on another"} {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := vmdk.Open(bytes.NewReader(b), int64(len(b))); !errors.Is(err, vmdk.ErrUnsupported) ||
			!strings.Contains(err.Error(), want) {
			t.Errorf("Open(%s) = %v; want %q", path, err, want)
		}
	}
	for _, kind := range []vmdk.Kind{vmdk.StreamOptimized, vmdk.MonolithicSparse} {
		whole, err := os.ReadFile(write(t, content(t, 64<<20), kind))
		if err != nil {
			t.Fatal(err)
		}
		le := binary.LittleEndian
		header := func(b []byte) []byte {
			if kind == vmdk.StreamOptimized {
				return b[len(b)-1024:]
			}
			return b
		}
		for name, spoil := range map[string]func(b []byte) []byte{
			"nothing":               func([]byte) []byte { return nil },
			"cut off":               func(b []byte) []byte { return b[:1000] },
			"another magic number":  func(b []byte) []byte { b[0]++; return b },
			"a newline lost":        func(b []byte) []byte { b[75] = '\n'; return b },
			"a disk without end":    func(b []byte) []byte { le.PutUint64(b[12:], 1<<60); return b },
			"grains of no bytes":    func(b []byte) []byte { le.PutUint64(b[20:], 0); return b },
			"tables of no entries":  func(b []byte) []byte { le.PutUint32(b[44:], 0); return b },
			"a directory elsewhere": func(b []byte) []byte { le.PutUint64(header(b)[56:], 1<<50); return b },
			"a table elsewhere": func(b []byte) []byte {
				le.PutUint32(b[le.Uint64(header(b)[56:])*512:], 1<<31)
				return b
			},
			"one table twice": func(b []byte) []byte {
				at := le.Uint64(header(b)[56:]) * 512
				copy(b[at:at+4], b[at+4:at+8])
				return b
			},
			"a descriptor elsewhere": func(b []byte) []byte { le.PutUint64(b[28:], 1<<50); return b },
		} {
			b := spoil(bytes.Clone(whole))
			if i, err := vmdk.Open(bytes.NewReader(b), int64(len(b))); err == nil {
				t.Errorf("%s: Open with %s = %+v; want an error", kind, name, i.Size())
			}
		}
	}
}

// TestWriteRefuses asks for what cannot be.
// TestSharedGrains: an image of few bytes whose tables have all grains of a large disk be the same one is no disk.
func TestSharedGrains(t *testing.T) {
	s := disk.NewSparse(40 << 20)
	if err := s.Put(0, strings.NewReader("grain"), 5); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(write(t, s, vmdk.MonolithicSparse))
	if err != nil {
		t.Fatal(err)
	}
	const sector, directoryAt, grain, perTable = 512, 56, 64 << 10, 512
	sparse := func() (*disk.Sparse, error) {
		i, err := vmdk.Open(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			return nil, err
		}
		return i.Sparse(t.Context())
	}
	if _, err := sparse(); err != nil {
		t.Fatal(err)
	}
	directory := binary.LittleEndian.Uint64(b[directoryAt:]) * sector
	first := uint32(0)
	for n := range (40 << 20) / grain {
		table := uint64(binary.LittleEndian.Uint32(b[directory+uint64(n/perTable)*4:])) * sector
		entry := b[table+uint64(n%perTable)*4:]
		if n == 0 {
			first = binary.LittleEndian.Uint32(entry)
		}
		binary.LittleEndian.PutUint32(entry, first)
	}
	if _, err := sparse(); !errors.Is(err, vmdk.ErrCorrupt) || first == 0 {
		t.Errorf("Sparse of %d bytes that say they are 40 MiB = %v; want %v", len(b), err, vmdk.ErrCorrupt)
	}
}

func TestWriteRefuses(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "x"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for name, err := range map[string]error{
		"half a sector": vmdk.Write(t.Context(), f, "x", disk.NewSparse(700), vmdk.StreamOptimized),
		"a kind":        vmdk.Write(t.Context(), f, "x", disk.NewSparse(512), "vmfs"),
		"a long name":   vmdk.Write(t.Context(), f, strings.Repeat("x", 20_000), disk.NewSparse(512), vmdk.StreamOptimized),
	} {
		if err == nil {
			t.Errorf("%s: Write = nil; want an error", name)
		}
	}
}

// FuzzOpen changes bytes of small images.
func FuzzOpen(f *testing.F) {
	var images [][]byte
	for _, kind := range []vmdk.Kind{vmdk.StreamOptimized, vmdk.MonolithicSparse} {
		b, err := os.ReadFile(write(f, content(f, 1<<20+512), kind))
		if err != nil {
			f.Fatal(err)
		}
		images = append(images, b)
		f.Add(uint8(len(images)-1), []byte{0, 0, 12, 1})
	}
	f.Fuzz(func(t *testing.T, which uint8, changes []byte) {
		b := bytes.Clone(images[int(which)%len(images)])
		for ; len(changes) >= 4; changes = changes[4:] {
			b[int(binary.BigEndian.Uint32(changes)>>8)%len(b)] = changes[3]
		}
		i, err := vmdk.Open(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			return
		}
		buf := make([]byte, 100_000)
		for _, at := range []int64{0, 65_000, i.Size() - 10} {
			if n, err := i.ReadAt(buf, max(0, at)); n < len(buf) && err == nil {
				t.Errorf("ReadAt(%d) = %d without an error", at, n)
			}
		}
		if s, err := i.Sparse(t.Context()); err == nil && s.Size() != i.Size() {
			t.Errorf("the sparse view has %d bytes; want %d", s.Size(), i.Size())
		}
	})
}
