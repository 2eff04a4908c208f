// Package qcow2 writes and reads QEMU's copy-on-write disk images, following docs/interop/qcow2.txt of QEMU.
//
// Write makes version 3 images: compressed, without clusters of zeros, the same bytes for the same content on any
// machine, on all cores. Open gives random access to images of version 2 and 3 that anybody made: compressed (zlib,
// zstd), with zero clusters, over backing files the caller is willing to open. It takes the image for hostile: what
// it allocates is bounded, and no name in an image is ever opened by itself.
//
// What it deliberately does not do: change an existing image, snapshots of its own (those of others can be
// read), encryption, external data files, subclusters (extended L2), and checking reference counts (that is `qemu-img
// check`, and reading needs none).
package qcow2

import "errors"

// Errors of Open and ReadAt.
var (
	ErrFormat      = errors.New("not a qcow2 image")
	ErrCorrupt     = errors.New("corrupt qcow2 image")
	ErrUnsupported = errors.New("unsupported qcow2 feature")
	ErrBacking     = errors.New("backing file not available")
)

// Compression is the algorithm of compressed clusters.
type Compression uint8

const (
	// Deflate, which qcow2 calls zlib, is what every QEMU and every other reader knows. It is the default because
	// nothing is gained by another: Debian's kernel, an initramfs and an EROFS root of 60 MB make an image of 30.5 MB,
	// where qemu-img makes 30.9 MB of them with zlib and 31.1 MB with zstd.
	Deflate Compression = 0
	// Zstd needs QEMU 5.1 or later. The same image has 31.4 MB, is written in half the time and read faster.
	Zstd Compression = 1
)

func (c Compression) String() string {
	switch c {
	case Deflate:
		return "zlib"
	case Zstd:
		return "zstd"
	}
	return "unknown"
}

// The header. Offsets are of big-endian fields.
const (
	magic = 0x514649fb // "QFI\xfb"

	hdrMagic              = 0
	hdrVersion            = 4
	hdrBackingOffset      = 8
	hdrBackingSize        = 16
	hdrClusterBits        = 20
	hdrSize               = 24
	hdrCryptMethod        = 32
	hdrL1Size             = 36
	hdrL1Offset           = 40
	hdrRefcountOffset     = 48
	hdrRefcountClusters   = 56
	hdrSnapshots          = 60
	hdrSnapshotsOffset    = 64
	hdrV2Length           = 72
	hdrIncompatible       = 72
	hdrCompatible         = 80
	hdrAutoclear          = 88
	hdrRefcountOrder      = 96
	hdrHeaderLength       = 100
	hdrV3Length           = 104
	hdrCompressionType    = 104
	hdrWithCompressionLen = 112
)

// Incompatible feature bits.
const (
	incompatDirty       = 1 << 0 // reference counts may be wrong: no matter for reading
	incompatCorrupt     = 1 << 1
	incompatDataFile    = 1 << 2
	incompatCompression = 1 << 3
	incompatExtendedL2  = 1 << 4
)

// Header extensions.
const (
	extEnd           = 0
	extBackingFormat = 0xE2792ACA
	maxBackingName   = 1023
)

// Entries of the L1 and L2 tables.
const (
	entryBytes     = 8
	flagCopied     = 1 << 63 // the reference count is exactly one
	flagCompressed = 1 << 62
	flagZero       = 1 << 0
	offsetMask     = 0x00fffffffffffe00
	l2Reserved     = 0x3f000000000001fe // of a standard cluster, in version 3
	l1Reserved     = 0x7f000000000001ff
	sectorSize     = 512
)

// compressedShift is the number of offset bits in the L2 entry of a compressed cluster; the number of sectors follows.
func compressedShift(clusterBits uint) uint { return 62 - (clusterBits - 8) }
