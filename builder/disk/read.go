package disk

import (
	"errors"
	"fmt"
	"io"
)

// ReadFull fills b from offset of r. A read that ends exactly at the end of r is whole, whatever error comes with it;
// where r ends before that it fails with io.ErrUnexpectedEOF.
func ReadFull(r io.ReaderAt, b []byte, offset int64) error {
	n, err := r.ReadAt(b, offset)
	if n == len(b) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("reading %d bytes at offset %d: %w", len(b), offset, err)
}
