package qcow2

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"rempart/builder/disk"
	"rempart/builder/disk/internal/cache"
)

// maxDepth is how many images may lie on each other. A chain that names itself ends here too.
const maxDepth = 16

// OpenOptions say what Open may reach besides the image.
type OpenOptions struct {
	// Backing opens the file an image lies on. name and format are what the image says, and hostile: nothing is done
	// with them but calling this. nil refuses every image that has a backing file.
	Backing func(name, format string) (BackingFile, error)
}

// BackingFile is an opened backing file. Who opened it closes it, when the image is no longer used.
type BackingFile struct {
	io.ReaderAt
	Size   int64  // bytes
	Format string // "raw" or "qcow2"
}

// Image is an opened image. It is an io.ReaderAt over the virtual disk and may be read from many goroutines.
type Image struct {
	header
	r       io.ReaderAt
	length  int64 // of the file
	l1      []uint64
	backing *BackingFile // its reader is the virtual disk, whatever the format; nil: none

	slices   cache.Cache // of L2 tables, by their place in the file
	inflated cache.Cache // decompressed clusters, by their L2 entry
	inflate  sync.Pool   // *inflater
}

// Open opens an image in a file of length bytes. Errors wrap ErrFormat, ErrCorrupt, ErrUnsupported, ErrBacking or what
// reading the file gave. Memory: the L1 table (at most 32 MiB, and no more than the file holds), and a cache
// of at most some 16 MiB, for each image of the chain.
func Open(r io.ReaderAt, length int64, o OpenOptions) (*Image, error) { return open(r, length, o, 1) }

func open(r io.ReaderAt, length int64, o OpenOptions, depth int) (*Image, error) {
	h, err := readHeader(r, length)
	if err != nil {
		return nil, fmt.Errorf("qcow2: %w", err)
	}
	i := newImage(h, r, length)
	if err := i.readL1(); err != nil {
		return nil, fmt.Errorf("qcow2: %w", err)
	}
	if h.backingName == "" {
		return i, nil
	}
	if o.Backing == nil {
		return nil, fmt.Errorf("qcow2: it lies on %q: %w", h.backingName, ErrBacking)
	}
	if depth == maxDepth {
		return nil, fmt.Errorf("qcow2: more than %d images on each other: %w", maxDepth, ErrUnsupported)
	}
	b, err := o.Backing(h.backingName, h.backingFormat)
	if err != nil {
		return nil, fmt.Errorf("qcow2: it lies on %q: %w: %w", h.backingName, ErrBacking, err)
	}
	switch b.Format {
	case "raw":
	case "qcow2":
		below, err := open(b.ReaderAt, b.Size, o, depth+1)
		if err != nil {
			return nil, fmt.Errorf("backing file %q: %w", h.backingName, err)
		}
		b.ReaderAt, b.Size = below, below.size
	default:
		return nil, fmt.Errorf("qcow2: backing file %q of format %q; want raw or qcow2, said by who opens it: %w",
			h.backingName, b.Format, ErrUnsupported)
	}
	i.backing = &b
	return i, nil
}

// BackingName is the name of the file that an image of length bytes says it lies on; empty: none. Nothing is opened.
func BackingName(r io.ReaderAt, length int64) (string, error) {
	h, err := readHeader(r, length)
	if err != nil {
		return "", fmt.Errorf("qcow2: %w", err)
	}
	return h.backingName, nil
}

func newImage(h *header, r io.ReaderAt, length int64) *Image {
	i := &Image{header: *h, r: r, length: length}
	i.slices.Limit = maxSlices
	i.inflated.Limit = int(max(1, maxInflated>>i.clusterBits))
	i.inflate.New = func() any { return &inflater{compression: i.compression} }
	return i
}

// Size is the size of the virtual disk in bytes.
func (i *Image) Size() int64 { return i.size }

// Backing is the backing file the image names, empty for none; format is empty where the image does not say.
func (i *Image) Backing() (name, format string) { return i.backingName, i.backingFormat }

// readL1 reads the L1 table. That every L2 table is named once bounds the work of walking the image by the file.
func (i *Image) readL1() error {
	b := make([]byte, i.l1Size*entryBytes)
	if err := disk.ReadFull(i.r, b, i.l1Offset); err != nil {
		return fmt.Errorf("L1 table: %w", err)
	}
	i.l1 = make([]uint64, i.l1Size)
	var used []uint64
	for k := range i.l1 {
		entry := binary.BigEndian.Uint64(b[k*entryBytes:])
		at := entry & offsetMask
		if entry&l1Reserved != 0 || at&uint64(i.clusterSize()-1) != 0 || at > uint64(i.length) ||
			at != 0 && uint64(i.clusterSize()) > uint64(i.length)-at {
			return fmt.Errorf("L1 entry %d is %#x: %w", k, entry, ErrCorrupt)
		}
		if i.l1[k] = at; at != 0 {
			used = append(used, at)
		}
	}
	slices.Sort(used)
	if len(slices.Compact(used)) != len(used) {
		return fmt.Errorf("two L1 entries name one L2 table: %w", ErrCorrupt)
	}
	return nil
}

// where says where the bytes of a cluster are.
type where uint8

const (
	unallocated where = iota // in the backing file, else zero
	zero
	plain
	packed
)

// place is the meaning of an L2 entry.
type place struct {
	where  where
	offset int64 // in the file
	length int64 // of packed: at most, the last sector is counted whole
	entry  uint64
}

// find looks a cluster of the virtual disk up.
func (i *Image) find(cluster int64) (place, error) {
	table := i.l1[cluster/i.l2Entries()]
	if table == 0 {
		return place{}, nil
	}
	index := cluster % i.l2Entries()
	slice, err := i.slice(int64(table) + index/sliceEntries*sliceEntries*entryBytes)
	if err != nil {
		return place{}, fmt.Errorf("L2 table: %w", err)
	}
	entry := binary.BigEndian.Uint64(slice[index%sliceEntries*entryBytes:])
	p, err := i.parse(entry)
	if err != nil {
		return place{}, fmt.Errorf("cluster %d of the virtual disk, L2 entry %#x: %w", cluster, entry, err)
	}
	return p, nil
}

// L2 tables are read in pieces of a page, so that large clusters cost no large reads.
const (
	sliceEntries = 512
	maxSlices    = 64
	maxInflated  = 1 << 20 // bytes of decompressed clusters to keep; at least one is
)

func (i *Image) slice(at int64) ([]byte, error) {
	if b := i.slices.Get(uint64(at)); b != nil {
		return b, nil
	}
	b := make([]byte, min(sliceEntries, i.l2Entries())*entryBytes)
	if err := disk.ReadFull(i.r, b, at); err != nil {
		return nil, err
	}
	i.slices.Put(uint64(at), b)
	return b, nil
}

func (i *Image) parse(entry uint64) (place, error) {
	if entry&flagCompressed != 0 {
		if entry&flagCopied != 0 {
			return place{}, fmt.Errorf("compressed and in place: %w", ErrCorrupt)
		}
		shift := compressedShift(i.clusterBits)
		at := int64(entry & (1<<shift - 1))
		sectors := int64(entry&^flagCompressed>>shift) + 1
		// The count of sectors may reach beyond the end of the file; the data does not.
		length := min(sectors*sectorSize-at%sectorSize, i.length-at)
		if at < i.clusterSize() || length <= 0 {
			return place{}, fmt.Errorf("outside the file of %d bytes: %w", i.length, ErrCorrupt)
		}
		return place{where: packed, offset: at, length: length, entry: entry}, nil
	}
	at := int64(entry & offsetMask)
	switch {
	case entry&l2Reserved != 0 || i.version < 3 && entry&flagZero != 0:
		return place{}, fmt.Errorf("reserved bits: %w", ErrCorrupt)
	case at%i.clusterSize() != 0:
		return place{}, fmt.Errorf("not aligned: %w", ErrCorrupt)
	case entry&flagZero != 0:
		return place{where: zero}, nil // with space allocated or not
	case at == 0:
		return place{}, nil
	case at >= i.length:
		return place{}, fmt.Errorf("outside the file of %d bytes: %w", i.length, ErrCorrupt)
	}
	return place{where: plain, offset: at}, nil
}

// ReadAt implements io.ReaderAt over the virtual disk.
func (i *Image) ReadAt(b []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("qcow2: negative offset %d", off)
	}
	if off >= i.size {
		return 0, io.EOF
	}
	var short error
	if int64(len(b)) > i.size-off {
		b, short = b[:i.size-off], io.EOF
	}
	for done := 0; done < len(b); {
		at := off + int64(done)
		within := at & (i.clusterSize() - 1)
		part := b[done:min(len(b), done+int(i.clusterSize()-within))]
		if err := i.readPart(part, at>>i.clusterBits, within); err != nil {
			return done, fmt.Errorf("qcow2: %w", err)
		}
		done += len(part)
	}
	return len(b), short
}

// readPart reads bytes of one cluster.
func (i *Image) readPart(b []byte, cluster, within int64) error {
	p, err := i.find(cluster)
	if err != nil {
		return err
	}
	switch p.where {
	case zero:
		clear(b)
	case plain:
		// A file may end inside its last cluster: the rest was never written, and is zero.
		n := int(min(int64(len(b)), max(0, i.length-p.offset-within)))
		clear(b[n:])
		return disk.ReadFull(i.r, b[:n], p.offset+within)
	case packed:
		return i.readPacked(b, cluster, within, p)
	default:
		return i.readBacking(b, cluster<<i.clusterBits+within)
	}
	return nil
}

func (i *Image) readBacking(b []byte, at int64) error {
	n := 0
	if i.backing != nil {
		n = int(min(int64(len(b)), max(0, i.backing.Size-at)))
		if err := disk.ReadFull(i.backing, b[:n], at); err != nil {
			return fmt.Errorf("backing file: %w", err)
		}
	}
	clear(b[n:])
	return nil
}

func (i *Image) readPacked(b []byte, cluster, within int64, p place) error {
	// A reader that takes whole clusters needs no copy kept.
	whole := int64(len(b)) == i.clusterSize()
	out := b
	if !whole {
		if kept := i.inflated.Get(p.entry); kept != nil {
			copy(b, kept[within:])
			return nil
		}
		out = make([]byte, i.clusterSize())
	}
	in := make([]byte, p.length)
	if err := disk.ReadFull(i.r, in, p.offset); err != nil {
		return err
	}
	z := i.inflate.Get().(*inflater)
	err := z.inflate(out, in)
	i.inflate.Put(z)
	if err != nil {
		return fmt.Errorf("cluster %d of the virtual disk does not decompress: %w: %w", cluster, ErrCorrupt, err)
	}
	if !whole {
		i.inflated.Put(p.entry, out)
		copy(b, out[within:])
	}
	return nil
}

// IsImage says whether a file starts as a qcow2 image does.
func IsImage(r io.ReaderAt) (bool, error) {
	var b [4]byte
	n, err := r.ReadAt(b[:], 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return false, err
	}
	return n == len(b) && binary.BigEndian.Uint32(b[:]) == magic, nil
}
