// Package bzimage takes the kernel proper, an ELF, out of the image that boot loaders of x86 start
// (Documentation/arch/x86/boot.rst, "The Real-Mode Kernel Header").
//
// What it deliberately does not do: change an image, know what the kernel can, or read xz with its filter for x86, for
// which there is the xz program.
package bzimage

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

// Offsets in the image.
const (
	setupSectors  = 0x1f1
	headerMagic   = 0x202
	payloadOffset = 0x248
	payloadLength = 0x24c
	headerEnd     = 0x250
	sector        = 512
	magic         = "HdrS"
)

// maxKernel bounds a kernel, in bytes. Those of distributions have 30 to 70 MiB.
const maxKernel = 256 << 20

// Errors that callers decide on.
var (
	// ErrFormat: it is no such image.
	ErrFormat = errors.New("not a kernel image of x86 (bzImage)")
	// ErrPacked: the kernel is compressed in a way this package does not read.
	ErrPacked = errors.New("compressed in a way that is not read here")
)

// Payload is the compressed kernel of an image, followed by its size in four bytes.
func Payload(image []byte) ([]byte, error) {
	if len(image) < headerEnd || string(image[headerMagic:headerMagic+len(magic)]) != magic {
		return nil, ErrFormat
	}
	le := binary.LittleEndian
	from := (uint64(image[setupSectors])+1)*sector + uint64(le.Uint32(image[payloadOffset:]))
	to := from + uint64(le.Uint32(image[payloadLength:]))
	if from > to || to > uint64(len(image)) {
		return nil, fmt.Errorf("%w: its payload is from %d to %d of %d bytes", ErrFormat, from, to, len(image))
	}
	return image[from:to], nil
}

// Unpack is the kernel of an image.
func Unpack(image []byte) ([]byte, error) {
	payload, err := Payload(image)
	if err != nil {
		return nil, err
	}
	if len(payload) < 4 {
		return nil, fmt.Errorf("%w: a payload of %d bytes", ErrFormat, len(payload))
	}
	size := binary.LittleEndian.Uint32(payload[len(payload)-4:])
	if size == 0 || size > maxKernel {
		return nil, fmt.Errorf("%w: a kernel of %d bytes; want 1 to %d", ErrFormat, size, maxKernel)
	}
	r, err := reader(payload)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	// As it comes, not size at once: that is no more than a claim.
	var unpacked bytes.Buffer
	n, err := io.CopyN(&unpacked, r, int64(size))
	if err != nil {
		return nil, fmt.Errorf("%w: %d of %d bytes: %w", ErrFormat, n, size, err)
	}
	return unpacked.Bytes(), nil
}

// reader unpacks a payload, by how it begins (lib/decompress.c of the kernel).
func reader(payload []byte) (io.ReadCloser, error) {
	packed := bytes.NewReader(payload)
	switch {
	case bytes.HasPrefix(payload, []byte{0x1f, 0x8b}):
		return gzip.NewReader(packed)
	case bytes.HasPrefix(payload, []byte{0x02, 0x21, 0x4c, 0x18}): // the old frames of LZ4
		return io.NopCloser(lz4.NewReader(packed)), nil
	case bytes.HasPrefix(payload, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		d, err := zstd.NewReader(packed, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxKernel))
		if err != nil {
			return nil, err
		}
		return d.IOReadCloser(), nil
	}
	return nil, fmt.Errorf("%w: it begins with % x", ErrPacked, payload[:4])
}
