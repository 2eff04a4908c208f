package xen

import (
	"bytes"
	"compress/gzip"
	"debug/elf"
	"encoding/binary"
	"errors"
	"slices"
	"testing"

	"rempart/builder/kernel/bzimage"
)

// note is one entry of a section with notes.
func note(owner string, kind uint32, content string) []byte {
	filled := func(s string) string { return s + string(make([]byte, -len(s)&3)) }
	var b []byte
	for _, word := range []uint32{uint32(len(owner)), uint32(len(content)), kind} {
		b = binary.LittleEndian.AppendUint32(b, word)
	}
	return append(b, filled(owner)+filled(content)...)
}

// kernelWith is the image of a kernel that is nothing but its notes.
func kernelWith(tb testing.TB, notes ...[]byte) []byte {
	tb.Helper()
	return kernelOf(tb, bytes.Join(notes, nil))
}

// kernelOf is the image of a kernel that is nothing but segments with notes.
func kernelOf(tb testing.TB, segments ...[]byte) []byte {
	tb.Helper()
	var kernel bytes.Buffer
	const headerSize, entrySize = 64, 56
	header := elf.Header64{Type: uint16(elf.ET_EXEC), Machine: uint16(elf.EM_X86_64), Version: 1, Phoff: headerSize,
		Ehsize: headerSize, Phentsize: entrySize, Phnum: uint16(len(segments))}
	copy(header.Ident[:], elf.ELFMAG+string([]byte{byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), 1}))
	parts := []any{header}
	at := uint64(headerSize + entrySize*len(segments))
	for _, s := range segments {
		parts = append(parts, elf.Prog64{Type: uint32(elf.PT_NOTE), Off: at, Filesz: uint64(len(s))})
		at += uint64(len(s))
	}
	for _, part := range append(parts, bytes.Join(segments, nil)) {
		if err := binary.Write(&kernel, binary.LittleEndian, part); err != nil {
			tb.Fatal(err)
		}
	}
	image := make([]byte, 1024)
	image[0x1f1] = 1
	copy(image[0x202:], "HdrS")
	packed := bytes.NewBuffer(image)
	w := gzip.NewWriter(packed)
	if _, err := w.Write(kernel.Bytes()); err != nil {
		tb.Fatal(err)
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	image = packed.Bytes() // gzip ends with the size itself
	binary.LittleEndian.PutUint32(image[0x24c:], uint32(len(image)-1024))
	return image
}

func TestModesOf(t *testing.T) {
	pv, pvh := note("Xen\x00", noteEntry, "12345678"), note("Xen\x00", notePhysEntry, "1234")
	for name, c := range map[string]struct {
		notes [][]byte
		want  []Mode
	}{
		"none":         {nil, []Mode{HVM}},
		"of all":       {[][]byte{note("Xen\x00", 6, "linux\x00"), pv, pvh}, []Mode{HVM, PV, PVH}},
		"PV":           {[][]byte{note("GNU\x00", 3, "build id"), pv}, []Mode{HVM, PV}},
		"PVH":          {[][]byte{pvh}, []Mode{HVM, PVH}},
		"of others":    {[][]byte{note("GNU\x00", noteEntry, ""), note("Xen", notePhysEntry, "1234")}, []Mode{HVM}},
		"cut off":      {[][]byte{pv, pvh[:len(pvh)-1]}, []Mode{HVM, PV}},
		"sizes beyond": {[][]byte{bytes.Repeat([]byte{0xff}, 12), pv}, []Mode{HVM}},
	} {
		if got, err := ModesOf(kernelWith(t, c.notes...)); err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%s: ModesOf = %v, %v; want %v", name, got, err, c.want)
		}
	}
	if got, err := ModesOf(kernelOf(t, pv, pvh)); err != nil || !slices.Equal(got, []Mode{HVM, PV, PVH}) {
		t.Errorf("ModesOf a kernel with notes in two segments = %v, %v; want all", got, err)
	}
	// However many segments there are, no more is read than one with all notes may have.
	if got, err := ModesOf(kernelOf(t, make([]byte, maxNotes), pv)); err != nil || !slices.Equal(got, []Mode{HVM}) {
		t.Errorf("ModesOf a kernel with a MiB of notes and more = %v, %v; want what is in the first of them", got, err)
	}
	if got, err := ModesOf([]byte("no image")); !errors.Is(err, bzimage.ErrFormat) {
		t.Errorf("ModesOf = %v, %v; want ErrFormat", got, err)
	}
}

// FuzzNotes: whatever stands in a section with notes, none of them is read beyond its end.
func FuzzNotes(f *testing.F) {
	f.Add(note("Xen\x00", noteEntry, "12345678"))
	f.Add(bytes.Repeat([]byte{0xff}, 40))
	f.Fuzz(func(t *testing.T, b []byte) {
		if n := len(notes(b, binary.LittleEndian)); n > len(b)/12 {
			t.Errorf("%d notes in %d bytes", n, len(b))
		}
	})
}
