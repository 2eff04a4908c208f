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
	all := bytes.Join(notes, nil)
	var kernel bytes.Buffer
	header := elf.Header64{Type: uint16(elf.ET_EXEC), Machine: uint16(elf.EM_X86_64), Version: 1, Phoff: 64, Ehsize: 64,
		Phentsize: 56, Phnum: 1}
	copy(header.Ident[:], elf.ELFMAG+string([]byte{byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), 1}))
	for _, part := range []any{header, elf.Prog64{Type: uint32(elf.PT_NOTE), Off: 120, Filesz: uint64(len(all))}, all} {
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
