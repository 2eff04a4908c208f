package ext4

import (
	"encoding/binary"
	"fmt"
	"io"
	"sort"
)

// The journal (Documentation/filesystems/ext4/journal.rst). Its numbers are big-endian.
const (
	journalMagic  = 0xc03b3998
	journalHeader = 12

	blockDescriptor = 1
	blockCommit     = 2
	blockSuper1     = 3
	blockSuper2     = 4
	blockRevoke     = 5

	journalRevoke     = 0x1
	journal64Bit      = 0x2
	journalAsync      = 0x4
	journalCsum2      = 0x8
	journalCsum3      = 0x10
	journalFastCommit = 0x20
	journalKnown      = journalRevoke | journal64Bit | journalAsync | journalCsum2 | journalCsum3 | journalFastCommit

	tagEscaped = 1
	tagSame    = 2
	tagLast    = 8

	revokeHeader = 16
	sumTail      = 4  // bytes of checksum behind descriptors and revokes
	commitSum    = 16 // where a commit has its checksum
)

// replayed is a block that the journal has newer.
type replayed struct {
	offset  int64 // in the image
	escaped bool  // its first four bytes are the journal's magic number, and zero where they lie
}

func (r replayed) readAt(image io.ReaderAt, b []byte, within int64) error {
	if err := readFull(image, b, r.offset+within); err != nil {
		return err
	}
	if r.escaped {
		var start [4]byte
		binary.BigEndian.PutUint32(start[:], journalMagic)
		if within < 4 {
			copy(b, start[within:])
		}
	}
	return nil
}

// journal reads the log.
type journal struct {
	f           *FS
	file        *File
	first, last uint32 // blocks of the log: first to last-1, around
	start       uint32 // block of the first transaction
	sequence    uint32 // its number
	end         uint32 // that of the first transaction that is not part of it
	incompat    uint32
	seed        uint32
	position    uint32 // of the descriptor whose tags are read
}

// replay finds what the log has newer than the filesystem, as the kernel's recovery would: the blocks of all complete
// transactions, but those that a later one revokes.
func (f *FS) replay() error {
	i, err := f.Inode(f.s.journalInode)
	if err != nil {
		return err
	}
	if i.Mode&typeMask != typeFile {
		return fmt.Errorf("%w: inode %d is no file", ErrDamaged, i.Number)
	}
	file, err := f.Open(i)
	if err != nil {
		return err
	}
	j := &journal{f: f, file: file}
	if ok, err := j.super(); !ok || err != nil {
		return err
	}
	if f.s.incompat&incompatRecover == 0 {
		return nil // as the kernel's: the flag decides, and the superblock of the journal is what a crash leaves behind
	}
	f.info.Clean = false
	j.end = j.sequence - 1 // no bound: the log ends before as many
	end, err := j.walk(func(uint32, uint32, []byte) error { return nil })
	if err != nil {
		return err
	}
	j.end = end
	f.info.Transactions = int(end - j.sequence)
	revoked := map[uint64]uint32{}
	_, err = j.walk(func(kind, sequence uint32, b []byte) error {
		if kind == blockRevoke {
			return j.revokes(b, func(block uint64) {
				if block < f.s.blocks { // others are never asked for, and there may be more of them than memory has room for
					revoked[block] = sequence
				}
			})
		}
		return nil
	})
	if err != nil {
		return err
	}
	overlay := map[uint64]replayed{}
	_, err = j.walk(func(kind, sequence uint32, b []byte) error {
		if kind != blockDescriptor {
			return nil
		}
		_, err := j.tags(b, func(block uint64, flags, sum, at uint32) error {
			if r, ok := revoked[block]; ok && int32(r-sequence) >= 0 {
				return nil
			}
			if block >= f.s.blocks {
				return fmt.Errorf("%w: it has a block %d of %d", ErrDamaged, block, f.s.blocks)
			}
			offset, err := j.offset(at)
			if err != nil {
				return err
			}
			whole, err := j.dataHolds(offset, sequence, sum)
			if whole {
				overlay[block] = replayed{offset, flags&tagEscaped != 0}
			}
			return err
		})
		return err
	})
	f.overlay = overlay
	return err
}

// super reads the journal's own superblock; ok is false when the log is empty.
func (j *journal) super() (ok bool, err error) {
	b := make([]byte, superSize)
	if _, err := j.file.ReadAt(b, 0); err != nil {
		return false, err
	}
	be := binary.BigEndian
	kind := be.Uint32(b[4:])
	if be.Uint32(b) != journalMagic || kind != blockSuper1 && kind != blockSuper2 {
		return false, fmt.Errorf("%w: no superblock", ErrDamaged)
	}
	size, length := int64(be.Uint32(b[12:])), be.Uint32(b[16:])
	j.first, j.last = be.Uint32(b[20:]), length
	j.sequence, j.start = be.Uint32(b[24:]), be.Uint32(b[28:])
	if kind == blockSuper2 {
		j.incompat = be.Uint32(b[40:])
	}
	switch unknown := j.incompat &^ journalKnown; {
	case unknown != 0:
		return false, fmt.Errorf("%w: incompatible features %#x", ErrFeature, unknown)
	case size != j.f.s.blockSize || int64(length) > j.file.Size()/size || j.first == 0 || j.first >= j.last ||
		j.start != 0 && (j.start < j.first || j.start >= j.last):
		return false, fmt.Errorf("%w: %d blocks of %d, from %d on, log at %d", ErrDamaged, length, size, j.first, j.start)
	}
	if j.incompat&journalFastCommit != 0 {
		j.f.info.FastCommits = true
		fast := be.Uint32(b[0x54:])
		if fast == 0 {
			fast = 256 // JBD2_DEFAULT_FAST_COMMIT_BLOCKS
		}
		if fast >= j.last-j.first || j.start >= j.last-fast {
			return false, fmt.Errorf("%w: %d blocks for fast commits", ErrDamaged, fast)
		}
		j.last -= fast
	}
	if j.summed() {
		seed := append([]byte(nil), b[:0xfc]...)
		seed = append(append(seed, 0, 0, 0, 0), b[0x100:]...)
		if got, want := crc32c(^uint32(0), seed), be.Uint32(b[0xfc:]); got != want {
			return false, fmt.Errorf("%w: its superblock has checksum %08x, its content %08x", ErrDamaged, want, got)
		}
		j.seed = crc32c(^uint32(0), b[0x30:0x40])
	}
	return j.start != 0, nil
}

func (j *journal) summed() bool { return j.incompat&(journalCsum2|journalCsum3) != 0 }

// offset is where a block of the log lies in the image.
func (j *journal) offset(block uint32) (int64, error) {
	n, all := uint64(block), j.file.extents
	at := sort.Search(len(all), func(i int) bool { return all[i].logical+all[i].length > n })
	if at < len(all) && n >= all[at].logical && all[at].physical != 0 {
		return int64(all[at].physical+n-all[at].logical) * j.f.s.blockSize, nil
	}
	return 0, fmt.Errorf("%w: the log has no block %d", ErrDamaged, block)
}

func (j *journal) read(block uint32, b []byte) error {
	offset, err := j.offset(block)
	if err != nil {
		return err
	}
	return readFull(j.f.image, b, offset)
}

func (j *journal) after(block, n uint32) uint32 {
	return j.first + (block-j.first+n)%(j.last-j.first)
}

// walk calls each for the descriptors and revokes of the transactions before end, and returns the number of the first
// that is not complete. What is not the next of the log ends it: that is how a log ends.
func (j *journal) walk(each func(kind, sequence uint32, b []byte) error) (uint32, error) {
	be := binary.BigEndian
	b := make([]byte, j.f.s.blockSize)
	at, sequence := j.start, j.sequence
	for left := j.last - j.first; left > 0; left-- { // no block is part of it twice
		if sequence == j.end {
			break
		}
		if err := j.read(at, b); err != nil {
			return sequence, err
		}
		kind := be.Uint32(b[4:])
		if be.Uint32(b) != journalMagic || be.Uint32(b[8:]) != sequence {
			break
		}
		switch kind {
		case blockDescriptor:
			if !j.tailHolds(b) {
				return sequence, nil
			}
			n, err := j.tags(b, func(uint64, uint32, uint32, uint32) error { return nil })
			if err != nil || n >= left {
				return sequence, err
			}
			j.position = at
			if err := each(kind, sequence, b); err != nil {
				return sequence, err
			}
			at, left = j.after(at, n), left-n
		case blockRevoke:
			if !j.tailHolds(b) {
				return sequence, nil
			}
			if err := each(kind, sequence, b); err != nil {
				return sequence, err
			}
		case blockCommit:
			if !j.commitHolds(b) {
				return sequence, nil
			}
			sequence++
		default:
			return sequence, nil
		}
		at = j.after(at, 1)
	}
	return sequence, nil
}

// tailHolds compares the checksum at the end of a descriptor or a revoke.
func (j *journal) tailHolds(b []byte) bool {
	if !j.summed() {
		return true
	}
	tail := len(b) - sumTail
	sum := crc32c(crc32c(j.seed, b[:tail]), []byte{0, 0, 0, 0})
	return sum == binary.BigEndian.Uint32(b[tail:])
}

// commitHolds compares the checksum of a commit.
func (j *journal) commitHolds(b []byte) bool {
	if !j.summed() {
		return true
	}
	sum := crc32c(crc32c(crc32c(j.seed, b[:commitSum]), []byte{0, 0, 0, 0}), b[commitSum+4:])
	return sum == binary.BigEndian.Uint32(b[commitSum:])
}

// dataHolds compares the checksum of a block of the log, of which older kinds of tags have only half. The kernel leaves
// out one that is wrong, too.
func (j *journal) dataHolds(offset int64, sequence, sum uint32) (bool, error) {
	if !j.summed() {
		return true, nil
	}
	b := make([]byte, j.f.s.blockSize)
	if err := readFull(j.f.image, b, offset); err != nil {
		return false, err
	}
	got := crc32c(crc32c(j.seed, binary.BigEndian.AppendUint32(nil, sequence)), b)
	if j.incompat&journalCsum3 == 0 {
		got &= 0xffff
	}
	return got == sum, nil
}

// tags calls each for the blocks that follow a descriptor, with where in the filesystem each belongs and where in the
// log it lies, and returns how many there are.
func (j *journal) tags(b []byte, each func(block uint64, flags, sum, at uint32) error) (n uint32, err error) {
	be := binary.BigEndian
	size := j.tagSize()
	end := len(b)
	if j.summed() {
		end -= sumTail
	}
	for off := journalHeader; off+size <= end; {
		block, flags, sum := uint64(be.Uint32(b[off:])), uint32(be.Uint16(b[off+6:])), uint32(be.Uint16(b[off+4:]))
		if j.incompat&journalCsum3 != 0 {
			flags, sum = be.Uint32(b[off+4:]), be.Uint32(b[off+12:])
		}
		if j.incompat&journal64Bit != 0 {
			block |= uint64(be.Uint32(b[off+8:])) << 32
		}
		n++
		if n >= j.last-j.first {
			break
		}
		if err := each(block, flags, sum, j.after(j.position, n)); err != nil {
			return n, err
		}
		off += size
		if flags&tagSame == 0 {
			off += 16 // the journal's UUID
		}
		if flags&tagLast != 0 {
			return n, nil
		}
	}
	return n, nil
}

// tagSize is the length of a tag (fs/jbd2/journal.c, journal_tag_bytes).
func (j *journal) tagSize() int {
	if j.incompat&journalCsum3 != 0 {
		return 16
	}
	size := 8
	if j.incompat&journalCsum2 != 0 {
		size += 2
	}
	if j.incompat&journal64Bit != 0 {
		size += 4
	}
	return size
}

// revokes calls each for the blocks that a revoke names.
func (j *journal) revokes(b []byte, each func(block uint64)) error {
	be := binary.BigEndian
	size, end := 4, int(be.Uint32(b[journalHeader:]))
	if j.incompat&journal64Bit != 0 {
		size = 8
	}
	room := len(b)
	if j.summed() {
		room -= sumTail
	}
	if end < revokeHeader || end > room {
		return fmt.Errorf("%w: a revoke of %d bytes", ErrDamaged, end)
	}
	for off := revokeHeader; off+size <= end; off += size {
		if size == 8 {
			each(be.Uint64(b[off:]))
		} else {
			each(uint64(be.Uint32(b[off:])))
		}
	}
	return nil
}
