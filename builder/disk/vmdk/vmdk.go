// Package vmdk writes and reads VMware's disk images that are one file of sparse grains, following "Virtual Disk Format
// 5.0" (VMware, 2011): streamOptimized, which is compressed and what an OVA holds, and monolithicSparse, which machines
// run from.
//
// Write makes the same bytes for the same content on any machine. Open takes an image for hostile: what it allocates is
// bounded, and no name in an image is ever opened.
//
// What it deliberately does not do: change an existing image, images of several files (flat, split, VMFS), images that
// lie on others, and encryption.
package vmdk

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Errors of Open and ReadAt.
var (
	ErrFormat      = errors.New("not a VMDK image")
	ErrCorrupt     = errors.New("corrupt VMDK image")
	ErrUnsupported = errors.New("unsupported VMDK feature")
)

// Kind is which of the forms an image has, as its descriptor names it.
type Kind string

// The kinds that are written and read.
const (
	StreamOptimized  Kind = "streamOptimized"
	MonolithicSparse Kind = "monolithicSparse"
)

// The header ("Hosted Sparse Extent Header"). Numbers are little-endian, offsets and sizes in sectors.
const (
	sectorSize = 512
	magic      = 0x564d444b // "KDMV" on disk

	hdrVersion     = 4
	hdrFlags       = 8
	hdrCapacity    = 12
	hdrGrain       = 20
	hdrDescriptor  = 28
	hdrDescSize    = 36
	hdrTableLength = 44 // entries of a grain table
	hdrRedundant   = 48 // the second grain directory
	hdrDirectory   = 56
	hdrOverhead    = 64
	hdrUnclean     = 72
	hdrNewlines    = 73
	hdrCompression = 77

	flagNewlines   = 1 << 0
	flagRedundant  = 1 << 1
	flagZeroGrains = 1 << 2
	flagCompressed = 1 << 16
	flagMarkers    = 1 << 17

	directoryAtEnd  = 1<<64 - 1 // GD_AT_END: the header at the end of the file has the place
	compressDeflate = 1

	newlines = "\n \r\n" // a transfer as text would change them
)

// Sizes that are written, and that QEMU and VMware write.
const (
	grainSectors = 128 // 64 KiB
	grainSize    = grainSectors * sectorSize
	tableEntries = 512
	tableSectors = tableEntries * 4 / sectorSize
	descSectors  = 20 // room for the descriptor
)

// Markers of a stream ("Stream-Optimized Compressed Sparse Extents").
const (
	markerEnd       = 0
	markerTable     = 1
	markerDirectory = 2
	markerFooter    = 3
	markerHeader    = 12 // bytes before the data of a grain: its sector, its length
)

// header is what of the header matters.
type header struct {
	version, flags  uint32
	capacity, grain uint64
	desc, descSize  uint64
	tableLength     uint32
	redundant       uint64
	directory       uint64
	overhead        uint64
	compression     uint16
}

func (h *header) encode() []byte {
	b := make([]byte, sectorSize)
	le := binary.LittleEndian
	le.PutUint32(b, magic)
	le.PutUint32(b[hdrVersion:], h.version)
	le.PutUint32(b[hdrFlags:], h.flags)
	le.PutUint64(b[hdrCapacity:], h.capacity)
	le.PutUint64(b[hdrGrain:], h.grain)
	le.PutUint64(b[hdrDescriptor:], h.desc)
	le.PutUint64(b[hdrDescSize:], h.descSize)
	le.PutUint32(b[hdrTableLength:], h.tableLength)
	le.PutUint64(b[hdrRedundant:], h.redundant)
	le.PutUint64(b[hdrDirectory:], h.directory)
	le.PutUint64(b[hdrOverhead:], h.overhead)
	copy(b[hdrNewlines:], newlines)
	le.PutUint16(b[hdrCompression:], h.compression)
	return b
}

// parseHeader reads a header, and refuses what no reader here knows.
func parseHeader(b []byte) (*header, error) {
	le := binary.LittleEndian
	if len(b) < sectorSize || le.Uint32(b) != magic {
		return nil, ErrFormat
	}
	h := &header{version: le.Uint32(b[hdrVersion:]), flags: le.Uint32(b[hdrFlags:]), capacity: le.Uint64(b[hdrCapacity:]),
		grain: le.Uint64(b[hdrGrain:]), desc: le.Uint64(b[hdrDescriptor:]), descSize: le.Uint64(b[hdrDescSize:]),
		tableLength: le.Uint32(b[hdrTableLength:]), redundant: le.Uint64(b[hdrRedundant:]),
		directory: le.Uint64(b[hdrDirectory:]), overhead: le.Uint64(b[hdrOverhead:]),
		compression: le.Uint16(b[hdrCompression:])}
	switch {
	case h.version < 1 || h.version > 3:
		return nil, fmt.Errorf("version %d: %w", h.version, ErrUnsupported)
	case h.flags&flagNewlines != 0 && string(b[hdrNewlines:hdrNewlines+4]) != newlines:
		return nil, fmt.Errorf("it was transferred as text: %w", ErrCorrupt)
	case h.flags&flagCompressed != 0 && h.compression != compressDeflate:
		return nil, fmt.Errorf("compression %d: %w", h.compression, ErrUnsupported)
	case h.capacity > maxCapacity:
		return nil, fmt.Errorf("a disk of %d sectors: %w", h.capacity, ErrUnsupported)
	case h.grain < 8 || h.grain > maxGrain || h.grain&(h.grain-1) != 0:
		return nil, fmt.Errorf("grains of %d sectors: %w", h.grain, ErrCorrupt)
	case h.tableLength != tableEntries:
		return nil, fmt.Errorf("grain tables of %d entries: %w", h.tableLength, ErrUnsupported)
	}
	return h, nil
}

// Bounds of what is believed.
const (
	maxCapacity   = 1 << 34 // sectors: 8 TiB; VMware's own bound of these kinds is 2 TiB
	maxGrain      = 2048    // sectors: 1 MiB
	maxDescriptor = 64 << 10
)
