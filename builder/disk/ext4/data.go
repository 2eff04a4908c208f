package ext4

import (
	"encoding/binary"
	"fmt"
	"io"
	"sort"
)

// extent is a run of a file's blocks. One whose physical block is 0 reads as zeros: it was laid out and never written.
type extent struct {
	logical  uint64
	physical uint64
	length   uint64 // blocks
}

// The extent tree (Documentation/filesystems/ext4/ifork.rst).
const (
	extentMagic    = 0xf30a
	extentEntry    = 12 // bytes of a header, an index and a leaf alike
	mostDepth      = 5
	unwrittenAbove = 1 << 15 // longer ones are unwritten, and that much shorter
	// mostLogical is the first block number a file cannot have: they are of 32 bits.
	mostLogical = 1 << 32
	// mostExtents bounds what one file takes of memory: 48 MiB. A file of a terabyte in pieces of a megabyte has half.
	mostExtents = 1 << 21
)

// File is the content of a regular file, directory or long symbolic link: an io.ReaderAt of Inode.Size bytes.
type File struct {
	f       *FS
	size    int64
	extents []extent // by logical block, not overlapping
	inline  []byte   // the content, of one that has no blocks
	nodes   uint64   // blocks that say where the others are
}

// Open returns the content of an inode. Blocks that cannot be a file's are an error here, before a byte is read.
func (f *FS) Open(i *Inode) (*File, error) {
	file, err := f.open(i)
	if err != nil {
		return nil, err
	}
	return file, nil
}

// open is Open that tells of a tree that cannot be read, too, how many blocks of it were.
func (f *FS) open(i *Inode) (*File, error) {
	if i.Flags&flagEncrypt != 0 {
		return &File{}, fmt.Errorf("inode %d: %w: it is encrypted", i.Number, ErrFeature)
	}
	file := &File{f: f, size: i.Size}
	area := i.raw[blockArea : blockArea+blockAreaLen]
	var err error
	switch {
	case i.Flags&flagInline != 0:
		file.inline, err = f.inlineData(i)
	case i.Flags&flagExtents != 0:
		w := &extentWalk{f: f, inode: i, seen: map[uint64]bool{}}
		err = w.node(area, -1)
		file.extents, file.nodes = w.extents, uint64(len(w.seen))
	case i.Mode&typeMask == typeLink && i.Size < blockAreaLen:
		file.inline = area
	case i.Mode&typeMask == typeFile || i.Mode&typeMask == typeDir || i.Mode&typeMask == typeLink:
		file.extents, file.nodes, err = f.blockMap(i, area)
	default:
		return file, fmt.Errorf("inode %d: %s has no content", i.Number, i.FileMode().Type())
	}
	if err != nil {
		return file, fmt.Errorf("inode %d: %w", i.Number, err)
	}
	return file, nil
}

// Size is the length of the content in bytes.
func (f *File) Size() int64 { return f.size }

// Data calls each with the runs of bytes that have blocks, in order: what is between them reads as zeros.
func (f *File) Data(each func(offset, length int64) error) error {
	if f.inline != nil && f.size > 0 {
		return each(0, min(f.size, int64(len(f.inline))))
	}
	for _, e := range f.extents {
		offset := int64(e.logical) * f.f.s.blockSize
		length := min(int64(e.length)*f.f.s.blockSize, f.size-offset)
		if e.physical == 0 || length <= 0 {
			continue
		}
		if err := each(offset, length); err != nil {
			return err
		}
	}
	return nil
}

// ReadAt reads as io.ReaderAt does.
func (f *File) ReadAt(b []byte, off int64) (n int, err error) {
	if off < 0 {
		return 0, fmt.Errorf("offset %d", off)
	}
	if off >= f.size {
		return 0, io.EOF
	}
	if left := f.size - off; int64(len(b)) > left {
		b, err = b[:left], io.EOF
	}
	if f.inline != nil {
		clear(b)
		if off < int64(len(f.inline)) {
			copy(b, f.inline[off:])
		}
		return len(b), err
	}
	for n < len(b) {
		got, failed := f.piece(b[n:], off+int64(n))
		if failed != nil {
			return n, failed
		}
		n += got
	}
	return n, err
}

// piece reads what comes before the next end of an extent or a hole.
func (f *File) piece(b []byte, off int64) (int, error) {
	size := f.f.s.blockSize
	block := uint64(off / size)
	at := sort.Search(len(f.extents), func(i int) bool { return f.extents[i].logical+f.extents[i].length > block })
	if at == len(f.extents) {
		clear(b)
		return len(b), nil
	}
	e := f.extents[at]
	if block < e.logical {
		n := min(int64(len(b)), int64(e.logical)*size-off)
		clear(b[:n])
		return int(n), nil
	}
	n := min(int64(len(b)), int64(e.logical+e.length)*size-off)
	if e.physical == 0 {
		clear(b[:n])
		return int(n), nil
	}
	at2 := int64(e.physical+block-e.logical)*size + off%size
	return int(n), f.f.readAt(b[:n], at2)
}

// extentWalk gathers the extents of a tree. seen bounds it: no block is in a tree twice.
type extentWalk struct {
	f       *FS
	inode   *Inode
	seen    map[uint64]bool
	extents []extent
	next    uint64 // the first logical block that may come
	total   uint64 // blocks of all extents: no file has more than the filesystem
}

// node reads a node whose depth must be the one its parent says; -1 for the root.
func (w *extentWalk) node(b []byte, depth int) error {
	le := binary.LittleEndian
	entries, most, at := int(le.Uint16(b[2:])), int(le.Uint16(b[4:])), int(le.Uint16(b[6:]))
	if le.Uint16(b) != extentMagic || entries > most || (most+1)*extentEntry > len(b) || at > mostDepth ||
		depth >= 0 && at != depth {
		return fmt.Errorf("extent tree: %w: no node of depth %d", ErrDamaged, depth)
	}
	for i := range entries {
		e := b[(i+1)*extentEntry:]
		logical := uint64(le.Uint32(e))
		if at == 0 {
			x := extent{logical, uint64(le.Uint32(e[8:])) | uint64(le.Uint16(e[6:]))<<32, uint64(le.Uint16(e[4:]))}
			unwritten := x.length > unwrittenAbove
			if unwritten {
				x.length -= unwrittenAbove
			}
			w.total += x.length
			if x.length == 0 || logical < w.next || x.physical == 0 || x.physical >= w.f.s.blocks ||
				x.length > w.f.s.blocks-x.physical || logical+x.length > mostLogical || w.total > w.f.s.blocks {
				return fmt.Errorf("extent tree: %w: %d blocks from %d on as block %d", ErrDamaged, x.length, x.physical, logical)
			}
			w.next = logical + x.length
			if unwritten {
				x.physical = 0
			}
			if w.extents = append(w.extents, x); len(w.extents) > mostExtents {
				return fmt.Errorf("extent tree: %w: more than %d pieces", ErrFeature, mostExtents)
			}
			continue
		}
		child := uint64(le.Uint32(e[4:])) | uint64(le.Uint16(e[8:]))<<32
		if w.seen[child] {
			return fmt.Errorf("extent tree: %w: block %d twice", ErrDamaged, child)
		}
		w.seen[child] = true
		if err := w.f.claim(child, w.inode.Number); err != nil {
			return fmt.Errorf("extent tree: %w", err)
		}
		next, err := w.f.block(child)
		if err != nil {
			return fmt.Errorf("extent tree: %w", err)
		}
		if err := w.check(child, next); err != nil {
			return err
		}
		if err := w.node(next, at-1); err != nil {
			return err
		}
	}
	return nil
}

// check compares a node's checksum, which is behind its last possible entry.
func (w *extentWalk) check(block uint64, b []byte) error {
	if !w.f.s.csum {
		return nil
	}
	le := binary.LittleEndian
	tail := (int(le.Uint16(b[4:])) + 1) * extentEntry
	if tail+4 > len(b) {
		return fmt.Errorf("extent tree: %w: block %d has no node", ErrDamaged, block)
	}
	if got, want := crc32c(w.f.inodeSeed(w.inode), b[:tail]), le.Uint32(b[tail:]); got != want {
		return fmt.Errorf("extent tree: %w: block %d has checksum %08x, its content %08x", ErrDamaged, block, want, got)
	}
	return nil
}

// blockMap reads the map of ext2 and ext3: twelve blocks, then one each of blocks of blocks of depth 1, 2 and 3.
func (f *FS) blockMap(i *Inode, area []byte) (extents []extent, nodes uint64, err error) {
	m := &mapWalk{f: f, inode: i.Number, seen: map[uint64]bool{}}
	m.last = uint64((i.Size + f.s.blockSize - 1) / f.s.blockSize)
	err = m.blocks(area[:12*4], 0)
	for depth := 1; depth <= 3 && err == nil; depth++ {
		err = m.blocks(area[(11+depth)*4:(12+depth)*4], depth)
	}
	return m.extents, uint64(len(m.seen)), err
}

type mapWalk struct {
	f       *FS
	inode   uint32
	seen    map[uint64]bool // indirect blocks
	extents []extent
	next    uint64 // the logical block that comes
	last    uint64 // the first that is beyond the file's size
	total   uint64 // blocks with content: no file has more than the filesystem
}

// blocks reads a list of block numbers, each standing for a tree of a depth.
func (m *mapWalk) blocks(list []byte, depth int) error {
	perBlock := uint64(m.f.s.blockSize / 4)
	for ; len(list) > 0 && m.next < m.last; list = list[4:] {
		n := uint64(binary.LittleEndian.Uint32(list))
		span := uint64(1)
		for range depth {
			span *= perBlock
		}
		switch {
		case n == 0:
			m.next += span
		case n >= m.f.s.blocks:
			return fmt.Errorf("block map: %w: block %d of %d", ErrDamaged, n, m.f.s.blocks)
		case depth > 0:
			if m.seen[n] {
				return fmt.Errorf("block map: %w: block %d twice", ErrDamaged, n)
			}
			m.seen[n] = true
			if err := m.f.claim(n, m.inode); err != nil {
				return fmt.Errorf("block map: %w", err)
			}
			b, err := m.f.block(n)
			if err != nil {
				return fmt.Errorf("block map: %w", err)
			}
			if err := m.blocks(b, depth-1); err != nil {
				return err
			}
		default:
			if m.total++; m.total > m.f.s.blocks {
				return fmt.Errorf("block map: %w: more than the %d blocks there are", ErrDamaged, m.f.s.blocks)
			}
			if m.put(n); len(m.extents) > mostExtents {
				return fmt.Errorf("block map: %w: more than %d pieces", ErrFeature, mostExtents)
			}
		}
	}
	return nil
}

func (m *mapWalk) put(physical uint64) {
	if k := len(m.extents) - 1; k >= 0 && m.extents[k].logical+m.extents[k].length == m.next &&
		m.extents[k].physical+m.extents[k].length == physical {
		m.extents[k].length++
	} else {
		m.extents = append(m.extents, extent{m.next, physical, 1})
	}
	m.next++
}
