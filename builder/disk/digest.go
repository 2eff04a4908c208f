package disk

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"runtime"

	"golang.org/x/sync/errgroup"
)

// chunk is how much is read at a time: large enough that system calls do not matter, small enough to stay in the
// second-level cache between the read and what is done with the bytes.
const chunk = 256 << 10

// Digest is the SHA-256 of length bytes at offset of r, which may be a Sparse, a file, a device or a qcow2 image. It
// fails with io.ErrUnexpectedEOF when r ends before.
func Digest(ctx context.Context, r io.ReaderAt, offset, length int64) ([sha256.Size]byte, error) {
	var sum [sha256.Size]byte
	h := sha256.New()
	buf := make([]byte, min(chunk, max(length, 0)))
	for done := int64(0); done < length; {
		if err := ctx.Err(); err != nil {
			return sum, fmt.Errorf("digest of %d bytes at offset %d: %w", length, offset, err)
		}
		b := buf[:min(int64(len(buf)), length-done)]
		if err := ReadFull(r, b, offset+done); err != nil {
			return sum, fmt.Errorf("digest of %d bytes at offset %d: %w", length, offset, err)
		}
		h.Write(b)
		done += int64(len(b))
	}
	h.Sum(sum[:0])
	return sum, nil
}

// Digests is Digest of several regions, on all cores, in the order of the regions. r must allow reads in parallel, as
// io.ReaderAt asks.
func Digests(ctx context.Context, r io.ReaderAt, regions []Region) ([][sha256.Size]byte, error) {
	sums := make([][sha256.Size]byte, len(regions))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.GOMAXPROCS(0))
	for i, region := range regions {
		group.Go(func() error {
			sum, err := Digest(ctx, r, region.Offset, region.Length)
			if err != nil {
				return fmt.Errorf("%s: %w", region.Name, err)
			}
			sums[i] = sum
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return sums, nil
}
