package qcow2

import (
	"bytes"
	"io"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/zstd"
)

// Limits of what a zstd frame may ask for. QEMU compresses one cluster at a time, so no window is larger than a
// cluster; libzstd's own default limit for a stream is 128 MiB, which a hostile image could make us allocate.
const (
	zstdMaxWindow = 8 << 20
	zstdMaxMemory = 16 << 20
)

// inflater is the reusable state of decompression; it serves one goroutine at a time.
type inflater struct {
	compression Compression
	in          bytes.Reader
	flate       io.ReadCloser
	zstd        *zstd.Decoder
}

// inflate fills out from in, which may go on with padding. Data that ends too early is an error.
func (z *inflater) inflate(out, in []byte) error {
	z.in.Reset(in)
	if z.compression == Zstd {
		if z.zstd == nil {
			var err error
			// One goroutine, none in the background: nothing is left running when the image is dropped.
			if z.zstd, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
				zstd.WithDecoderMaxWindow(zstdMaxWindow), zstd.WithDecoderMaxMemory(zstdMaxMemory)); err != nil {
				return err
			}
		}
		if err := z.zstd.Reset(&z.in); err != nil {
			return err
		}
		_, err := io.ReadFull(z.zstd, out)
		return err
	}
	if z.flate == nil {
		z.flate = flate.NewReader(&z.in)
	} else if err := z.flate.(flate.Resetter).Reset(&z.in, nil); err != nil {
		return err
	}
	_, err := io.ReadFull(z.flate, out)
	return err
}
