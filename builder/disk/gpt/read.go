package gpt

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"unicode/utf16"
)

// Limits of what Read takes from a disk it does not trust. UEFI allows larger entries and longer arrays; nobody
// writes them, and a limit keeps what a hostile disk can make us allocate to 1 MiB.
const (
	maxEntrySize  = 4096
	maxEntryCount = 256
)

// Errors of Read.
var (
	ErrNoTable = errors.New("no GUID partition table")
	ErrDamaged = errors.New("damaged GUID partition table")
)

// Found is what Read found on a disk.
type Found struct {
	Table
	// Primary and Backup are nil where that copy of the table is sound. At least one of them is.
	Primary, Backup error
	// Differ is set when both copies are sound and do not say the same.
	Differ bool
}

// Read reads the partition table of a disk of size bytes. Both copies are read and checked: signature, sizes,
// checksums, that they name each other's places, and that no partition overlaps another or leaves the usable
// sectors. The primary copy is what counts when it is sound, else the backup. The error is ErrNoTable when there is
// no trace of a table, ErrDamaged when there is one and neither copy is sound, or that of the disk.
// The disk may hold anything: Read allocates at most about 2 MiB.
func Read(disk io.ReaderAt, size int64) (*Found, error) {
	sectors := uint64(max(size, 0)) / SectorSize
	if sectors < MinSectors {
		return nil, fmt.Errorf("disk of %d bytes: %w", size, ErrNoTable)
	}
	if sectors > MaxSectors {
		return nil, fmt.Errorf("disk of %d bytes: larger than %d sectors", size, uint64(MaxSectors))
	}
	primary, seenPrimary, primaryErr := readCopy(disk, sectors, headerLBA)
	backup, seenBackup, backupErr := readCopy(disk, sectors, sectors-1)
	for _, err := range []error{primaryErr, backupErr} {
		if err != nil && !errors.Is(err, ErrDamaged) {
			return nil, err
		}
	}
	f := &Found{Primary: primaryErr, Backup: backupErr}
	switch {
	case !seenPrimary && !seenBackup:
		return nil, ErrNoTable
	case primary != nil:
		f.Table = *primary
		f.Differ = backup != nil && !same(primary, backup)
	case backup != nil:
		f.Table = *backup
	default:
		return nil, fmt.Errorf("primary copy: %w; backup copy: %w", primaryErr, backupErr)
	}
	return f, nil
}

func same(a, b *Table) bool {
	if a.Disk != b.Disk || len(a.Partitions) != len(b.Partitions) {
		return false
	}
	for i := range a.Partitions {
		if a.Partitions[i] != b.Partitions[i] {
			return false
		}
	}
	return true
}

// readCopy reads the copy of the table whose header is at sector lba. seen says whether the signature was there.
func readCopy(disk io.ReaderAt, sectors, lba uint64) (t *Table, seen bool, err error) {
	b := make([]byte, SectorSize)
	if err := readFull(disk, b, lba); err != nil {
		return nil, false, err
	}
	if string(b[:len(signature)]) != signature {
		return nil, false, fmt.Errorf("sector %d: no signature: %w", lba, ErrDamaged)
	}
	damaged := func(format string, args ...any) (*Table, bool, error) {
		return nil, true, fmt.Errorf("sector %d: "+format+": %w", append(append([]any{lba}, args...), ErrDamaged)...)
	}
	u32 := func(at int) uint32 { return binary.LittleEndian.Uint32(b[at:]) }
	u64 := func(at int) uint64 { return binary.LittleEndian.Uint64(b[at:]) }

	if r := u32(atRevision); r != revision {
		return damaged("revision %#x, want %#x", r, revision)
	}
	length := u32(atHeaderSize)
	if length < headerSize || length > SectorSize {
		return damaged("header of %d bytes, want %d to %d", length, headerSize, SectorSize)
	}
	sum := u32(atHeaderCRC)
	clear(b[atHeaderCRC : atHeaderCRC+4])
	if got := crc32.ChecksumIEEE(b[:length]); got != sum {
		return damaged("header checksum %08x, want %08x", got, sum)
	}
	if got := u64(atMyLBA); got != lba {
		return damaged("the header says it is at sector %d", got)
	}
	first, last := u64(atFirstUsable), u64(atLastUsable)
	if first > last || last >= sectors {
		return damaged("usable sectors %d to %d of %d", first, last, sectors)
	}
	count, entrySize := u32(atEntryCount), u32(atEntrySize)
	if entrySize < EntrySize || entrySize > maxEntrySize || entrySize&(entrySize-1) != 0 {
		return damaged("entries of %d bytes, want a power of two from %d to %d", entrySize, EntrySize, maxEntrySize)
	}
	if count > maxEntryCount {
		return damaged("%d entries, at most %d are read", count, maxEntryCount)
	}
	at, n := u64(atEntriesLBA), (uint64(count)*uint64(entrySize)+SectorSize-1)/SectorSize
	if at > sectors || n > sectors-at || at <= headerLBA {
		return damaged("entries at sector %d of %d", at, sectors)
	}
	if n > 0 && at <= last && first < at+n {
		return damaged("entries at sectors %d to %d lie in the usable sectors %d to %d", at, at+n-1, first, last)
	}
	entries := make([]byte, n*SectorSize)
	if err := readFull(disk, entries, at); err != nil {
		return nil, true, err
	}
	if got := crc32.ChecksumIEEE(entries[:count*entrySize]); got != u32(atEntriesCRC) {
		return damaged("checksum of the entries %08x, want %08x", got, u32(atEntriesCRC))
	}
	t = &Table{Disk: GUID(b[atDiskGUID : atDiskGUID+16]).swapped(), Sectors: sectors}
	used := 0
	for i := range int(count) {
		p := decode(entries[i*int(entrySize):])
		if t.Partitions = append(t.Partitions, p); p.Type != (GUID{}) {
			used = i + 1
		}
	}
	t.Partitions = t.Partitions[:used]
	if err := t.check(first, last); err != nil {
		return damaged("%w", err)
	}
	return t, true, nil
}

func decode(b []byte) Partition {
	p := Partition{Type: GUID(b[atType : atType+16]).swapped()}
	if p.Type == (GUID{}) {
		return Partition{}
	}
	p.GUID = GUID(b[atGUID : atGUID+16]).swapped()
	p.First = binary.LittleEndian.Uint64(b[atFirst:])
	p.Last = binary.LittleEndian.Uint64(b[atLast:])
	p.Attributes = binary.LittleEndian.Uint64(b[atAttributes:])
	var name []uint16
	for i := range NameUnits {
		u := binary.LittleEndian.Uint16(b[atName+2*i:])
		if u == 0 {
			break
		}
		name = append(name, u)
	}
	p.Name = string(utf16.Decode(name)) // what is no UTF-16 becomes U+FFFD
	return p
}

func readFull(disk io.ReaderAt, b []byte, lba uint64) error {
	n, err := disk.ReadAt(b, int64(lba)*SectorSize)
	if n == len(b) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("reading %d bytes at sector %d: %w", len(b), lba, err)
}
