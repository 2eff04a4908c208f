package qcow2

import (
	"encoding/binary"
	"fmt"
	"io"
	"math"

	"rempart/builder/disk"
)

// Limits of what Open takes. The specification gives the first two and the length of names; the sizes are QEMU's own
// (block/qcow2.h), so that nothing it makes is refused.
const (
	minClusterBits = 9
	maxClusterBits = 21
	maxHeader      = 1 << maxClusterBits // the header, its extensions and the backing name lie in the first cluster
	maxExtensions  = 64
)

// header is what reading needs of an image's header.
type header struct {
	version       uint32
	clusterBits   uint
	size          int64 // virtual
	l1Size        int64 // entries
	l1Offset      int64
	compression   Compression
	snapshots     uint32
	snapshotsAt   uint64
	backingName   string
	backingFormat string // empty: the image does not say
}

func (h *header) clusterSize() int64 { return 1 << h.clusterBits }

// l2Entries is the number of entries of an L2 table.
func (h *header) l2Entries() int64 { return h.clusterSize() / entryBytes }

// readHeader reads and checks the header of a file of size bytes.
func readHeader(r io.ReaderAt, size int64) (*header, error) {
	b := make([]byte, min(max(size, 0), hdrWithCompressionLen))
	if err := disk.ReadFull(r, b, 0); err != nil {
		return nil, err
	}
	if len(b) < hdrV2Length || binary.BigEndian.Uint32(b) != magic {
		return nil, ErrFormat
	}
	u32 := func(at int) uint32 { return binary.BigEndian.Uint32(b[at:]) }
	u64 := func(at int) uint64 { return binary.BigEndian.Uint64(b[at:]) }

	h := &header{version: u32(hdrVersion)}
	length := int64(hdrV2Length)
	switch h.version {
	case 2:
	case 3:
		if len(b) < hdrV3Length {
			return nil, fmt.Errorf("header cut off after %d bytes: %w", len(b), ErrCorrupt)
		}
		if err := checkFeatures(u64(hdrIncompatible)); err != nil {
			return nil, err
		}
		length = int64(u32(hdrHeaderLength))
		if length < hdrV3Length || length%8 != 0 || length > min(size, maxHeader) {
			return nil, fmt.Errorf("header length of %d bytes: %w", length, ErrCorrupt)
		}
		if u64(hdrIncompatible)&incompatCompression != 0 {
			if length <= hdrCompressionType || len(b) <= hdrCompressionType {
				return nil, fmt.Errorf("no compression type in the header: %w", ErrCorrupt)
			}
			h.compression = Compression(b[hdrCompressionType])
		}
		if h.compression > Zstd {
			return nil, fmt.Errorf("compression type %d: %w", h.compression, ErrUnsupported)
		}
	default:
		return nil, fmt.Errorf("version %d: %w", h.version, ErrUnsupported)
	}
	if method := u32(hdrCryptMethod); method != 0 {
		return nil, fmt.Errorf("encryption method %d: %w", method, ErrUnsupported)
	}
	if bits := u32(hdrClusterBits); bits < minClusterBits || bits > maxClusterBits {
		return nil, fmt.Errorf("clusters of 2^%d bytes: %w", bits, ErrCorrupt)
	}
	h.clusterBits = uint(u32(hdrClusterBits))
	if length > h.clusterSize() {
		return nil, fmt.Errorf("header of %d bytes in clusters of %d: %w", length, h.clusterSize(), ErrCorrupt)
	}
	h.snapshots, h.snapshotsAt = u32(hdrSnapshots), u64(hdrSnapshotsOffset)
	virtual := u64(hdrSize)
	if virtual > math.MaxInt64>>1 {
		return nil, fmt.Errorf("virtual size of %d bytes: %w", virtual, ErrCorrupt)
	}
	h.size = int64(virtual)
	if err := h.checkL1(u32(hdrL1Size), u64(hdrL1Offset), size); err != nil {
		return nil, err
	}
	return h, h.readNames(r, size, length, u64(hdrBackingOffset), u32(hdrBackingSize))
}

func checkFeatures(bits uint64) error {
	switch {
	case bits&incompatCorrupt != 0:
		return fmt.Errorf("QEMU has marked it so; try `qemu-img check -r all` on a copy: %w", ErrCorrupt)
	case bits&incompatDataFile != 0:
		return fmt.Errorf("external data file, which may be any of this machine's; of an image that you trust "+
			"`qemu-img convert -O qcow2` makes one file: %w", ErrUnsupported)
	case bits&incompatExtendedL2 != 0:
		return fmt.Errorf("extended L2 entries; `qemu-img convert -O qcow2` makes plain ones: %w", ErrUnsupported)
	}
	if unknown := bits &^ (incompatDirty | incompatCompression); unknown != 0 {
		return fmt.Errorf("unknown incompatible features %#x: %w", unknown, ErrUnsupported)
	}
	return nil
}

// checkL1 checks that the L1 table covers the virtual size and lies in the file, which bounds what reading it takes.
func (h *header) checkL1(entries uint32, offset uint64, size int64) error {
	covers := h.clusterSize() * h.l2Entries() // bytes of one L1 entry
	need := (h.size + covers - 1) / covers
	if int64(entries) < need {
		return fmt.Errorf("L1 table of %d entries, the virtual size of %d bytes needs %d: %w",
			entries, h.size, need, ErrCorrupt)
	}
	if entries > maxL1Bytes/entryBytes {
		return fmt.Errorf("L1 table of %d entries: %w", entries, ErrUnsupported)
	}
	if offset&uint64(h.clusterSize()-1) != 0 || entries > 0 &&
		(offset == 0 || offset > uint64(size) || uint64(entries)*entryBytes > uint64(size)-offset) {
		return fmt.Errorf("L1 table at offset %d of %d: %w", offset, size, ErrCorrupt)
	}
	h.l1Offset, h.l1Size = int64(offset), need // entries beyond the virtual size do not matter
	return nil
}

// readNames reads the extensions that lie after the header, up to the backing name or the end of the first cluster,
// and the backing name.
func (h *header) readNames(r io.ReaderAt, size, at int64, nameOffset uint64, nameSize uint32) error {
	end := min(h.clusterSize(), size)
	if nameOffset != 0 {
		if nameSize > maxBackingName || nameOffset < uint64(at) || nameOffset > uint64(end) ||
			uint64(nameSize) > uint64(end)-nameOffset {
			return fmt.Errorf("backing name of %d bytes at offset %d: %w", nameSize, nameOffset, ErrCorrupt)
		}
		name := make([]byte, nameSize)
		if err := disk.ReadFull(r, name, int64(nameOffset)); err != nil {
			return err
		}
		h.backingName = string(name)
		end = int64(nameOffset)
	}
	// Version 2 images have extensions too, right after the shorter header.
	for range maxExtensions {
		var b [8]byte
		if end-at < int64(len(b)) {
			return nil
		}
		if err := disk.ReadFull(r, b[:], at); err != nil {
			return err
		}
		kind, length := binary.BigEndian.Uint32(b[:]), int64(binary.BigEndian.Uint32(b[4:]))
		at += int64(len(b))
		if kind == extEnd {
			return nil
		}
		if length > end-at {
			return fmt.Errorf("header extension %#x of %d bytes: %w", kind, length, ErrCorrupt)
		}
		if kind == extBackingFormat {
			if length > maxFormatName {
				return fmt.Errorf("backing format name of %d bytes: %w", length, ErrCorrupt)
			}
			name := make([]byte, length)
			if err := disk.ReadFull(r, name, at); err != nil {
				return err
			}
			h.backingFormat = string(name)
		}
		at += (length + 7) &^ 7
	}
	return fmt.Errorf("more than %d header extensions: %w", maxExtensions, ErrCorrupt)
}

// maxFormatName is what QEMU allows (block/qcow2.c, the buffer of bs->backing_format).
const maxFormatName = 15
