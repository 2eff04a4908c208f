package bzimage

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

// image is one with a payload and the size it claims for what is packed in it.
func image(payload []byte, size uint32) []byte {
	b := make([]byte, 2*sector, 2*sector+len(payload)+4)
	b[setupSectors] = 1
	copy(b[headerMagic:], magic)
	binary.LittleEndian.PutUint32(b[payloadLength:], uint32(len(payload)+4))
	return binary.LittleEndian.AppendUint32(append(b, payload...), size)
}

// pack compresses as the kernel's build does.
func pack(tb testing.TB, how string, content []byte) []byte {
	tb.Helper()
	var b bytes.Buffer
	var w io.WriteCloser
	var err error
	switch how {
	case "gzip":
		w = gzip.NewWriter(&b)
	case "lz4":
		z := lz4.NewWriter(&b)
		err, w = z.Apply(lz4.LegacyOption(true)), z
	case "zstd":
		w, err = zstd.NewWriter(&b)
	case "xz":
		return []byte("\xfd7zXZ\x00 and so on")
	}
	if err == nil {
		_, err = w.Write(content)
	}
	if err = errors.Join(err, w.Close()); err != nil {
		tb.Fatal(err)
	}
	return b.Bytes()
}

func TestUnpack(t *testing.T) {
	kernel := []byte("\x7fELF" + strings.Repeat("kernel code ", 100_000))
	for how, want := range map[string]error{"gzip": nil, "lz4": nil, "zstd": nil, "xz": ErrPacked} {
		got, err := Unpack(image(pack(t, how, kernel), uint32(len(kernel))))
		if !errors.Is(err, want) || want == nil && !bytes.Equal(got, kernel) {
			t.Errorf("%s: Unpack = %d bytes, %v; want %d, %v", how, len(got), err, len(kernel), want)
		}
	}
}

// TestNoImage: what is damaged is an error.
func TestNoImage(t *testing.T) {
	whole := image(pack(t, "lz4", []byte("\x7fELF")), 4)
	beyond := bytes.Clone(whole)
	binary.LittleEndian.PutUint32(beyond[payloadOffset:], 1<<31)
	for name, b := range map[string][]byte{
		"nothing":              nil,
		"an ELF":               []byte("\x7fELF" + strings.Repeat("\x00", 4096)),
		"cut off":              whole[:len(whole)-6],
		"a payload beyond":     beyond,
		"a claim too large":    image(pack(t, "gzip", []byte("x")), maxKernel+1),
		"a claim not fulfiled": image(pack(t, "gzip", []byte("x")), 2),
		"no payload":           image(nil, 0),
	} {
		if got, err := Unpack(b); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: Unpack = %d bytes, %v; want ErrFormat", name, len(got), err)
		}
	}
}

// FuzzUnpack: nothing makes it panic, or return more than it says there is.
func FuzzUnpack(f *testing.F) {
	for _, how := range []string{"gzip", "lz4", "zstd", "xz"} {
		f.Add(image(pack(f, how, []byte("\x7fELF and more")), 13))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if got, err := Unpack(b); err == nil && (len(got) == 0 || len(got) > maxKernel) {
			t.Errorf("Unpack = %d bytes, nil", len(got))
		}
	})
}
