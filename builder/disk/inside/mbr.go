package inside

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// The master boot record (as IBM's DOS 3.3 left it, and everybody reads it): four records of 16 bytes, a signature.
const (
	sectorSize   = 512
	mbrTable     = 446
	mbrRecord    = 16
	mbrSignature = 510
	mbrGPT       = 0xee
	// mostLogical bounds the chain of extended partitions.
	mostLogical = 256
)

// isExtended tells of types that hold a chain of further records.
func isExtended(kind byte) bool { return kind == 0x05 || kind == 0x0f || kind == 0x85 }

// readMBR reads the partitions of an MBR and of its chains; nil: there is none.
func readMBR(r io.ReaderAt, size int64) (all []Partition, err error) {
	records, err := mbrRecords(r, 0)
	if err != nil || records == nil {
		return nil, err
	}
	sectors := size / sectorSize
	add := func(number int, rec mbrEntry) {
		// What does not lie on the disk is none: a boot sector that is no MBR has such records.
		if rec.first > 0 && rec.count > 0 && rec.first < sectors && rec.count <= sectors-rec.first {
			all = append(all, Partition{Number: number, Type: fmt.Sprintf("%02x", rec.kind),
				Offset: rec.first * sectorSize, Size: rec.count * sectorSize})
		}
	}
	for i, rec := range records {
		if rec.kind != 0 && rec.kind != mbrGPT {
			add(i+1, rec)
		}
	}
	for _, rec := range records {
		if !isExtended(rec.kind) {
			continue
		}
		seen := map[int64]bool{}
		next := 5
		for at := rec.first; at > 0 && at < sectors && !seen[at] && len(seen) < mostLogical; {
			seen[at] = true
			logical, err := mbrRecords(r, at)
			if err != nil || logical == nil {
				break
			}
			if logical[0].kind != 0 {
				add(next, mbrEntry{logical[0].kind, at + logical[0].first, logical[0].count})
				next++
			}
			if !isExtended(logical[1].kind) {
				break
			}
			at = rec.first + logical[1].first // links count from the first of the chain
		}
	}
	return all, nil
}

// mbrEntry is a record, in sectors.
type mbrEntry struct {
	kind         byte
	first, count int64
}

// mbrRecords reads the four records of a sector; nil: it has no signature.
func mbrRecords(r io.ReaderAt, sector int64) ([]mbrEntry, error) {
	b := make([]byte, sectorSize)
	if n, err := r.ReadAt(b, sector*sectorSize); n < len(b) {
		if err == nil || errors.Is(err, io.EOF) {
			return nil, nil
		}
		return nil, fmt.Errorf("sector %d: %w", sector, err)
	}
	if b[mbrSignature] != 0x55 || b[mbrSignature+1] != 0xAA {
		return nil, nil
	}
	var all []mbrEntry
	for at := mbrTable; at < mbrSignature; at += mbrRecord {
		all = append(all, mbrEntry{b[at+4], int64(binary.LittleEndian.Uint32(b[at+8:])),
			int64(binary.LittleEndian.Uint32(b[at+12:]))})
	}
	return all, nil
}
