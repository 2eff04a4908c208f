package ext4

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math/bits"
)

// Where the superblock is and its fields (Documentation/filesystems/ext4/super.rst).
const (
	superOffset = 1024
	superSize   = 1024
	magic       = 0xef53
)

// Incompatible features (super.rst): a reader must know every one that is set.
const (
	incompatFiletype   = 0x2
	incompatRecover    = 0x4
	incompatJournalDev = 0x8
	incompatMetaBG     = 0x10
	incompatExtents    = 0x40
	incompat64Bit      = 0x80
	incompatMMP        = 0x100
	incompatFlexBG     = 0x200
	incompatEAInode    = 0x400
	incompatCsumSeed   = 0x2000
	incompatLargeDir   = 0x4000
	incompatInline     = 0x8000
	incompatCasefold   = 0x20000

	incompatKnown = incompatFiletype | incompatRecover | incompatMetaBG | incompatExtents | incompat64Bit |
		incompatMMP | incompatFlexBG | incompatEAInode | incompatCsumSeed | incompatLargeDir | incompatInline |
		incompatCasefold
)

// Features that change what is read.
const (
	compatJournal    = 0x4
	compatOrphanFile = 0x1000
	roCompatGDTCsum  = 0x10
	roCompatSparse   = 0x1
	roCompatMetaCsum = 0x400
	roCompatBigalloc = 0x200
	firstInodeFixed  = 11 // of revision 0
	inodeSizeFixed   = 128
	leastDescriptor  = 32
	mostDescriptor   = 1024 // what mke2fs could ever write is 64
)

// Bounds on what is believed. A block is 1 to 64 KiB; the filesystem is no larger than its image.
const (
	mostLogBlock = 6
)

// Kinds of errors, for errors.Is.
var (
	// ErrNotExt4 is told of bytes that are no ext2, ext3 or ext4 filesystem at all.
	ErrNotExt4 = errors.New("no ext4 filesystem")
	// ErrFeature is told of a filesystem that is one but uses something this reader does not know.
	ErrFeature = errors.New("feature of ext4 that cannot be read")
	// ErrDamaged is told of structures that cannot be what a kernel wrote.
	ErrDamaged = errors.New("damaged")
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// crc32c continues a checksum as the kernel does: without the inversions of the usual one.
func crc32c(seed uint32, b []byte) uint32 { return ^crc32.Update(^seed, castagnoli, b) }

// super is what is used of a superblock.
type super struct {
	inodes, inodesPerGroup uint32
	blocks                 uint64
	firstBlock             uint64
	blocksPerGroup         uint32
	blockSize              int64
	inodeSize              int
	descriptorSize         int
	firstInode             uint32
	compat, incompat, ro   uint32
	firstMetaBG            uint32
	journalInode           uint32
	orphanInode            uint32 // the file with the list of files without names; 0: there is none
	groups                 uint32
	seed                   uint32 // of the checksums of metadata
	csum                   bool
	uuid                   [16]byte
	label                  string
	state                  uint16
}

// parseSuper reads a superblock of a filesystem in an image of size bytes.
func parseSuper(b []byte, size int64) (s super, err error) {
	le := binary.LittleEndian
	if le.Uint16(b[0x38:]) != magic {
		return s, fmt.Errorf("%w: no magic number", ErrNotExt4)
	}
	s = super{inodes: le.Uint32(b), blocks: uint64(le.Uint32(b[0x4:])), firstBlock: uint64(le.Uint32(b[0x14:])),
		blocksPerGroup: le.Uint32(b[0x20:]), inodesPerGroup: le.Uint32(b[0x28:]), state: le.Uint16(b[0x3a:]),
		inodeSize: inodeSizeFixed, firstInode: firstInodeFixed, descriptorSize: leastDescriptor}
	copy(s.uuid[:], b[0x68:])
	label := b[0x78:0x88]
	for i, c := range label {
		if c == 0 {
			label = label[:i]
			break
		}
	}
	s.label = string(label)
	if le.Uint32(b[0x4c:]) >= 1 { // revision
		s.firstInode, s.inodeSize = le.Uint32(b[0x54:]), int(le.Uint16(b[0x58:]))
		s.compat, s.incompat, s.ro = le.Uint32(b[0x5c:]), le.Uint32(b[0x60:]), le.Uint32(b[0x64:])
		s.journalInode = le.Uint32(b[0xe0:])
		s.firstMetaBG = le.Uint32(b[0x104:])
		if s.compat&compatOrphanFile != 0 {
			s.orphanInode = le.Uint32(b[0x280:])
		}
	}
	switch unknown := s.incompat &^ incompatKnown; {
	case s.incompat&incompatJournalDev != 0:
		return s, fmt.Errorf("%w: it is the journal of another filesystem", ErrFeature)
	case unknown != 0:
		return s, fmt.Errorf("%w: incompatible features %#x", ErrFeature, unknown)
	}
	if s.incompat&incompat64Bit != 0 {
		s.blocks |= uint64(le.Uint32(b[0x150:])) << 32
		s.descriptorSize = int(le.Uint16(b[0xfe:]))
	}
	bad := func(what string, value any) (super, error) {
		return s, fmt.Errorf("superblock: %w: %s %v", ErrDamaged, what, value)
	}
	log := le.Uint32(b[0x18:])
	if log > mostLogBlock {
		return bad("block size of 2 to the power of", log+10)
	}
	s.blockSize = 1024 << log
	switch {
	case s.inodeSize < inodeSizeFixed || int64(s.inodeSize) > s.blockSize || bits.OnesCount(uint(s.inodeSize)) != 1:
		return bad("inode size", s.inodeSize)
	case s.descriptorSize < leastDescriptor || s.descriptorSize > mostDescriptor ||
		int64(s.descriptorSize) > s.blockSize || bits.OnesCount(uint(s.descriptorSize)) != 1 ||
		s.incompat&incompat64Bit != 0 && s.descriptorSize < 64:
		return bad("group descriptor size", s.descriptorSize)
	case s.blocksPerGroup == 0 || s.ro&roCompatBigalloc == 0 && int64(s.blocksPerGroup) > 8*s.blockSize:
		return bad("blocks in a group:", s.blocksPerGroup)
	case s.inodesPerGroup == 0 || int64(s.inodesPerGroup) > 8*s.blockSize:
		return bad("inodes in a group:", s.inodesPerGroup)
	case s.firstBlock > 1 || s.firstBlock >= s.blocks:
		return bad("first block", s.firstBlock)
	case s.blocks > uint64(size/s.blockSize):
		return bad("number of blocks", fmt.Sprintf("%d in an image of %d", s.blocks, size/s.blockSize))
	}
	groups := (s.blocks - s.firstBlock + uint64(s.blocksPerGroup) - 1) / uint64(s.blocksPerGroup)
	// Every inode has its place in a table: were more believed, groups could share one and reading all would have no end.
	if groups > 1<<31 || groups*uint64(s.inodesPerGroup) < uint64(s.inodes) || s.inodes < firstInodeFixed ||
		uint64(s.inodes)*uint64(s.inodeSize) > s.blocks*uint64(s.blockSize) {
		return bad("number of inodes", s.inodes)
	}
	s.groups = uint32(groups)
	s.csum = s.ro&roCompatMetaCsum != 0
	if s.csum {
		if got := crc32c(^uint32(0), b[:0x3fc]); got != le.Uint32(b[0x3fc:]) {
			return bad("checksum", fmt.Sprintf("%08x, its content has %08x", le.Uint32(b[0x3fc:]), got))
		}
		s.seed = crc32c(^uint32(0), s.uuid[:])
	}
	if s.incompat&incompatCsumSeed != 0 {
		s.seed = le.Uint32(b[0x270:])
	}
	return s, nil
}

// hasBackup tells whether a group begins with a copy of the superblock (super.rst, sparse_super): groups 0, 1 and the
// powers of 3, 5 and 7.
func (s *super) hasBackup(group uint32) bool {
	if group <= 1 || s.ro&roCompatSparse == 0 {
		return true
	}
	for _, base := range []uint32{3, 5, 7} {
		for n := uint64(base); n <= uint64(group); n *= uint64(base) {
			if n == uint64(group) {
				return true
			}
		}
	}
	return false
}

// descriptorAt is the offset in bytes of a group's descriptor (Documentation/filesystems/ext4/group_descr.rst and
// blockgroup.rst for meta block groups).
func (s *super) descriptorAt(group uint32) int64 {
	perBlock := uint32(s.blockSize) / uint32(s.descriptorSize)
	block, within := group/perBlock, int64(group%perBlock)*int64(s.descriptorSize)
	if s.incompat&incompatMetaBG == 0 || block < s.firstMetaBG {
		return (superOffset/s.blockSize+1+int64(block))*s.blockSize + within
	}
	first := block * perBlock
	at := int64(s.firstBlock) + int64(first)*int64(s.blocksPerGroup)
	if s.hasBackup(first) {
		at++
	}
	if first == 0 && s.blockSize == superOffset && s.firstBlock == 0 {
		at++ // clusters of blocks of 1 KiB: block 0 is the boot sector's
	}
	return at*s.blockSize + within
}
