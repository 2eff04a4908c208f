package disk

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
)

// zeroBlock is the unit in which zeros are left out of a file: the block size of every common filesystem.
const zeroBlock = 4096

// WriteRaw makes f a raw image: what f held is gone, its size is that of the image, and blocks of zeros are holes. It
// returns once the bytes are on the disk (fsync). The caller gives a file under a temporary name and renames it: an
// image must appear whole or not at all. A full disk is an error that wraps syscall.ENOSPC and says how much the
// image needs.
func WriteRaw(ctx context.Context, f *os.File, s *Sparse) error {
	var written int64
	fail := func(err error) error { return WriteError(f.Name(), s, written, err) }
	// Truncated to nothing first: whatever the file held would otherwise shine through the holes.
	if err := f.Truncate(0); err != nil {
		return fail(err)
	}
	if err := f.Truncate(s.Size()); err != nil {
		return fail(err)
	}
	buf := make([]byte, chunk)
	for _, e := range s.Extents() {
		for at := e.Offset; at < e.Offset+e.Length; {
			if err := ctx.Err(); err != nil {
				return fail(err)
			}
			// Chunks end at multiples of chunk so that blocks are those of the file.
			n := min(chunk-at%chunk, e.Offset+e.Length-at)
			b := buf[:n]
			if err := ReadFull(e.Source, b, at-e.Offset); err != nil {
				return fmt.Errorf("%s: reading %d bytes of the image at offset %d: %w", f.Name(), n, at, err)
			}
			for _, run := range dataRuns(b, at) {
				if _, err := f.WriteAt(b[run.from:run.to], at+int64(run.from)); err != nil {
					return fail(err)
				}
				written += int64(run.to - run.from)
			}
			at += n
		}
	}
	if err := f.Sync(); err != nil {
		return fail(err)
	}
	return nil
}

// ReadError is a failure to read the content of an image, not to write the file.
type ReadError struct{ Err error }

func (e ReadError) Error() string { return e.Err.Error() }
func (e ReadError) Unwrap() error { return e.Err }

// WriteError words a failure to write an image to a file, after written bytes of it. A full disk gets what the
// reader needs to know to do something about it.
func WriteError(file string, s *Sparse, written int64, err error) error {
	if read := (ReadError{}); errors.As(err, &read) {
		return fmt.Errorf("the content of image %s: %w", file, err)
	}
	if !errors.Is(err, syscall.ENOSPC) && !errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("writing image %s: %w", file, err)
	}
	var need int64
	for _, e := range s.Extents() {
		need += e.Length
	}
	return fmt.Errorf("writing image %s: the disk is full after %d bytes, the image needs up to %d; "+
		"free that much or choose another folder: %w", file, written, need, err)
}

type run struct{ from, to int }

// dataRuns returns the parts of b, which lies at offset at of the file, that are left when blocks of zeros are taken
// out. Neighbouring blocks of data form one run.
func dataRuns(b []byte, at int64) []run {
	var runs []run
	for from := 0; from < len(b); {
		to := min(from+zeroBlock-int((at+int64(from))%zeroBlock), len(b))
		if !AllZero(b[from:to]) {
			if n := len(runs); n > 0 && runs[n-1].to == from {
				runs[n-1].to = to
			} else {
				runs = append(runs, run{from, to})
			}
		}
		from = to
	}
	return runs
}

// AllZero says whether b holds nothing but zeros. Most blocks of data are told by their first bytes; the rest costs
// one memory comparison.
func AllZero(b []byte) bool {
	for len(b) > 0 {
		n := min(len(b), len(zeros))
		if string(b[:n]) != zeros[:n] {
			return false
		}
		b = b[n:]
	}
	return true
}

// zeros is what AllZero compares with.
var zeros = string(make([]byte, zeroBlock))
