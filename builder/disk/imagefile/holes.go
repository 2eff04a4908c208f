package imagefile

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"rempart/builder/disk"
)

// holes is a raw file as a sparse image: what the file's own filesystem says is a hole is left out. Where it says
// nothing, as of a block device, all is data.
func holes(ctx context.Context, f *os.File, size int64) (*disk.Sparse, error) {
	s := disk.NewSparse(size)
	for at := int64(0); at < size; {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		from, err := unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
		switch {
		case errors.Is(err, unix.ENXIO):
			return s, nil // nothing but holes to the end
		case errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP):
			return s, s.Put(at, io.NewSectionReader(f, at, size-at), size-at)
		case err != nil:
			return nil, fmt.Errorf("holes of %s: %w", f.Name(), err)
		}
		to, err := unix.Seek(int(f.Fd()), from, unix.SEEK_HOLE)
		if err != nil {
			return nil, fmt.Errorf("holes of %s: %w", f.Name(), err)
		}
		if to = min(to, size); to <= from {
			return s, nil // it shrank meanwhile
		}
		if err := s.Put(from, io.NewSectionReader(f, from, to-from), to-from); err != nil {
			return nil, err
		}
		at = to
	}
	return s, nil
}
