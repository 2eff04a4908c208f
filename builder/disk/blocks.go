package disk

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"runtime"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
)

// BlockDigests are the SHA-256 of each block bytes of the first size bytes of r, one after the other; the last block
// may be shorter. They are made on all cores. A block of zeros costs a look at its bytes and no digest: most of a
// system disk's free space is that. It fails with io.ErrUnexpectedEOF when r ends before.
func BlockDigests(ctx context.Context, r io.ReaderAt, size, block int64) ([]byte, error) {
	if block <= 0 || size < 0 {
		return nil, fmt.Errorf("digests of %d bytes in blocks of %d: want positive numbers", size, block)
	}
	count := (size + block - 1) / block
	sums := make([]byte, count*sha256.Size)
	zeros := make([]byte, block)
	zeroSum := sha256.Sum256(zeros)
	var next atomic.Int64
	group, ctx := errgroup.WithContext(ctx)
	for range min(int64(runtime.GOMAXPROCS(0)), count) {
		group.Go(func() error {
			buf := make([]byte, block)
			for {
				n := next.Add(1) - 1
				if n >= count {
					return nil
				}
				if err := ctx.Err(); err != nil {
					return fmt.Errorf("digest of block %d of %d: %w", n, count, err)
				}
				b := buf[:min(block, size-n*block)]
				if err := ReadFull(r, b, n*block); err != nil {
					return fmt.Errorf("digest of %d bytes at offset %d: %w", len(b), n*block, err)
				}
				sum := zeroSum
				if int64(len(b)) < block || !bytes.Equal(b, zeros) {
					sum = sha256.Sum256(b)
				}
				copy(sums[n*sha256.Size:], sum[:])
			}
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return sums, nil
}
