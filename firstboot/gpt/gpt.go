// Package gpt reads a GUID partition table, to find the root partition before there is any udev: the primary table,
// or the backup when the primary is broken. Source: UEFI Specification 2.10, section 5.3.
//
// What it deliberately does not do: write, repair, read the protective MBR (it says nothing the table does not), or
// believe a table whose checksums are wrong.
package gpt

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"unicode/utf16"
)

// Bounds and sizes; section 5.3.2 and 5.3.3.
const (
	headerSize    = 92        // of revision 1.0
	revision      = 0x10000   // 1.0
	minEntrySize  = 128       // 128 x 2^n
	maxEntrySize  = 4096      // ours: nobody uses more than 128
	maxEntries    = 1024      // ours: sgdisk's default is 128
	maxTableBytes = 512 << 10 // ours, for entries: bounds what a hostile header can make us read
)

var signature = [8]byte{'E', 'F', 'I', ' ', 'P', 'A', 'R', 'T'}

// ErrNone is returned for a disk without any readable GUID partition table.
var ErrNone = errors.New("no GUID partition table")

// Table is a checked partition table.
type Table struct {
	DiskGUID   string
	Backup     bool  // read from the backup table
	Primary    error // why the primary was not used; nil when it was
	Partitions []Partition
}

// Partition is one used entry.
type Partition struct {
	Number     int    // from 1, its place in the table
	Type, GUID string // usual text form, lower case
	Start      int64  // bytes from the start of the disk
	Size       int64  // bytes, more than 0
	Name       string // as whoever made the table says; anything
}

// Read reads the table of a disk of size bytes with the given logical sector size.
func Read(r io.ReaderAt, size int64, sector int) (*Table, error) {
	if sector < 512 || sector > 4096 || sector&(sector-1) != 0 {
		return nil, fmt.Errorf("GPT: sector size %d: want 512 to 4096, a power of two", sector)
	}
	last := size/int64(sector) - 1
	if last < 3 {
		return nil, fmt.Errorf("%w: a disk of %d bytes is too small for one", ErrNone, size)
	}
	table, primary := readAt(r, 1, last, sector)
	if primary == nil {
		return table, nil
	}
	table, backup := readAt(r, last, last, sector)
	if backup != nil {
		return nil, fmt.Errorf("%w: primary: %w; backup: %w", ErrNone, primary, backup)
	}
	table.Backup, table.Primary = true, primary
	return table, nil
}

// readAt reads the table whose header is at lba of a disk whose last sector is last.
func readAt(r io.ReaderAt, lba, last int64, sector int) (*Table, error) {
	h := make([]byte, sector)
	if err := readFull(r, h, lba*int64(sector)); err != nil {
		return nil, fmt.Errorf("reading the header at sector %d: %w", lba, err)
	}
	if [8]byte(h[:8]) != signature {
		return nil, fmt.Errorf("sector %d has no GPT signature", lba)
	}
	le := binary.LittleEndian
	if v := le.Uint32(h[8:]); v != revision {
		return nil, fmt.Errorf("revision %#x: want %#x", v, revision)
	}
	n := le.Uint32(h[12:])
	if n < headerSize || int64(n) > int64(sector) {
		return nil, fmt.Errorf("header size %d: want %d to %d", n, headerSize, sector)
	}
	want := le.Uint32(h[16:])
	clear(h[16:20])
	if got := crc32.ChecksumIEEE(h[:n]); got != want {
		return nil, fmt.Errorf("header checksum %#08x: the header says %#08x", got, want)
	}
	if my := le.Uint64(h[24:]); my != uint64(lba) {
		return nil, fmt.Errorf("the header at sector %d says it is at %d", lba, my)
	}
	first, end := le.Uint64(h[40:]), le.Uint64(h[48:])
	if first > end || end > uint64(last) {
		return nil, fmt.Errorf("usable sectors %d to %d: the disk has %d", first, end, last+1)
	}
	count, entry := le.Uint32(h[80:]), le.Uint32(h[84:])
	if entry < minEntrySize || entry > maxEntrySize || entry&(entry-1) != 0 || count == 0 || count > maxEntries ||
		uint64(count)*uint64(entry) > maxTableBytes {
		return nil, fmt.Errorf("%d entries of %d bytes: want 1 to %d of %d to %d", count, entry, maxEntries,
			minEntrySize, maxEntrySize)
	}
	at := le.Uint64(h[72:])
	if at < 2 && lba == 1 || at > uint64(last) {
		return nil, fmt.Errorf("entries at sector %d: outside the disk", at)
	}
	table := make([]byte, int(count)*int(entry))
	if err := readFull(r, table, int64(at)*int64(sector)); err != nil {
		return nil, fmt.Errorf("reading %d entries at sector %d: %w", count, at, err)
	}
	if got, want := crc32.ChecksumIEEE(table), le.Uint32(h[88:]); got != want {
		return nil, fmt.Errorf("entries checksum %#08x: the header says %#08x", got, want)
	}
	t := &Table{DiskGUID: guid(h[56:72])}
	for i := range int(count) {
		e := table[i*int(entry):]
		if [16]byte(e[:16]) == ([16]byte{}) {
			continue
		}
		from, to := le.Uint64(e[32:]), le.Uint64(e[40:])
		if from < first || to < from || to > end {
			return nil, fmt.Errorf("partition %d, sectors %d to %d: outside the usable %d to %d", i+1, from, to, first, end)
		}
		t.Partitions = append(t.Partitions, Partition{Number: i + 1, Type: guid(e[:16]), GUID: guid(e[16:32]),
			Start: int64(from) * int64(sector), Size: int64(to-from+1) * int64(sector), Name: name(e[56:128])})
	}
	return t, nil
}

func readFull(r io.ReaderAt, p []byte, off int64) error {
	n, err := r.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// guid writes the usual text form: the first three fields are little-endian on disk (appendix A).
func guid(b []byte) string {
	d := [16]byte{b[3], b[2], b[1], b[0], b[5], b[4], b[7], b[6]}
	copy(d[8:], b[8:16])
	h := hex.EncodeToString(d[:])
	return h[0:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:32]
}

// name reads UTF-16 that ends with a zero or with its room (section 5.3.3).
func name(b []byte) string {
	var units []uint16
	for ; len(b) >= 2 && (b[0] != 0 || b[1] != 0); b = b[2:] {
		units = append(units, binary.LittleEndian.Uint16(b))
	}
	return string(utf16.Decode(units))
}

// Find returns the one partition with the given GUID. A GUID that two partitions carry is an error, because taking
// either would be a guess.
func (t *Table) Find(guid string) (Partition, bool, error) {
	var found Partition
	for _, p := range t.Partitions {
		if p.GUID != guid {
			continue
		}
		if found.Number != 0 {
			return Partition{}, false, fmt.Errorf("partitions %d and %d both carry GUID %s", found.Number, p.Number, guid)
		}
		found = p
	}
	return found, found.Number != 0, nil
}
