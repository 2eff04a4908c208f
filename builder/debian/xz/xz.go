// Package xz reads .xz files (The .xz File Format 1.2.1, https://tukaani.org/xz/xz-file-format.txt) of one stream, as
// dpkg-deb and Debian's archive make them.
//
// The container is read here and the LZMA2 inside by github.com/ulikunitz/xz/lzma, for two reasons: the index at the
// end of the file allows the blocks to be unpacked side by side, which is the only way to make pure Go bearable on a
// kernel package; and memory can be bounded by what the headers ask for before anything is allocated.
//
// What it deliberately does not do: several streams in one file, stream padding, filters other than LZMA2, writing.
package xz

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"hash/crc64"
	"io"
	"runtime"
	"slices"

	"github.com/ulikunitz/xz/lzma"
)

// ErrFormat is wrapped by every error about bytes that are no sound .xz file.
var ErrFormat = errors.New("not a sound xz file")

const (
	headerMagic = "\xfd7zXZ\x00" // 2.1.1.1
	footerMagic = "YZ"           // 2.1.2.4
	headerSize  = 12             // of the stream header and of the stream footer
	filterLZMA2 = 0x21           // 5.3.1
	maxDictBits = 40             // 5.3.1
	maxVLISize  = 9              // 1.2: bytes of a multibyte integer
	maxBlocks   = 1 << 16
	maxIndex    = 1 << 20
	// maxHeld is the largest block unpacked ahead into memory, in bytes; xz -T makes blocks of three dictionaries:
	// 24 MiB for -6, 192 MiB for -9.
	maxHeld = 64 << 20
)

// checks are the integrity checks of 2.1.1.2 that this package knows, by their id.
var checks = map[byte]struct {
	size int64
	make func() hash.Hash
}{
	0x00: {0, nil},
	0x01: {4, func() hash.Hash { return crc32.NewIEEE() }},
	0x04: {8, func() hash.Hash { return crc64.New(crc64.MakeTable(crc64.ECMA)) }},
	0x0a: {32, sha256.New},
}

// block is one block as the index has it.
type block struct {
	offset       int64 // of its header
	packed       int64 // "unpadded size": header, data and check
	uncompressed int64
}

// file is an outline that was found sound.
type file struct {
	r         io.ReaderAt
	check     byte
	blocks    []block
	maxMemory int64
}

// NewReader returns a reader of the unpacked content of r, which is size bytes long. A block that would need more than
// maxMemory bytes for its dictionary is refused; blocks unpacked ahead take up to 64 MiB more for each processor.
// Close ends what runs in the background and must be called.
func NewReader(r io.ReaderAt, size, maxMemory int64) (io.ReadCloser, error) {
	f := &file{r: r, maxMemory: maxMemory}
	if err := f.readOutline(size); err != nil {
		return nil, err
	}
	if len(f.blocks) > 1 && !slices.ContainsFunc(f.blocks, func(b block) bool { return b.uncompressed > maxHeld }) {
		return newParallel(f, runtime.GOMAXPROCS(0)), nil
	}
	return &sequential{f: f}, nil
}

// readOutline reads header, footer and index (sections 2 and 4).
func (f *file) readOutline(size int64) error {
	var head, foot [headerSize]byte
	if size < 2*headerSize || size%4 != 0 {
		return bad("%d bytes cannot be one", size)
	}
	if err := readAt(f.r, head[:], 0); err != nil {
		return err
	}
	if err := readAt(f.r, foot[:], size-headerSize); err != nil {
		return err
	}
	flags := head[6:8]
	switch {
	case string(head[:6]) != headerMagic:
		return bad("it does not start as one")
	case binary.LittleEndian.Uint32(head[8:]) != crc32.ChecksumIEEE(flags):
		return bad("the stream header is damaged")
	case string(foot[10:]) != footerMagic || binary.LittleEndian.Uint32(foot[:]) != crc32.ChecksumIEEE(foot[4:10]):
		return bad("the end is missing or damaged")
	case !bytes.Equal(flags, foot[8:10]) || flags[0] != 0:
		return bad("stream flags % x and % x", flags, foot[8:10])
	}
	f.check = flags[1]
	if _, known := checks[f.check]; !known {
		return bad("unknown integrity check %#x", f.check)
	}
	indexSize := (int64(binary.LittleEndian.Uint32(foot[4:])) + 1) * 4
	if indexSize > maxIndex || indexSize > size-2*headerSize {
		return bad("an index of %d bytes", indexSize)
	}
	index := make([]byte, indexSize)
	indexAt := size - headerSize - indexSize
	if err := readAt(f.r, index, indexAt); err != nil {
		return err
	}
	sum := index[indexSize-4:]
	if index[0] != 0 || binary.LittleEndian.Uint32(sum) != crc32.ChecksumIEEE(index[:indexSize-4]) {
		return bad("the index is damaged")
	}
	return f.readIndex(index[1:indexSize-4], indexAt)
}

func (f *file) readIndex(index []byte, end int64) error {
	n, index, err := vli(index)
	if err != nil || n > maxBlocks {
		return bad("an index of %d blocks", n)
	}
	offset := int64(headerSize)
	for range n {
		var b block
		b.offset = offset
		if b.packed, index, err = vli(index); err != nil {
			return err
		}
		if b.uncompressed, index, err = vli(index); err != nil {
			return err
		}
		if b.packed <= 0 || b.packed > end || padded(b.packed) > end-offset {
			return bad("the index has a block of %d bytes at offset %d", b.packed, offset)
		}
		offset += padded(b.packed)
		f.blocks = append(f.blocks, b)
	}
	if offset != end || len(index) > 3 || len(bytes.Trim(index, "\x00")) > 0 {
		return bad("the index does not cover the file")
	}
	return nil
}

// open returns a reader of one block's content (section 3), which fails at its end when size or check do not match.
func (f *file) open(b block) (io.Reader, error) {
	var length [1]byte
	if err := readAt(f.r, length[:], b.offset); err != nil {
		return nil, err
	}
	header := make([]byte, (int64(length[0])+1)*4)
	check := checks[f.check]
	dataSize := b.packed - int64(len(header)) - check.size
	if length[0] == 0 || dataSize <= 0 {
		return nil, bad("a block header of %d bytes at offset %d", len(header), b.offset)
	}
	if err := readAt(f.r, header, b.offset); err != nil {
		return nil, err
	}
	body, sum := header[:len(header)-4], header[len(header)-4:]
	if binary.LittleEndian.Uint32(sum) != crc32.ChecksumIEEE(body) {
		return nil, bad("the block header at offset %d is damaged", b.offset)
	}
	dictionary, err := readBlockHeader(body[1:], dataSize, b.uncompressed)
	if err != nil {
		return nil, err
	}
	if dictionary > f.maxMemory {
		return nil, bad("a dictionary of %d bytes; at most %d are allowed", dictionary, f.maxMemory)
	}
	// A dictionary larger than the content is never filled.
	dictionary = max(min(dictionary, b.uncompressed), lzma.MinDictCap)
	data := io.NewSectionReader(f.r, b.offset+int64(len(header)), dataSize)
	content, err := lzma.Reader2Config{DictCap: int(dictionary)}.NewReader2(bufio.NewReaderSize(data, 64<<10))
	if err != nil {
		return nil, bad("%v", err)
	}
	var filler [3]byte // 3.3: zeros up to a multiple of four
	end := b.offset + b.packed - check.size
	fill := filler[:padded(b.packed-check.size)-(b.packed-check.size)]
	if err := readAt(f.r, fill, end); err != nil {
		return nil, err
	}
	if filler != [3]byte{} {
		return nil, bad("the padding of the block at offset %d is not zero", b.offset)
	}
	c := &checked{r: content, left: b.uncompressed, want: make([]byte, check.size)}
	if err := readAt(f.r, c.want, b.offset+padded(b.packed-check.size)); err != nil {
		return nil, err
	}
	if check.make != nil {
		c.sum = check.make()
		if f.check != 0x0a { // CRCs are stored little endian, Go's Sum is big endian
			slices.Reverse(c.want)
		}
	}
	return c, nil
}

// readBlockHeader reads what lies between the size and the CRC of a block header (3.1) and returns the size of the
// dictionary.
func readBlockHeader(h []byte, dataSize, uncompressed int64) (dictionary int64, err error) {
	const (
		oneFilter       = 0x00
		countMask       = 0x03
		reserved        = 0x3c
		hasCompressed   = 0x40
		hasUncompressed = 0x80
	)
	flags := h[0]
	h = h[1:]
	if flags&reserved != 0 || flags&countMask != oneFilter {
		return 0, bad("block flags %#x: only the LZMA2 filter alone is supported", flags)
	}
	for _, field := range []struct {
		bit  byte
		want int64
	}{{hasCompressed, dataSize}, {hasUncompressed, uncompressed}} {
		if flags&field.bit == 0 {
			continue
		}
		var got int64
		if got, h, err = vli(h); err != nil {
			return 0, err
		}
		if got != field.want {
			return 0, bad("a block header says %d bytes, the index %d", got, field.want)
		}
	}
	if len(h) < 3 || h[0] != filterLZMA2 || h[1] != 1 || h[2] > maxDictBits {
		return 0, bad("a filter other than LZMA2")
	}
	if bits := h[2]; bits < maxDictBits {
		return (2 | int64(bits&1)) << (bits/2 + 11), nil
	}
	return 1<<32 - 1, nil
}

// checked compares size and check at the end of a block.
type checked struct {
	r    io.Reader
	left int64
	sum  hash.Hash // nil for no check
	want []byte
}

func (c *checked) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	if int64(n) > c.left {
		return 0, bad("a block is longer than the index says")
	}
	c.left -= int64(n)
	if c.sum != nil {
		c.sum.Write(p[:n])
	}
	switch {
	case err == nil:
		return n, nil
	case err != io.EOF:
		return n, bad("%v", err)
	case c.left > 0:
		return n, bad("a block is shorter than the index says")
	case c.sum != nil && !bytes.Equal(c.sum.Sum(nil), c.want):
		return n, bad("the check of a block does not match its content")
	}
	return n, io.EOF
}

// sequential reads block after block.
type sequential struct {
	f    *file
	next int
	now  io.Reader
}

func (s *sequential) Read(p []byte) (int, error) {
	for {
		if s.now == nil {
			if s.next == len(s.f.blocks) {
				return 0, io.EOF
			}
			var err error
			if s.now, err = s.f.open(s.f.blocks[s.next]); err != nil {
				return 0, err
			}
			s.next++
		}
		n, err := s.now.Read(p)
		if err == io.EOF {
			s.now, err = nil, nil
			if n == 0 {
				continue
			}
		}
		return n, err
	}
}

func (s *sequential) Close() error { return nil }

// padded is n filled up to a multiple of four, as the data of a block is before its check (3.3).
func padded(n int64) int64 { return (n + 3) &^ 3 }

// vli reads a multibyte integer (1.2).
func vli(b []byte) (int64, []byte, error) {
	var v uint64
	for i := 0; i < len(b) && i < maxVLISize; i++ {
		v |= uint64(b[i]&0x7f) << (7 * i)
		if b[i]&0x80 == 0 {
			if i > 0 && b[i] == 0 {
				break
			}
			return int64(v), b[i+1:], nil
		}
	}
	return 0, nil, bad("a malformed integer")
}

func readAt(r io.ReaderAt, p []byte, off int64) error {
	if n, err := r.ReadAt(p, off); n < len(p) {
		return fmt.Errorf("%w: reading %d bytes at offset %d: %w", ErrFormat, len(p), off, err)
	}
	return nil
}

func bad(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrFormat, fmt.Sprintf(format, args...))
}
