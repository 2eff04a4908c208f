package files

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// Clone copies a file to a new one, for its owner only, which is whole and on the disk when it returns. Filesystems
// that can share blocks do; elsewhere holes stay holes.
func Clone(ctx context.Context, from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	part := to + ".part"
	if err := os.Remove(part); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	out, err := os.OpenFile(part, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if unix.IoctlFileClone(int(out.Fd()), int(in.Fd())) != nil { // ioctl_ficlone(2): another filesystem, or one without
		err = out.Truncate(info.Size())
		if err == nil {
			err = copyData(ctx, in, out, info.Size())
		}
	}
	if err := errors.Join(err, out.Sync(), out.Close()); err != nil {
		return errors.Join(fmt.Errorf("copying %s to %s: %w", from, to, err), os.Remove(part))
	}
	return Move(part, to)
}

// copyChunk is how much is copied between two looks whether to go on.
const copyChunk = 4 << 20

// copyData copies what is no hole (lseek(2), SEEK_DATA).
func copyData(ctx context.Context, in, out *os.File, size int64) error {
	for at := int64(0); at < size; {
		begin, err := unix.Seek(int(in.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil // nothing but a hole is left
		}
		if err != nil {
			return err
		}
		end, err := unix.Seek(int(in.Fd()), begin, unix.SEEK_HOLE)
		if err != nil {
			return err
		}
		for at = begin; at < end; at += copyChunk {
			if err := ctx.Err(); err != nil {
				return err
			}
			n := min(copyChunk, end-at)
			if _, err := io.Copy(io.NewOffsetWriter(out, at), io.NewSectionReader(in, at, n)); err != nil {
				return err
			}
		}
		at = end
	}
	return nil
}

// CopySparse copies in pieces, and returns how many bytes; those pieces that are zero become holes. The end of the new
// file is to be set by Truncate when the last piece was one.
func CopySparse(ctx context.Context, in io.Reader, out *os.File) (size int64, err error) {
	b := make([]byte, 1<<20)
	zero := make([]byte, len(b))
	for {
		if err := ctx.Err(); err != nil {
			return size, err
		}
		n, err := io.ReadFull(in, b)
		if n > 0 && !bytes.Equal(b[:n], zero[:n]) {
			if _, err := out.WriteAt(b[:n], size); err != nil {
				return size, err
			}
		}
		size += int64(n)
		switch {
		case err == io.EOF || err == io.ErrUnexpectedEOF:
			return size, nil
		case err != nil:
			return size, err
		}
	}
}
