package qcow2

import (
	"encoding/binary"
	"fmt"
	"os"
)

// SetBacking has an image name another file that it lies on, which must hold the same bytes as the one before: nothing
// but the name is changed. It is for an image that was moved, while nobody else has it open. The format stays. Errors
// wrap ErrUnsupported where the image names none, or ErrCorrupt.
func SetBacking(f *os.File, name string) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	h, err := readHeader(f, info.Size())
	switch {
	case err != nil:
		return fmt.Errorf("qcow2: %w", err)
	case h.backingName == "":
		return fmt.Errorf("qcow2: it lies on no other file: %w", ErrUnsupported)
	case name == "" || len(name) > maxBackingName:
		return fmt.Errorf("qcow2: backing file %.80q: want a name of 1 to %d bytes", name, maxBackingName)
	}
	b := make([]byte, hdrBackingSize+4-hdrBackingOffset)
	if _, err := f.ReadAt(b, hdrBackingOffset); err != nil {
		return err
	}
	// The name is the last of what lies in the first cluster (docs/interop/qcow2.txt), which holds nothing else.
	at := binary.BigEndian.Uint64(b)
	if at+uint64(len(name)) > uint64(h.clusterSize()) {
		return fmt.Errorf("qcow2: a name of %d bytes at offset %d of the first %d: %w", len(name), at, h.clusterSize(),
			ErrUnsupported)
	}
	if _, err := f.WriteAt([]byte(name), int64(at)); err != nil {
		return err
	}
	size := binary.BigEndian.AppendUint32(nil, uint32(len(name)))
	if _, err := f.WriteAt(size, hdrBackingSize); err != nil {
		return err
	}
	return f.Sync()
}
