package vmdk

import (
	"bytes"
	"compress/zlib"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"

	"rempart/builder/disk"
	"rempart/builder/disk/internal/cache"
)

// Image is an opened image. It is an io.ReaderAt over the disk and may be used from many goroutines.
type Image struct {
	header
	kind      Kind
	r         io.ReaderAt
	length    int64    // of the file
	tables    []uint64 // offsets of the grain tables in bytes; 0: none
	entries   cache.Cache
	unpacked  cache.Cache
	grainByte int64
}

// How much is kept of tables and of unpacked grains.
const (
	keptTables   = 64
	keptUnpacked = 1 << 20 // bytes
)

// fields of the descriptor that matter.
var (
	createType = regexp.MustCompile(`(?m)^createType\s*=\s*"([^"\r\n]*)"`)
	parentCID  = regexp.MustCompile(`(?mi)^parentCID\s*=\s*([0-9a-f]+)`)
)

// Open opens an image in a file of length bytes. Errors wrap ErrFormat, ErrCorrupt, ErrUnsupported or what reading the
// file gave. Memory: 2 bytes for each MiB of the disk, and a cache of some MiB.
func Open(r io.ReaderAt, length int64) (*Image, error) {
	i, err := open(r, length)
	if err != nil {
		return nil, fmt.Errorf("vmdk: %w", err)
	}
	return i, nil
}

func open(r io.ReaderAt, length int64) (*Image, error) {
	b := make([]byte, min(sectorSize, max(0, length)))
	if err := disk.ReadFull(r, b, 0); err != nil {
		return nil, err
	}
	if bytes.HasPrefix(b, []byte("# Disk Descriptor")) {
		return nil, fmt.Errorf("its disk is in other files, which may be any of this machine's; of an image that you "+
			"trust `qemu-img convert -O qcow2` makes one file: %w", ErrUnsupported)
	}
	h, err := parseHeader(b)
	if err != nil {
		return nil, err
	}
	i := &Image{header: *h, kind: MonolithicSparse, r: r, length: length, grainByte: int64(h.grain) * sectorSize}
	if h.flags&flagCompressed != 0 {
		i.kind = StreamOptimized
	}
	i.entries.Limit, i.unpacked.Limit = keptTables, int(max(1, keptUnpacked/i.grainByte))
	if h.directory == directoryAtEnd {
		if err := i.footer(); err != nil {
			return nil, err
		}
	}
	if err := i.descriptor(); err != nil {
		return nil, err
	}
	return i, i.readDirectory()
}

// footer takes the place of the directory from the header's copy, which is the sector before the last.
func (i *Image) footer() error {
	if i.length < 4*sectorSize {
		return fmt.Errorf("no footer: %w", ErrCorrupt)
	}
	b := make([]byte, sectorSize)
	if err := disk.ReadFull(i.r, b, i.length-2*sectorSize); err != nil {
		return err
	}
	h, err := parseHeader(b)
	if err != nil {
		return fmt.Errorf("footer: %w: %w", ErrCorrupt, err)
	}
	if h.capacity != i.capacity || h.grain != i.grain || h.flags != i.flags || h.directory == directoryAtEnd {
		return fmt.Errorf("the footer is that of another disk: %w", ErrCorrupt)
	}
	i.directory = h.directory
	return nil
}

// descriptor looks at the text that describes the disk.
func (i *Image) descriptor() error {
	if i.desc == 0 {
		return nil // a part of a disk without any, or of one whose descriptor is another file's
	}
	size := i.descSize * sectorSize
	if i.desc > uint64(i.length)/sectorSize || i.descSize > maxDescriptor/sectorSize ||
		size > uint64(i.length)-i.desc*sectorSize {
		return fmt.Errorf("a descriptor of %d sectors at %d: %w", i.descSize, i.desc, ErrCorrupt)
	}
	b := make([]byte, size)
	if err := disk.ReadFull(i.r, b, int64(i.desc*sectorSize)); err != nil {
		return fmt.Errorf("descriptor: %w", err)
	}
	if m := createType.FindSubmatch(b); m != nil && Kind(m[1]) != StreamOptimized && Kind(m[1]) != MonolithicSparse {
		return fmt.Errorf("an image of kind %q: %w", m[1], ErrUnsupported)
	}
	if m := parentCID.FindSubmatch(b); m != nil && !bytes.EqualFold(m[1], []byte(noParent)) {
		return fmt.Errorf("it lies on another image: %w", ErrUnsupported)
	}
	return nil
}

// noParent is the parentCID of an image that lies on no other.
const noParent = "ffffffff"

// readDirectory reads the grain directory. That every table is named once bounds the work of walking the image by the
// file.
func (i *Image) readDirectory() error {
	perTable := i.grain * tableEntries
	count := (i.capacity + perTable - 1) / perTable
	at := i.directory
	if at > uint64(i.length)/sectorSize || count*4 > uint64(i.length)-at*sectorSize {
		return fmt.Errorf("a directory of %d tables at sector %d of %d: %w", count, at, i.length/sectorSize, ErrCorrupt)
	}
	b := make([]byte, count*4)
	if err := disk.ReadFull(i.r, b, int64(at*sectorSize)); err != nil {
		return fmt.Errorf("grain directory: %w", err)
	}
	i.tables = make([]uint64, count)
	var used []uint64
	for n := range i.tables {
		table := uint64(binary.LittleEndian.Uint32(b[4*n:])) * sectorSize
		if table == 0 {
			continue
		}
		if table > uint64(i.length) || uint64(i.length)-table < tableEntries*4 {
			return fmt.Errorf("grain table %d at offset %d: %w", n, table, ErrCorrupt)
		}
		i.tables[n] = table
		used = append(used, table)
	}
	slices.Sort(used)
	if len(slices.Compact(used)) != len(used) {
		return fmt.Errorf("two parts of the disk have one grain table: %w", ErrCorrupt)
	}
	return nil
}

// Kind tells which form the image has.
func (i *Image) Kind() Kind { return i.kind }

// Size is the size of the disk in bytes.
func (i *Image) Size() int64 { return int64(i.capacity) * sectorSize }

// grainAt is where in the file a grain lies; 0: it is zero.
func (i *Image) grainAt(n int64) (int64, error) {
	table := i.tables[n/tableEntries]
	if table == 0 {
		return 0, nil
	}
	b := i.entries.Get(table)
	if b == nil {
		b = make([]byte, tableEntries*4)
		if err := disk.ReadFull(i.r, b, int64(table)); err != nil {
			return 0, fmt.Errorf("grain table: %w", err)
		}
		i.entries.Put(table, b)
	}
	at := int64(binary.LittleEndian.Uint32(b[n%tableEntries*4:])) * sectorSize
	switch {
	case at == 0 || at == sectorSize && i.flags&flagZeroGrains != 0:
		return 0, nil
	case at >= i.length:
		return 0, fmt.Errorf("grain %d at offset %d of %d: %w", n, at, i.length, ErrCorrupt)
	}
	return at, nil
}

// ReadAt implements io.ReaderAt over the disk.
func (i *Image) ReadAt(b []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("vmdk: negative offset %d", off)
	}
	if off >= i.Size() {
		return 0, io.EOF
	}
	var short error
	if int64(len(b)) > i.Size()-off {
		b, short = b[:i.Size()-off], io.EOF
	}
	for done := 0; done < len(b); {
		at := off + int64(done)
		within := at % i.grainByte
		part := b[done:min(len(b), done+int(i.grainByte-within))]
		if err := i.readPart(part, at/i.grainByte, within); err != nil {
			return done, fmt.Errorf("vmdk: %w", err)
		}
		done += len(part)
	}
	return len(b), short
}

// readPart reads bytes of one grain.
func (i *Image) readPart(b []byte, n, within int64) error {
	at, err := i.grainAt(n)
	if err != nil {
		return err
	}
	if at == 0 {
		clear(b)
		return nil
	}
	if i.flags&flagCompressed == 0 {
		// The last grain may end with the file: what was never written is zero.
		have := int(min(int64(len(b)), max(0, i.length-at-within)))
		clear(b[have:])
		return disk.ReadFull(i.r, b[:have], at+within)
	}
	grain := i.unpacked.Get(uint64(at))
	if grain == nil {
		if grain, err = i.unpack(at, n); err != nil {
			return fmt.Errorf("grain %d: %w", n, err)
		}
		i.unpacked.Put(uint64(at), grain)
	}
	copy(b, grain[within:])
	return nil
}

// unpack decompresses the grain at an offset, whose marker must say that it is grain n.
func (i *Image) unpack(at, n int64) ([]byte, error) {
	var marker [markerHeader]byte
	if err := disk.ReadFull(i.r, marker[:], at); err != nil {
		return nil, err
	}
	sector, size := binary.LittleEndian.Uint64(marker[:]), int64(binary.LittleEndian.Uint32(marker[8:]))
	if sector != uint64(n)*i.grain || size == 0 || size > 2*i.grainByte || size > i.length-at-markerHeader {
		return nil, fmt.Errorf("its marker is of sector %d, with %d bytes: %w", sector, size, ErrCorrupt)
	}
	packed := make([]byte, size)
	if err := disk.ReadFull(i.r, packed, at+markerHeader); err != nil {
		return nil, err
	}
	z, err := zlib.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	grain := make([]byte, i.grainByte)
	// The last grain of a disk may have been packed without what is behind the disk's end.
	want := min(i.grainByte, i.Size()-n*i.grainByte)
	if got, err := io.ReadFull(z, grain); int64(got) < want {
		return nil, fmt.Errorf("%d bytes of %d: %w: %w", got, want, ErrCorrupt, err)
	}
	// The checksum is behind the last byte: it is compared by whoever reads on.
	if _, err := z.Read(make([]byte, 1)); errors.Is(err, zlib.ErrChecksum) {
		return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return grain, nil
}

// Sparse is the disk as an image that leaves out what the tables say is zero. It reads through the Image. Grains that
// hold more than the file does share their bytes, which no writer does: such an image is refused, or a few kilobytes
// would become a disk of terabytes.
func (i *Image) Sparse(ctx context.Context) (*disk.Sparse, error) {
	s := disk.NewSparse(i.Size())
	var from, to, held int64
	flush := func() error {
		if from == to {
			return nil
		}
		return s.Put(from, io.NewSectionReader(i, from, to-from), to-from)
	}
	grains := (i.Size() + i.grainByte - 1) / i.grainByte
	for n := int64(0); n < grains; n++ {
		if i.tables[n/tableEntries] == 0 {
			n |= tableEntries - 1 // the next table's first is next
			continue
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		at, err := i.grainAt(n)
		if err != nil {
			return nil, fmt.Errorf("vmdk: %w", err)
		}
		if at == 0 {
			continue
		}
		// Compressed ones cannot be shared: each says which it is.
		if held += i.grainByte; i.flags&flagCompressed == 0 && held-i.grainByte > i.length {
			return nil, fmt.Errorf("vmdk: the grains up to %d have more bytes than the file: %w", n, ErrCorrupt)
		}
		if start := n * i.grainByte; start != to || from == to {
			if err := flush(); err != nil {
				return nil, err
			}
			from = start
		}
		to = min((n+1)*i.grainByte, i.Size())
	}
	return s, flush()
}
