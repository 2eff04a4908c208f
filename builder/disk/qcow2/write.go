package qcow2

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"rempart/builder/disk"
)

const (
	// clusterBits: 64 KiB, QEMU's own default. Smaller ones compress worse and need more tables.
	clusterBits = 16
	clusterSize = 1 << clusterBits
	l2Entries   = clusterSize / entryBytes

	refcountOrder = 4 // 16 bits, QEMU's default
	refcountBytes = 1 << refcountOrder / 8
	blockEntries  = clusterSize / refcountBytes

	// maxL1Bytes is QCOW_MAX_L1_SIZE of QEMU: it refuses larger tables.
	maxL1Bytes = 32 << 20
	maxSize    = maxL1Bytes / entryBytes * l2Entries * clusterSize
)

// Options are how to write an image. The zero value is right for a master.
type Options struct {
	Size        int64 // virtual size in bytes, a multiple of 512; 0: that of the content
	Compression Compression
	// Backing is the image below, nil for none. What the content leaves out is then stored as explicit zeros,
	// unless HolesShowBacking.
	Backing *Backing
	// HolesShowBacking makes what lies outside the extents of the content show the backing file: with an empty
	// content, a new overlay. Zeros inside extents stay zeros.
	HolesShowBacking bool
}

// Backing names a backing file as a guest's QEMU will find it.
type Backing struct {
	Name   string // at most 1023 bytes; a relative one is relative to the image
	Format string // "raw" or "qcow2"; QEMU no longer guesses, and guessing let guests read host files
}

// Write makes f a qcow2 image of the content; what f held is gone. It returns once the bytes are on the disk (fsync).
// The header goes last, so what an interrupted Write leaves is no image. As with disk.WriteRaw the caller gives a
// temporary name and renames, and a full disk is an error that wraps syscall.ENOSPC.
func Write(ctx context.Context, f *os.File, content *disk.Sparse, o Options) error {
	w := &writer{f: f, content: content, o: o, l2: map[int64][]uint64{}}
	if err := w.check(); err != nil {
		return fmt.Errorf("qcow2 image %s: %w", f.Name(), err)
	}
	if err := w.write(ctx); err != nil {
		return disk.WriteError(f.Name(), content, w.end, err)
	}
	return nil
}

type writer struct {
	f       *os.File
	content *disk.Sparse
	o       Options
	size    int64              // virtual
	l2      map[int64][]uint64 // tables by index in the L1 table
	refs    []uint16           // reference counts by cluster of the file
	end     int64              // of what is allocated in the file
}

func (w *writer) check() error {
	w.size = w.o.Size
	if w.size == 0 {
		w.size = w.content.Size()
	}
	switch b := w.o.Backing; {
	case w.size%sectorSize != 0 || w.size < w.content.Size() || w.size > maxSize:
		return fmt.Errorf("a virtual size of %d bytes for %d bytes of content: want a multiple of %d from there to %d",
			w.size, w.content.Size(), sectorSize, int64(maxSize))
	case w.o.Compression > Zstd:
		return fmt.Errorf("compression %d: %w", w.o.Compression, ErrUnsupported)
	case b != nil && (b.Name == "" || len(b.Name) > maxBackingName || b.Format != "raw" && b.Format != "qcow2"):
		return fmt.Errorf("backing file %q of format %q: want a name of 1 to %d bytes, and raw or qcow2", b.Name, b.Format,
			maxBackingName)
	case b == nil && w.o.HolesShowBacking:
		return errors.New("holes cannot show a backing file: there is none")
	}
	return nil
}

// The file: header; the compressed clusters, packed to the byte; those that do not compress, aligned; L2 tables; L1
// table; reference counts.
func (w *writer) write(ctx context.Context) error {
	if err := w.f.Truncate(0); err != nil {
		return err
	}
	w.allocate(1) // the header
	if w.o.Backing != nil && !w.o.HolesShowBacking {
		for c := range w.clusters() {
			w.set(c, flagZero)
		}
	}
	plain, err := w.compressed(ctx)
	if err != nil {
		return err
	}
	buf := make([]byte, clusterSize)
	for _, c := range plain {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := readCluster(w.content, buf, c); err != nil {
			return err
		}
		at := w.allocate(1)
		if _, err := w.f.WriteAt(buf, at); err != nil {
			return err
		}
		w.set(c, uint64(at)|flagCopied)
	}
	return w.tables()
}

func (w *writer) clusters() int64 { return (w.size + clusterSize - 1) / clusterSize }

// set sets the L2 entry of a cluster.
func (w *writer) set(cluster int64, entry uint64) {
	table := w.l2[cluster/l2Entries]
	if table == nil {
		table = make([]uint64, l2Entries)
		w.l2[cluster/l2Entries] = table
	}
	table[cluster%l2Entries] = entry
}

// allocate takes n clusters at the end of the file, aligned.
func (w *writer) allocate(n int64) int64 {
	at := (w.end + clusterSize - 1) / clusterSize * clusterSize
	w.end = at + n*clusterSize
	w.reference(at, n*clusterSize)
	return at
}

// reference counts one more user of every cluster of the file that holds some of these bytes.
func (w *writer) reference(at, length int64) {
	first, last := at/clusterSize, (at+length-1)/clusterSize
	for int64(len(w.refs)) <= last {
		w.refs = append(w.refs, 0)
	}
	for c := first; c <= last; c++ {
		w.refs[c]++
	}
}

// compressed writes the clusters that compress and returns those that do not. They come last because a cluster
// stored plain must be aligned: between compressed ones each would leave a hole.
func (w *writer) compressed(ctx context.Context) (plain []int64, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	out := bufio.NewWriterSize(io.NewOffsetWriter(w.f, w.end), 1<<20)
	for r := range compress(ctx, w.content, w.o.Compression) {
		switch {
		case r.err != nil:
			return nil, r.err
		case r.kind == isZero:
			if w.o.HolesShowBacking {
				w.set(r.cluster, flagZero)
			}
		case r.kind == isPlain:
			plain = append(plain, r.cluster)
		default:
			at, n := w.end, int64(len(r.data))
			if _, err := out.Write(r.data); err != nil {
				return nil, err
			}
			w.end += n
			w.reference(at, n)
			sectors := (at+n-1)/sectorSize - at/sectorSize // besides the first
			w.set(r.cluster, flagCompressed|uint64(sectors)<<compressedShift(clusterBits)|uint64(at))
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return plain, out.Flush()
}

// tables writes everything but the data, the header last.
func (w *writer) tables() error {
	// An image of size 0 has one entry too: a table of none has no place that qemu-img check is content with.
	l1 := make([]uint64, max(1, (w.clusters()+l2Entries-1)/l2Entries))
	for i := range l1 {
		table := w.l2[int64(i)]
		if table == nil {
			continue
		}
		at := w.allocate(1)
		if err := w.writeTable(at, table); err != nil {
			return err
		}
		l1[i] = uint64(at) | flagCopied
	}
	l1Offset := w.allocate(bytesToClusters(len(l1) * entryBytes))
	if err := w.writeTable(l1Offset, l1); err != nil {
		return err
	}
	refcountOffset, refcountClusters, err := w.refcounts()
	if err != nil {
		return err
	}
	if err := w.f.Truncate(w.end); err != nil {
		return err
	}
	// Everything the header points to is on the disk before it is.
	if err := w.f.Sync(); err != nil {
		return err
	}
	if _, err := w.f.WriteAt(w.header(len(l1), l1Offset, refcountOffset, refcountClusters), 0); err != nil {
		return err
	}
	return w.f.Sync()
}

func (w *writer) writeTable(at int64, table []uint64) error {
	b := make([]byte, 0, len(table)*entryBytes)
	for _, e := range table {
		b = binary.BigEndian.AppendUint64(b, e)
	}
	_, err := w.f.WriteAt(b, at)
	return err
}

// refcounts writes the reference counts, those of their own clusters included.
func (w *writer) refcounts() (tableOffset, tableClusters int64, err error) {
	used := w.end / clusterSize
	var blocks int64
	tableClusters = 1
	for {
		total := used + tableClusters + blocks
		b := (total + blockEntries - 1) / blockEntries
		t := max(1, bytesToClusters(int(b*entryBytes)))
		if b == blocks && t == tableClusters {
			break
		}
		blocks, tableClusters = b, t
	}
	tableOffset = w.allocate(tableClusters)
	first := w.allocate(blocks)
	table := make([]uint64, blocks)
	for i := range table {
		table[i] = uint64(first) + uint64(i)*clusterSize
	}
	if err := w.writeTable(tableOffset, table); err != nil {
		return 0, 0, err
	}
	b := make([]byte, 0, len(w.refs)*refcountBytes)
	for _, n := range w.refs {
		b = binary.BigEndian.AppendUint16(b, n)
	}
	_, err = w.f.WriteAt(b, first)
	return tableOffset, tableClusters, err
}

func bytesToClusters(n int) int64 { return (int64(n) + clusterSize - 1) / clusterSize }

func (w *writer) header(l1Size int, l1Offset, refcountOffset, refcountClusters int64) []byte {
	length := hdrV3Length // no compression type: readers from before QEMU 5.1 know this length
	var incompatible uint64
	if w.o.Compression != Deflate {
		length, incompatible = hdrWithCompressionLen, incompatCompression
	}
	b := make([]byte, length)
	u32 := func(at int, v uint32) { binary.BigEndian.PutUint32(b[at:], v) }
	u64 := func(at int, v uint64) { binary.BigEndian.PutUint64(b[at:], v) }
	u32(hdrMagic, magic)
	u32(hdrVersion, 3)
	u32(hdrClusterBits, clusterBits)
	u64(hdrSize, uint64(w.size))
	u32(hdrL1Size, uint32(l1Size))
	u64(hdrL1Offset, uint64(l1Offset))
	u64(hdrRefcountOffset, uint64(refcountOffset))
	u32(hdrRefcountClusters, uint32(refcountClusters))
	u64(hdrIncompatible, incompatible)
	u32(hdrRefcountOrder, refcountOrder)
	u32(hdrHeaderLength, uint32(length))
	if incompatible != 0 {
		b[hdrCompressionType] = byte(w.o.Compression)
	}
	if w.o.Backing != nil {
		format := w.o.Backing.Format
		b = binary.BigEndian.AppendUint32(b, extBackingFormat)
		b = binary.BigEndian.AppendUint32(b, uint32(len(format)))
		b = append(b, format...)
		b = append(b, make([]byte, -len(format)&7)...)
	}
	b = append(b, make([]byte, 8)...) // extEnd, of no length
	if w.o.Backing != nil {
		binary.BigEndian.PutUint64(b[hdrBackingOffset:], uint64(len(b)))
		binary.BigEndian.PutUint32(b[hdrBackingSize:], uint32(len(w.o.Backing.Name)))
		b = append(b, w.o.Backing.Name...)
	}
	return b
}
