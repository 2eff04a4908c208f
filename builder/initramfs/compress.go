package initramfs

import (
	"bytes"
	"fmt"

	"github.com/klauspost/compress/zstd"
)

// compressionOption is the kernel option without which a zstd initramfs is not unpacked.
const compressionOption = "RD_ZSTD"

// window bounds how far back zstd may refer, in bytes: the kernel allocates that much, while it unpacks, on top of the
// archive and of what comes out of it.
const window = 1 << 20

// compress packs an archive as one zstd frame. One goroutine writes it: with several, blocks could end elsewhere on a
// machine with more processors.
func compress(archive []byte) ([]byte, error) {
	var out bytes.Buffer
	w, err := zstd.NewWriter(&out,
		zstd.WithEncoderLevel(zstd.SpeedBestCompression),
		zstd.WithWindowSize(window),
		zstd.WithEncoderConcurrency(1),
		zstd.WithEncoderCRC(true))
	if err != nil {
		return nil, fmt.Errorf("initramfs: zstd: %w", err)
	}
	if _, err := w.Write(archive); err != nil {
		return nil, fmt.Errorf("initramfs: zstd: %w", err)
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("initramfs: zstd: %w", err)
	}
	return out.Bytes(), nil
}
