package deb

import (
	"bufio"
	"compress/gzip"
	"io"

	"github.com/klauspost/compress/zstd"

	"rempart/builder/debian/xz"
)

// maxWindow bounds the memory a packed member may ask for, in bytes; xz -9 and zstd --ultra want 64 and 128 MiB.
const maxWindow = 128 << 20

// unpack returns the content of a member, which may be at most limit bytes.
func (m member) unpack(limit int64) (io.ReadCloser, error) {
	packed := io.NewSectionReader(m.SectionReader, 0, m.Size())
	var r io.ReadCloser
	var err error
	switch m.packing {
	case "":
		r = io.NopCloser(packed)
	case "gz":
		r, err = gzip.NewReader(bufio.NewReaderSize(packed, 1<<16))
	case "xz":
		r, err = xz.NewReader(packed, packed.Size(), maxWindow)
	case "zst":
		var z *zstd.Decoder
		z, err = zstd.NewReader(packed, zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderConcurrency(2))
		if err == nil {
			r = z.IOReadCloser()
		}
	}
	if err != nil {
		return nil, malformed("%s.%s: %v", m.name, m.packing, err)
	}
	return &bounded{ReadCloser: r, left: limit, limit: limit, m: m}, nil
}

// bounded reads at most limit bytes; more is an error, and so is whatever the unpacking finds wrong.
type bounded struct {
	io.ReadCloser
	left, limit int64
	m           member
}

func (b *bounded) Read(p []byte) (int, error) {
	if int64(len(p)) > b.left+1 {
		p = p[:b.left+1]
	}
	n, err := b.ReadCloser.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return 0, malformed("%s unpacks to more than %d bytes", b.m.name, b.limit)
	}
	if err != nil && err != io.EOF {
		err = malformed("%s: unpacking %s: %v", b.m.name, b.m.packing, err)
	}
	return n, err
}
