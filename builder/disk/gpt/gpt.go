// Package gpt encodes the GUID Partition Table of a disk with 512-byte sectors, as the UEFI
// Specification 2.10 chapter 5 defines it: the protective MBR, the two headers and the two arrays of entries.
//
// What it deliberately does not do: place partitions (package disk does), touch a device, or write for disks with
// 4096-byte sectors; and it reads nothing: the guest's own reader, which takes every disk for hostile, is
// rempart/firstboot/gpt. Encode depends on its arguments alone: no GUID is ever made up.
package gpt

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// Sizes of the parts of a table, in bytes. UEFI asks for room for at least 16 KiB of entries.
const (
	SectorSize  = 512
	EntrySize   = 128
	EntryCount  = 128
	EntriesSize = EntryCount * EntrySize
	BootCode    = 440 // bytes of LBA 0 before the disk signature and the protective partition (UEFI 2.10 table 5-1)
	NameUnits   = 36  // UTF-16 code units of a partition's name
)

// First sectors of the parts at the start of a disk, and how much of it the table takes at each end.
const (
	headerLBA       = 1
	entriesLBA      = 2
	entriesSectors  = EntriesSize / SectorSize
	FirstUsableLBA  = entriesLBA + entriesSectors // 34
	sectorsAtTheEnd = entriesSectors + 1          // the backup entries, then the backup header
	// MinSectors is the smallest disk that holds a table and one sector of data.
	MinSectors = FirstUsableLBA + 1 + sectorsAtTheEnd
	// MaxSectors keeps every byte offset inside an int64.
	MaxSectors = 1 << 54
)

// The header (UEFI 2.10 table 5-5).
const (
	signature  = "EFI PART"
	revision   = 0x00010000
	headerSize = 92

	atSignature    = 0
	atRevision     = 8
	atHeaderSize   = 12
	atHeaderCRC    = 16
	atMyLBA        = 24
	atAlternateLBA = 32
	atFirstUsable  = 40
	atLastUsable   = 48
	atDiskGUID     = 56
	atEntriesLBA   = 72
	atEntryCount   = 80
	atEntrySize    = 84
	atEntriesCRC   = 88
)

// An entry (UEFI 2.10 table 5-6).
const (
	atType       = 0
	atGUID       = 16
	atFirst      = 32
	atLast       = 40
	atAttributes = 48
	atName       = 56
)

// The protective MBR (UEFI 2.10 table 5-3 and 5-4).
const (
	mbrPartition  = 446
	mbrProtective = 0xEE
	mbrSignature  = 510
)

// Types of partitions. The Linux ones are from the Discoverable Partitions Specification.
var (
	TypeBIOSBoot  = MustParseGUID("21686148-6449-6e6f-744e-656564454649") // GRUB's core image
	TypeESP       = MustParseGUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b") // EFI system partition
	TypeRootAMD64 = MustParseGUID("4f68bce3-e8cd-4db1-96e7-fbcaf984b709")
	TypeRootARM64 = MustParseGUID("b921b045-1df0-41c3-af44-4c6f280d3fae")
)

// Attributes of a partition (UEFI 2.10 table 5-7; bit 60 from the Discoverable Partitions Specification).
const (
	AttributeRequired = 1 << 0
	AttributeReadOnly = 1 << 60
)

// GUID is a GUID in the order of its text: the first byte is the first two digits. On disk the first three fields
// are little-endian (UEFI 2.10 appendix A). The zero value means unused.
type GUID [16]byte

// ParseGUID reads the usual form, 8-4-4-4-12 hex digits in either case.
func ParseGUID(s string) (GUID, error) {
	var g GUID
	if len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return g, fmt.Errorf("GUID %q: want 8-4-4-4-12 hex digits", s)
	}
	if _, err := hex.Decode(g[:], []byte(s[0:8]+s[9:13]+s[14:18]+s[19:23]+s[24:36])); err != nil {
		return GUID{}, fmt.Errorf("GUID %q: want 8-4-4-4-12 hex digits: %w", s, err)
	}
	return g, nil
}

// MustParseGUID is ParseGUID for constants; it panics on a bad one.
func MustParseGUID(s string) GUID {
	g, err := ParseGUID(s)
	if err != nil {
		panic(err)
	}
	return g
}

// String is the usual form, in lower case.
func (g GUID) String() string {
	h := hex.EncodeToString(g[:])
	return strings.Join([]string{h[0:8], h[8:12], h[12:16], h[16:20], h[20:32]}, "-")
}

// swapped turns the order of the text into the order on disk, and back.
func (g GUID) swapped() GUID {
	g[0], g[1], g[2], g[3] = g[3], g[2], g[1], g[0]
	g[4], g[5] = g[5], g[4]
	g[6], g[7] = g[7], g[6]
	return g
}

// Partition is one entry. A zero Type means the entry is unused.
type Partition struct {
	Type       GUID
	GUID       GUID
	First      uint64 // first sector
	Last       uint64 // last sector, included
	Attributes uint64
	Name       string // at most NameUnits UTF-16 code units
}

// Table is the partition table of a disk. Partitions[i] is partition number i+1.
type Table struct {
	Disk       GUID
	Sectors    uint64 // size of the disk
	Partitions []Partition
}

// LastUsableLBA is the last sector a partition may hold.
func (t *Table) LastUsableLBA() uint64 { return t.Sectors - sectorsAtTheEnd - 1 }

// Encoded is a table as bytes, by where they belong on the disk.
type Encoded struct {
	MBR           []byte // sector 0
	Header        []byte // sector 1
	Entries       []byte // from sector 2, and once more from BackupEntriesLBA
	BackupHeader  []byte // the last sector
	BackupEntries uint64 // first sector of the second copy of Entries
}

// Errors about tables that cannot be.
var (
	ErrOverlap = errors.New("partitions overlap")
	ErrOutside = errors.New("partition outside the usable sectors")
)

// check says whether the partitions can be written.
func (t *Table) check() error {
	var used []int
	for i, p := range t.Partitions {
		if p.Type == (GUID{}) {
			continue
		}
		if p.First < FirstUsableLBA || p.Last < p.First || p.Last > t.LastUsableLBA() {
			return fmt.Errorf("partition %d: sectors %d to %d of usable %d to %d: %w",
				i+1, p.First, p.Last, FirstUsableLBA, t.LastUsableLBA(), ErrOutside)
		}
		for _, j := range used {
			if q := t.Partitions[j]; p.First <= q.Last && q.First <= p.Last {
				return fmt.Errorf("partitions %d (sectors %d to %d) and %d (sectors %d to %d): %w",
					j+1, q.First, q.Last, i+1, p.First, p.Last, ErrOverlap)
			}
		}
		used = append(used, i)
	}
	return nil
}

// Encode returns the bytes of the table. bootCode goes into the first BootCode bytes of sector 0 and may be empty.
// It fails for a disk that is too small or too large, more than EntryCount partitions, a zero or doubled GUID, a name
// that is too long or not UTF-8, and partitions that overlap or leave the usable sectors.
func (t *Table) Encode(bootCode []byte) (*Encoded, error) {
	switch {
	case t.Sectors < MinSectors || t.Sectors > MaxSectors:
		return nil, fmt.Errorf("gpt: disk of %d sectors: want %d to %d", t.Sectors, MinSectors, uint64(MaxSectors))
	case len(t.Partitions) > EntryCount:
		return nil, fmt.Errorf("gpt: %d partitions: at most %d fit", len(t.Partitions), EntryCount)
	case len(bootCode) > BootCode:
		return nil, fmt.Errorf("gpt: boot code of %d bytes: at most %d fit", len(bootCode), BootCode)
	case t.Disk == GUID{}:
		return nil, errors.New("gpt: the disk has no GUID")
	}
	if err := t.check(); err != nil {
		return nil, fmt.Errorf("gpt: %w", err)
	}
	entries := make([]byte, EntriesSize)
	seen := map[GUID]int{}
	for i, p := range t.Partitions {
		if p.Type == (GUID{}) {
			continue
		}
		if p.GUID == (GUID{}) {
			return nil, fmt.Errorf("gpt: partition %d (%s) has no GUID", i+1, p.Name)
		}
		if j, ok := seen[p.GUID]; ok {
			return nil, fmt.Errorf("gpt: partitions %d and %d have the same GUID %s", j+1, i+1, p.GUID)
		}
		seen[p.GUID] = i
		if err := p.encode(entries[i*EntrySize:][:EntrySize]); err != nil {
			return nil, fmt.Errorf("gpt: partition %d: %w", i+1, err)
		}
	}
	e := &Encoded{Entries: entries, BackupEntries: t.Sectors - sectorsAtTheEnd}
	e.MBR = protectiveMBR(bootCode, t.Sectors)
	e.Header = t.header(headerLBA, t.Sectors-1, entriesLBA, entries)
	e.BackupHeader = t.header(t.Sectors-1, headerLBA, e.BackupEntries, entries)
	return e, nil
}

func (p Partition) encode(b []byte) error {
	if !utf8.ValidString(p.Name) || strings.ContainsRune(p.Name, 0) {
		return fmt.Errorf("name %q is not text", p.Name)
	}
	name := utf16.Encode([]rune(p.Name))
	if len(name) > NameUnits {
		return fmt.Errorf("name %q has %d UTF-16 units, at most %d fit", p.Name, len(name), NameUnits)
	}
	typ, id := p.Type.swapped(), p.GUID.swapped()
	copy(b[atType:], typ[:])
	copy(b[atGUID:], id[:])
	binary.LittleEndian.PutUint64(b[atFirst:], p.First)
	binary.LittleEndian.PutUint64(b[atLast:], p.Last)
	binary.LittleEndian.PutUint64(b[atAttributes:], p.Attributes)
	for i, u := range name {
		binary.LittleEndian.PutUint16(b[atName+2*i:], u)
	}
	return nil
}

func (t *Table) header(my, alternate, entriesAt uint64, entries []byte) []byte {
	b := make([]byte, SectorSize)
	copy(b[atSignature:], signature)
	binary.LittleEndian.PutUint32(b[atRevision:], revision)
	binary.LittleEndian.PutUint32(b[atHeaderSize:], headerSize)
	binary.LittleEndian.PutUint64(b[atMyLBA:], my)
	binary.LittleEndian.PutUint64(b[atAlternateLBA:], alternate)
	binary.LittleEndian.PutUint64(b[atFirstUsable:], FirstUsableLBA)
	binary.LittleEndian.PutUint64(b[atLastUsable:], t.LastUsableLBA())
	disk := t.Disk.swapped()
	copy(b[atDiskGUID:], disk[:])
	binary.LittleEndian.PutUint64(b[atEntriesLBA:], entriesAt)
	binary.LittleEndian.PutUint32(b[atEntryCount:], EntryCount)
	binary.LittleEndian.PutUint32(b[atEntrySize:], EntrySize)
	binary.LittleEndian.PutUint32(b[atEntriesCRC:], crc32.ChecksumIEEE(entries))
	binary.LittleEndian.PutUint32(b[atHeaderCRC:], crc32.ChecksumIEEE(b[:headerSize]))
	return b
}

// protectiveMBR returns sector 0: the boot code, and one partition of type 0xEE over the whole disk so that programs
// that know no GPT leave it alone.
func protectiveMBR(bootCode []byte, sectors uint64) []byte {
	b := make([]byte, SectorSize)
	copy(b[:BootCode], bootCode)
	p := b[mbrPartition:]
	copy(p[0:], []byte{0x00, 0x00, 0x02, 0x00})          // not active; CHS of LBA 1 (UEFI 2.10 table 5-4)
	copy(p[4:], []byte{mbrProtective, 0xFF, 0xFF, 0xFF}) // CHS end: not representable
	binary.LittleEndian.PutUint32(p[8:], headerLBA)      // first sector
	size := min(sectors-1, uint64(0xFFFFFFFF))           // FFFFFFFFh when it cannot be represented
	binary.LittleEndian.PutUint32(p[12:], uint32(size))  // sectors
	copy(b[mbrSignature:], []byte{0x55, 0xAA})
	return b
}
