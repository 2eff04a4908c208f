// Package ext4 reads ext2, ext3 and ext4 filesystems from outside, without mounting and without root. Whoever wrote the
// filesystem may have meant harm: every number of it is checked before it is used, memory and time are bounded by the
// size of the image, and what is damaged is told of where it is while the rest is read on.
//
// A filesystem that was not unmounted is seen as the kernel would after its recovery: what the journal holds is laid
// over the blocks, in memory. Make writes a new filesystem with directories and files in it. What it deliberately does
// not do: change a filesystem, repair, or decrypt; fast commits, which mke2fs does not switch on, are not laid over,
// which Info tells.
//
// The format is that of the kernel's Documentation/filesystems/ext4.
package ext4

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"sync"

	"rempart/builder/disk"
)

// FS is a filesystem. It is safe for concurrent use as far as its image is.
type FS struct {
	image   io.ReaderAt
	s       super
	overlay map[uint64]replayed // by block: what the journal has newer
	info    Info

	mu    sync.Mutex
	nodes map[uint64]uint32 // by block of an extent tree or block map: the inode it is of
}

// claim says that a block holds a part of the tree that says where an inode's blocks are. It is of one inode only: were
// it not, files that share one large tree would make reading them all quadratic.
func (f *FS) claim(block uint64, inode uint32) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if of, taken := f.nodes[block]; taken && of != inode {
		return fmt.Errorf("%w: block %d is of inode %d too", ErrDamaged, block, of)
	}
	if f.nodes == nil {
		f.nodes = map[uint64]uint32{}
	}
	f.nodes[block] = inode
	return nil
}

// Info is what a filesystem says of itself.
type Info struct {
	UUID      [16]byte
	Label     string
	BlockSize int64  // bytes
	Blocks    uint64 // of the filesystem; the image may be larger
	Inodes    uint32
	// Clean: it was unmounted, or never mounted writable; otherwise the journal was laid over it.
	Clean bool
	// Transactions are those of the journal that were laid over.
	Transactions int
	// Errors: the kernel has found errors in it (EXT4_ERROR_FS).
	Errors bool
	// FastCommits are switched on: what they hold is missing here.
	FastCommits bool
}

const stateErrors = 0x2 // EXT4_ERROR_FS

// Length is how many bytes the filesystem that begins at the first byte of an image says it takes; the image may have
// fewer. Errors are as those of Open.
func Length(image io.ReaderAt) (int64, error) {
	b := make([]byte, superSize)
	if _, err := image.ReadAt(b, superOffset); errors.Is(err, io.EOF) {
		return 0, fmt.Errorf("%w: it is too short", ErrNotExt4)
	} else if err != nil {
		return 0, fmt.Errorf("superblock: %w", err)
	}
	s, err := parseSuper(b, math.MaxInt64)
	return int64(s.blocks) * s.blockSize, err // which parseSuper has seen to fit
}

// Open reads the superblock and the journal of the filesystem that begins at the first byte of an image of size bytes.
// Errors wrap ErrNotExt4, ErrFeature or ErrDamaged, or are the image's own.
func Open(image io.ReaderAt, size int64) (*FS, error) {
	if size < superOffset+superSize {
		return nil, fmt.Errorf("%w: %d bytes", ErrNotExt4, size)
	}
	b := make([]byte, superSize)
	if _, err := image.ReadAt(b, superOffset); err != nil {
		return nil, fmt.Errorf("superblock: %w", err)
	}
	s, err := parseSuper(b, size)
	if err != nil {
		return nil, err
	}
	f := &FS{image: image, s: s}
	f.info = Info{UUID: s.uuid, Label: s.label, BlockSize: s.blockSize, Blocks: s.blocks, Inodes: s.inodes, Clean: true,
		Errors: s.state&stateErrors != 0}
	if s.compat&compatJournal == 0 || s.journalInode == 0 {
		return f, nil
	}
	if err := f.replay(); err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	if _, renewed := f.overlay[superOffset/uint64(s.blockSize)]; renewed {
		// A transaction may have grown the filesystem, by which everything else is found.
		if err := f.readAt(b, superOffset); err != nil {
			return nil, fmt.Errorf("superblock: %w", err)
		}
		if f.s, err = parseSuper(b, size); err != nil {
			return nil, err
		}
		f.info.Blocks, f.info.Inodes = f.s.blocks, f.s.inodes
	}
	return f, nil
}

// Info is what the filesystem says of itself.
func (f *FS) Info() Info { return f.info }

// readAt reads bytes of the filesystem, as far as the journal has them from there. They must lie within it.
func (f *FS) readAt(b []byte, off int64) error {
	if off < 0 || off > int64(f.s.blocks)*f.s.blockSize-int64(len(b)) {
		return fmt.Errorf("%w: offset %d is beyond the end", ErrDamaged, off)
	}
	if len(f.overlay) == 0 {
		return readFull(f.image, b, off)
	}
	for len(b) > 0 {
		block, within := uint64(off/f.s.blockSize), off%f.s.blockSize
		n := min(int64(len(b)), f.s.blockSize-within)
		var err error
		if r, ok := f.overlay[block]; ok {
			err = r.readAt(f.image, b[:n], within)
		} else {
			err = readFull(f.image, b[:n], off)
		}
		if err != nil {
			return err
		}
		b, off = b[n:], off+n
	}
	return nil
}

// readFull reads all of b, the end of the image included.
func readFull(image io.ReaderAt, b []byte, off int64) error {
	err := disk.ReadFull(image, b, off)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: the image ends: %w", ErrDamaged, err)
	}
	return err
}

// block reads a whole block.
func (f *FS) block(n uint64) ([]byte, error) {
	if n == 0 || n >= f.s.blocks {
		return nil, fmt.Errorf("%w: block %d of %d", ErrDamaged, n, f.s.blocks)
	}
	b := make([]byte, f.s.blockSize)
	return b, f.readAt(b, int64(n)*f.s.blockSize)
}

// inodeTable is the first block of a group's inodes.
func (f *FS) inodeTable(group uint32) (uint64, error) {
	b := make([]byte, f.s.descriptorSize)
	if err := f.readAt(b, f.s.descriptorAt(group)); err != nil {
		return 0, fmt.Errorf("descriptor of group %d: %w", group, err)
	}
	le := binary.LittleEndian
	if f.s.csum {
		if got, want := f.descriptorSum(group, b), le.Uint16(b[0x1e:]); got != want {
			return 0, fmt.Errorf("descriptor of group %d: %w: checksum %04x, its content has %04x", group, ErrDamaged, want,
				got)
		}
	}
	table := uint64(le.Uint32(b[0x8:]))
	if f.s.incompat&incompat64Bit != 0 {
		table |= uint64(le.Uint32(b[0x28:])) << 32
	}
	return table, nil
}

// descriptorSum is a group descriptor's checksum (group_descr.rst): of the group's number, and the descriptor with the
// checksum as zero.
func (f *FS) descriptorSum(group uint32, b []byte) uint16 {
	sum := crc32c(f.s.seed, binary.LittleEndian.AppendUint32(nil, group))
	sum = crc32c(sum, b[:0x1e])
	sum = crc32c(sum, []byte{0, 0})
	return uint16(crc32c(sum, b[0x20:]))
}

// Usage is the size of the filesystem and how much of it is not free, in bytes, as its superblock says.
func (f *FS) Usage() (size, used int64, err error) {
	b := make([]byte, superSize)
	if err := f.readAt(b, superOffset); err != nil {
		return 0, 0, fmt.Errorf("superblock: %w", err)
	}
	free := uint64(binary.LittleEndian.Uint32(b[0xc:]))
	if f.s.incompat&incompat64Bit != 0 {
		free |= uint64(binary.LittleEndian.Uint32(b[0x158:])) << 32
	}
	if free > f.s.blocks {
		return 0, 0, fmt.Errorf("superblock: %w: %d blocks free of %d", ErrDamaged, free, f.s.blocks)
	}
	return int64(f.s.blocks) * f.s.blockSize, int64(f.s.blocks-free) * f.s.blockSize, nil
}
