package disk

import (
	"fmt"
	"io"
	"sort"
)

// Sparse is an image of fixed size of which only the extents hold data; all else is zero. It is how every part of
// a master travels before the last step writes it, so that zeros cost nothing on the way. The zero value is an
// image of size 0. Sparse implements io.ReaderAt.
type Sparse struct {
	size    int64
	extents []Extent // sorted by Offset, never overlapping
}

// Extent is Length bytes at Offset of the image, read from offset 0 of Source. Bytes that an extent holds may be
// zero; bytes outside all extents are.
type Extent struct {
	Offset, Length int64
	Source         io.ReaderAt
}

// NewSparse returns an image of size bytes, all zero.
func NewSparse(size int64) *Sparse { return &Sparse{size: size} }

// Size is the size of the image in bytes.
func (s *Sparse) Size() int64 { return s.size }

// Extents are the parts that may hold data, in order. The caller must not change them.
func (s *Sparse) Extents() []Extent { return s.extents }

// Put lays length bytes of src at offset. It fails when they do not fit or meet bytes already laid.
func (s *Sparse) Put(offset int64, src io.ReaderAt, length int64) error {
	if length == 0 {
		return nil
	}
	if offset < 0 || length < 0 || offset > s.size-length {
		return fmt.Errorf("image of %d bytes: cannot hold %d bytes at offset %d", s.size, length, offset)
	}
	i := sort.Search(len(s.extents), func(i int) bool { return s.extents[i].Offset+s.extents[i].Length > offset })
	if i < len(s.extents) && s.extents[i].Offset < offset+length {
		return fmt.Errorf("image: %d bytes at offset %d meet the %d bytes at offset %d",
			length, offset, s.extents[i].Length, s.extents[i].Offset)
	}
	s.extents = append(s.extents, Extent{})
	copy(s.extents[i+1:], s.extents[i:])
	s.extents[i] = Extent{Offset: offset, Length: length, Source: src}
	return nil
}

// PutSparse lays the extents of another image at offset.
func (s *Sparse) PutSparse(offset int64, part *Sparse) error {
	if offset < 0 || part.size > s.size-offset {
		return fmt.Errorf("image of %d bytes: cannot hold an image of %d bytes at offset %d", s.size, part.size, offset)
	}
	for _, e := range part.extents {
		if err := s.Put(offset+e.Offset, e.Source, e.Length); err != nil {
			return err
		}
	}
	return nil
}

// ReadAt implements io.ReaderAt.
func (s *Sparse) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("image: negative offset %d", off)
	}
	if off >= s.size {
		return 0, io.EOF
	}
	var short error
	if int64(len(p)) > s.size-off {
		p, short = p[:s.size-off], io.EOF
	}
	clear(p)
	end := off + int64(len(p))
	i := sort.Search(len(s.extents), func(i int) bool { return s.extents[i].Offset+s.extents[i].Length > off })
	for ; i < len(s.extents) && s.extents[i].Offset < end; i++ {
		e := s.extents[i]
		from, to := max(e.Offset, off), min(e.Offset+e.Length, end)
		n, err := e.Source.ReadAt(p[from-off:to-off], from-e.Offset)
		if int64(n) < to-from {
			if err == nil || err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return int(from-off) + n, fmt.Errorf("image: reading %d bytes at offset %d: %w", to-from, from, err)
		}
	}
	return len(p), short
}
