package state

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"

	"rempart/firstboot/contract"
)

// Role is what a disk is for. The zero value is that of the state disk.
type Role struct {
	What  string // for messages; empty: "state disk"
	Label string // of a filesystem that is made, 16 bytes at most; empty: contract.StateLabel
	// Refuses says what is wrong with the label of a filesystem, for people; empty: nothing. nil: it must be Label.
	Refuses func(label string) string
	// Keep has nothing written to the disk: it is neither formatted nor checked.
	Keep bool
}

func (role Role) what() string  { return cmp.Or(role.What, "state disk") }
func (role Role) label() string { return cmp.Or(role.Label, contract.StateLabel) }

func (role Role) refuses(label string) string {
	switch {
	case role.Refuses != nil:
		return role.Refuses(label)
	case label != role.label():
		return fmt.Sprintf("wanted %q", role.label())
	}
	return ""
}

// Kind is what a disk carries.
type Kind string

// The kinds. Only Blank and Interrupted disks are ever formatted.
const (
	Blank       Kind = "blank"       // nothing but zeros where signatures live
	Interrupted Kind = "interrupted" // our own format of it was cut short
	Ours        Kind = "ours"        // ext4 with a label that the role of the disk allows
	Foreign     Kind = "foreign"     // anything else
)

// Found is what Probe saw.
type Found struct {
	Kind Kind
	What string // for Foreign: what it looks like, for people
	Way  string // for Foreign: what to do about it, where that is not to take another disk or to clear this one
	// Of the filesystem, for Ours.
	BlockSize int64 // bytes
	Blocks    int64
	Errors    bool // the kernel marked it as having errors, or it was not unmounted and has no journal to replay
}

// window is how much of a disk's beginning and end must be zero for the disk to be blank.
const window = contract.BlankWindow

// MinSize is the smallest disk that is formatted, in bytes.
const MinSize = contract.LeastDisk

// The marker stands at both ends of a disk while it is being formatted. mke2fs writes its superblock last, so a power
// cut before leaves neither a blank disk nor an ext4. It also clears the boot block, bytes 0 to 1023, unless that holds
// a BSD disk label (misc/mke2fs.c zap_sector): so the marker carries the label's magic, stays where it is through the
// whole format, and is found again when the disk has been made larger or smaller before the next boot. The one at the
// end lies outside the filesystem, should another mke2fs clear the first.
const (
	marker     = contract.FormatMark
	markerID   = 32                 // offset of the UUID the filesystem will have: 16 bytes
	bsdLabel   = 64                 // BSD_LABEL_OFFSET
	bsdMagic   = "\x57\x45\x56\x82" // BSD_DISKMAGIC, little-endian
	bootBlock  = 1024
	tail       = window // bytes kept free of the filesystem at the end of the disk
	markerSize = 4096   // the block at the end, the rest zero
)

// newMarker makes the boot block of a disk that is being formatted.
func newMarker(id [16]byte) []byte {
	b := make([]byte, bootBlock)
	copy(b, marker)
	copy(b[markerID:], id[:])
	copy(b[bsdLabel:], bsdMagic)
	return b
}

// ext4 superblock; fs/ext4/ext4.h struct ext4_super_block, Documentation/filesystems/ext4/super.rst.
const (
	superOffset    = 1024
	superSize      = 1024
	superMagic     = 0xEF53
	atBlocksLow    = 0x04
	atLogBlockSize = 0x18
	atMounted      = 0x2C // time of the last mount
	atMagic        = 0x38
	atState        = 0x3A
	atCompat       = 0x5C
	atIncompat     = 0x60
	atUUID         = 0x68
	atLabel        = 0x78
	labelSize      = 16
	atBlocksHigh   = 0x150
	stateValid     = 0x1 // EXT4_VALID_FS
	stateError     = 0x2 // EXT4_ERROR_FS
	compatJournal  = 0x4
	incompatExtent = 0x40
	incompat64     = 0x80
	maxLogBlock    = 6 // 64 KiB
)

// Probe reads the beginning and the end of a disk of size bytes and says what it carries, for a state disk. It reads at
// most twice window and trusts nothing it reads.
func Probe(r io.ReaderAt, size int64) (Found, error) { return Role{}.Probe(r, size) }

// Probe is the same for a disk of this role.
func (role Role) Probe(r io.ReaderAt, size int64) (Found, error) {
	head, err := read(r, 0, min(size, window))
	if err != nil {
		return Found{}, err
	}
	end, err := read(r, max(0, size-window), min(size, window))
	if err != nil {
		return Found{}, err
	}
	// The end first: while a format is on its way what stands at the beginning is its work, as far as that can be.
	if size >= MinSize && isMarker(end) && zero(end[bootBlock:markerSize]) && !isUsed(head) || isInterrupted(head) {
		return Found{Kind: Interrupted}, nil
	}
	if zero(head) && zero(end) {
		return Found{Kind: Blank}, nil
	}
	if f, ok := role.ext(head, size); ok {
		return f, nil
	}
	return Found{Kind: Foreign, What: recognise(head, end)}, nil
}

func read(r io.ReaderAt, off, n int64) ([]byte, error) {
	b := make([]byte, n)
	got, err := r.ReadAt(b, off)
	if int64(got) == n {
		return b, nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return nil, fmt.Errorf("reading %d bytes at %d: %w", n, off, err)
}

func zero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// isMarker tells whether b begins with a boot block as newMarker makes it.
func isMarker(b []byte) bool {
	return len(b) >= markerSize && bytes.Equal(b[:bootBlock], newMarker([16]byte(b[markerID:markerID+16])))
}

// isInterrupted tells whether the beginning of a disk is that of a format cut short: the marker, and behind it nothing
// yet or the superblock of the very filesystem the marker announced, never mounted. Whatever else somebody has made of
// such a disk since, without clearing the marker, is theirs.
func isInterrupted(head []byte) bool {
	if !isMarker(head) || signature(head, bootBlock) != "" {
		return false
	}
	s := head[superOffset : superOffset+superSize]
	return zero(head[superOffset+superSize:markerSize]) && (zero(s) ||
		binary.LittleEndian.Uint16(s[atMagic:]) == superMagic && binary.LittleEndian.Uint32(s[atMounted:]) == 0 &&
			bytes.Equal(s[atUUID:atUUID+16], head[markerID:markerID+16]))
}

// isUsed tells whether the beginning of a disk is that of something no format on its way has there: the mark at its
// end is a leftover then, or part of a file, as somebody's filesystem may reach to the end of a data disk.
func isUsed(head []byte) bool {
	s := head[superOffset : superOffset+superSize]
	return signature(head, 0) != "" || binary.LittleEndian.Uint16(s[atMagic:]) == superMagic &&
		binary.LittleEndian.Uint32(s[atMounted:]) != 0
}

// ext reads an ext2, 3 or 4 superblock. ok is false when there is none.
func (role Role) ext(head []byte, size int64) (f Found, ok bool) {
	if len(head) < superOffset+superSize {
		return f, false
	}
	s := head[superOffset : superOffset+superSize]
	le := binary.LittleEndian
	if le.Uint16(s[atMagic:]) != superMagic {
		return f, false
	}
	label := strings.TrimRight(string(s[atLabel:atLabel+labelSize]), "\x00")
	foreign := func(format string, args ...any) (Found, bool) {
		return Found{Kind: Foreign, What: fmt.Sprintf(format, args...)}, true
	}
	if why := role.refuses(label); why != "" {
		f, ok = foreign("ext2/3/4 with the label %q, %s", label, why)
		if role.Refuses != nil {
			f.Way = "attach the right one, or, if this is it, give its filesystem another label with e2label from the host"
		}
		return f, ok
	}
	if le.Uint32(s[atIncompat:])&incompatExtent == 0 {
		return foreign("ext2 or ext3 with the label %q, wanted ext4", label)
	}
	log := le.Uint32(s[atLogBlockSize:])
	if log > maxLogBlock {
		return foreign("ext4 with a broken superblock: block size 2^%d KiB", log)
	}
	f = Found{Kind: Ours, BlockSize: 1024 << log, Blocks: int64(le.Uint32(s[atBlocksLow:]))}
	if le.Uint32(s[atIncompat:])&incompat64 != 0 {
		f.Blocks |= int64(le.Uint32(s[atBlocksHigh:])&0xffff) << 32
	}
	if f.Blocks == 0 || f.Blocks > size/f.BlockSize {
		f, ok = foreign("ext4 of %d blocks of %d bytes on a disk of %d bytes: the disk was made smaller than its filesystem",
			f.Blocks, f.BlockSize, size)
		f.Way = "make it as large again"
		return f, ok
	}
	flags := le.Uint16(s[atState:])
	f.Errors = flags&stateError != 0 || flags&stateValid == 0 && le.Uint32(s[atCompat:])&compatJournal == 0
	return f, true
}

// known are signatures a person may have put on the disk by mistake, to be named in the message. The list decides
// nothing: what is not on it is foreign all the same. Offsets are from libblkid's superblocks.
var known = []struct {
	offset int
	magic  string
	what   string
}{
	{0, "LUKS\xba\xbe", "LUKS"},
	{512, "LABELONE", "an LVM physical volume"},
	{0, "XFSB", "XFS"},
	{64<<10 + 64, "_BHRfS_M", "btrfs"},
	{4096 - 10, "SWAPSPACE2", "swap"},
	{512, "EFI PART", "a GUID partition table"},
	{1024, "\xe2\xe1\xf5\xe0", "EROFS"},
	{0, "hsqs", "squashfs"},
	{32<<10 + 1, "CD001", "ISO 9660"},
	{3, "NTFS    ", "NTFS"},
	{82, "FAT32   ", "FAT32"},
	{54, "FAT16   ", "FAT16"},
	{54, "FAT12   ", "FAT12"},
	{4096, "\xfc\x4e\x2b\xa9", "a Linux RAID member"},
	{0, "\xfc\x4e\x2b\xa9", "a Linux RAID member"},
	{0, "verity\x00\x00", "a dm-verity hash device"},
	{0, "QFI\xfb", "a qcow2 file attached as if it were raw"},
	{510, "\x55\xaa", "an MBR partition table or boot sector"},
}

// recognise names what a disk that is neither blank nor ours carries, by its beginning and its end.
func recognise(head, end []byte) string {
	if what := signature(head, 0); what != "" {
		return what
	}
	if zero(head) {
		return "data in its last MiB"
	}
	if zero(end) {
		return "data of an unknown kind in its first MiB"
	}
	return "data of an unknown kind"
}

// signature names the known signature that lies in the beginning of a disk, from the given offset on; empty: none.
func signature(head []byte, from int) string {
	for _, k := range known {
		end := k.offset + len(k.magic)
		if k.offset >= from && len(head) >= end && string(head[k.offset:end]) == k.magic {
			return k.what
		}
	}
	return ""
}
