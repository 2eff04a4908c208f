package ext4

import (
	"encoding/binary"
	"fmt"
	"io/fs"
	"time"
)

// Inodes with a meaning.
const (
	RootInode = 2
)

// Inode flags (Documentation/filesystems/ext4/inodes.rst).
const (
	FlagImmutable = 0x10
	FlagAppend    = 0x20
	flagEncrypt   = 0x800
	flagExtents   = 0x80000
	flagEAInode   = 0x200000
	flagInline    = 0x10000000
)

// Sizes within an inode.
const (
	blockArea    = 0x28 // where the block map, extents, or inline data begin
	blockAreaLen = 60
	isizeAt      = 0x80
)

// Inode is a file of any kind.
type Inode struct {
	Number uint32
	Mode   uint16 // as stat(2) has it: type and permissions
	UID    uint32
	GID    uint32
	Size   int64 // bytes
	Links  uint16
	Flags  uint32
	// Blocks are the 512-byte units it takes.
	Blocks uint64
	// Times; zero: none. Changed is that of the inode itself, Born of its creation, zero in small inodes.
	Accessed, Modified, Changed, Born time.Time
	// Deleted: nothing leads to it any more.
	Deleted bool
	// Device of a device node.
	Major, Minor uint32

	raw []byte // all of it
}

// Types of Inode.Mode (stat(2)).
const (
	typeMask   = 0xf000
	typeFIFO   = 0x1000
	typeChar   = 0x2000
	typeDir    = 0x4000
	typeBlock  = 0x6000
	typeFile   = 0x8000
	typeLink   = 0xa000
	typeSocket = 0xc000
)

// FileMode is the inode's type and permissions as Go has them.
func (i *Inode) FileMode() fs.FileMode {
	m := fs.FileMode(i.Mode & 0o777)
	for bit, mode := range map[uint16]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if i.Mode&bit != 0 {
			m |= mode
		}
	}
	switch i.Mode & typeMask {
	case typeFile:
	case typeDir:
		m |= fs.ModeDir
	case typeLink:
		m |= fs.ModeSymlink
	case typeFIFO:
		m |= fs.ModeNamedPipe
	case typeSocket:
		m |= fs.ModeSocket
	case typeChar:
		m |= fs.ModeDevice | fs.ModeCharDevice
	case typeBlock:
		m |= fs.ModeDevice
	default:
		m |= fs.ModeIrregular
	}
	return m
}

// Inode reads an inode by its number. That a checksum is wrong is an error.
func (f *FS) Inode(number uint32) (*Inode, error) {
	if number == 0 || number > f.s.inodes {
		return nil, fmt.Errorf("inode %d: %w: there are %d", number, ErrDamaged, f.s.inodes)
	}
	table, err := f.inodeTable((number - 1) / f.s.inodesPerGroup)
	if err != nil {
		return nil, fmt.Errorf("inode %d: %w", number, err)
	}
	raw := make([]byte, f.s.inodeSize)
	if table == 0 || table >= f.s.blocks {
		return nil, fmt.Errorf("inode %d: %w: its table is at block %d", number, ErrDamaged, table)
	}
	at := int64(table)*f.s.blockSize + int64((number-1)%f.s.inodesPerGroup)*int64(f.s.inodeSize)
	if err := f.readAt(raw, at); err != nil {
		return nil, fmt.Errorf("inode %d: %w", number, err)
	}
	i := parseInode(number, raw)
	if f.s.csum {
		if want, got := i.sum(), f.inodeSum(i); want != got {
			return nil, fmt.Errorf("inode %d: %w: checksum %08x, its content has %08x", number, ErrDamaged, want, got)
		}
	}
	if i.Size < 0 {
		return nil, fmt.Errorf("inode %d: %w: size %d", number, ErrDamaged, uint64(i.Size))
	}
	return i, nil
}

func parseInode(number uint32, b []byte) *Inode {
	le := binary.LittleEndian
	i := &Inode{Number: number, Mode: le.Uint16(b), UID: uint32(le.Uint16(b[0x2:])) | uint32(le.Uint16(b[0x78:]))<<16,
		GID: uint32(le.Uint16(b[0x18:])) | uint32(le.Uint16(b[0x7a:]))<<16, Links: le.Uint16(b[0x1a:]),
		Flags: le.Uint32(b[0x20:]), Size: int64(uint64(le.Uint32(b[0x4:])) | uint64(le.Uint32(b[0x6c:]))<<32),
		Blocks: uint64(le.Uint32(b[0x1c:])) | uint64(le.Uint16(b[0x74:]))<<32, raw: b}
	i.Deleted = le.Uint32(b[0x14:]) != 0 && i.Links == 0
	i.Accessed, i.Changed, i.Modified = i.time(0x8, 0x8c), i.time(0xc, 0x84), i.time(0x10, 0x88)
	if i.extra() >= 0x94-isizeAt+4 {
		i.Born = i.time(0x90, 0x94)
	}
	if t := i.Mode & typeMask; t == typeChar || t == typeBlock {
		// i_block[0] has the old numbers, [1] the new ones (fs/ext4/inode.c, old_decode_dev and new_decode_dev).
		if old := le.Uint32(b[blockArea:]); old != 0 {
			i.Major, i.Minor = old>>8&0xff, old&0xff
		} else {
			dev := le.Uint32(b[blockArea+4:])
			i.Major, i.Minor = dev>>8&0xfff, dev&0xff|dev>>12&0xfff00
		}
	}
	return i
}

// extra is how many bytes of the inode beyond the first 128 hold fields.
func (i *Inode) extra() int {
	if len(i.raw) <= isizeAt {
		return 0
	}
	n := int(binary.LittleEndian.Uint16(i.raw[isizeAt:]))
	if n > len(i.raw)-isizeAt || n%4 != 0 {
		return 0
	}
	return n
}

// time reads a time whose seconds are at one place and the rest, if it is there, at another (inodes.rst, Inode
// Timestamps): two bits of seconds, thirty of nanoseconds.
func (i *Inode) time(at, rest int) time.Time {
	seconds := int64(int32(binary.LittleEndian.Uint32(i.raw[at:])))
	var nano int64
	if i.extra() >= rest-isizeAt+4 {
		e := binary.LittleEndian.Uint32(i.raw[rest:])
		seconds += int64(e&3) << 32
		nano = int64(e >> 2)
	}
	if seconds == 0 && nano == 0 {
		return time.Time{}
	}
	return time.Unix(seconds, min(nano, 999999999)).UTC()
}

// sum is the checksum the inode has of itself.
func (i *Inode) sum() uint32 {
	sum := uint32(binary.LittleEndian.Uint16(i.raw[0x7c:]))
	if i.extra() >= 4 {
		sum |= uint32(binary.LittleEndian.Uint16(i.raw[0x82:])) << 16
	}
	return sum
}

// inodeSum is what the inode's checksum should be: of its number, generation, and content with the checksum as zero.
func (f *FS) inodeSum(i *Inode) uint32 {
	b := append([]byte(nil), i.raw...)
	b[0x7c], b[0x7d] = 0, 0
	if i.extra() >= 4 {
		b[0x82], b[0x83] = 0, 0
	}
	sum := crc32c(f.inodeSeed(i), b)
	if i.extra() < 4 {
		sum &= 0xffff
	}
	return sum
}

// inodeSeed begins the checksums of an inode and of the blocks of its own metadata.
func (f *FS) inodeSeed(i *Inode) uint32 {
	sum := crc32c(f.s.seed, binary.LittleEndian.AppendUint32(nil, i.Number))
	return crc32c(sum, i.raw[0x64:0x68])
}
