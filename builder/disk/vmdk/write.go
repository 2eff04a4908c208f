package vmdk

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"os"
	"runtime"

	"github.com/klauspost/compress/zlib"
	"golang.org/x/sync/errgroup"

	"rempart/builder/disk"
)

// Write makes f an image of the content; what f held is gone. name is how the descriptor calls the file. It returns
// once the bytes are on the disk (fsync); the header goes last, so what an interrupted Write leaves is no image. As
// with disk.WriteRaw the caller gives a temporary name and renames, and a full disk is an error that wraps
// syscall.ENOSPC.
func Write(ctx context.Context, f *os.File, name string, content *disk.Sparse, kind Kind) error {
	w := &writer{f: f, content: content, kind: kind, sum: crc32.NewIEEE()}
	if kind != StreamOptimized && kind != MonolithicSparse {
		return fmt.Errorf("vmdk image %s: kind %q: %w", f.Name(), kind, ErrUnsupported)
	}
	if content.Size()%sectorSize != 0 || content.Size()/sectorSize > maxCapacity {
		return fmt.Errorf("vmdk image %s: a disk of %d bytes: want a multiple of %d up to %d", f.Name(), content.Size(),
			sectorSize, int64(maxCapacity)*sectorSize)
	}
	if err := w.write(ctx, name); err != nil {
		return disk.WriteError(f.Name(), content, w.end, err)
	}
	return nil
}

type writer struct {
	f       *os.File
	content *disk.Sparse
	kind    Kind
	tables  [][]uint32  // sectors of grains; nil: none
	places  []uint32    // sectors of the tables
	end     int64       // of what is written
	sum     hash.Hash32 // of all grains: the content identifier of the image
}

func (w *writer) write(ctx context.Context, name string) error {
	if err := w.f.Truncate(0); err != nil {
		return err
	}
	capacity := w.content.Size() / sectorSize
	count := (capacity + grainSectors*tableEntries - 1) / (grainSectors * tableEntries)
	w.tables, w.places = make([][]uint32, count), make([]uint32, count)
	h := &header{version: 1, flags: flagNewlines | flagRedundant, capacity: uint64(capacity), grain: grainSectors, desc: 1,
		descSize: descSectors, tableLength: tableEntries}
	directory := (count*4 + sectorSize - 1) / sectorSize // sectors
	var err error
	if w.kind == StreamOptimized {
		h.version, h.flags, h.compression = 3, flagNewlines|flagCompressed|flagMarkers, compressDeflate
		h.directory, h.overhead = directoryAtEnd, grainSectors
		w.end = grainSize
		err = w.stream(ctx, h, directory)
	} else {
		h.redundant = 1 + descSectors
		h.directory = h.redundant + uint64(directory+count*tableSectors)
		h.overhead = (h.directory + uint64(directory+count*tableSectors) + grainSectors - 1) / grainSectors * grainSectors
		w.end = int64(h.overhead) * sectorSize
		err = w.sparse(ctx, h, directory)
	}
	if err != nil {
		return err
	}
	text := w.descriptor(name, capacity)
	if len(text) > descSectors*sectorSize {
		return fmt.Errorf("a name of %d bytes is too long for the descriptor", len(name))
	}
	if _, err := w.f.WriteAt(text, sectorSize); err != nil {
		return err
	}
	// Everything the header points to is on the disk before it is.
	if err := w.f.Sync(); err != nil {
		return err
	}
	if _, err := w.f.WriteAt(h.encode(), 0); err != nil {
		return err
	}
	return w.f.Sync()
}

// descriptor is the text that describes the disk.
func (w *writer) descriptor(name string, capacity int64) []byte {
	const heads, sectors = 16, 63 // what disks of the kind "ide" say they have
	id := w.sum.Sum32()
	if id >= 1<<32-2 {
		id = 0 // ffffffff is no image, fffffffe a changing one
	}
	return fmt.Appendf(nil, `# Disk DescriptorFile
version=1
CID=%08x
parentCID=%s
createType="%s"

# Extent description
RW %d SPARSE %q

# The Disk Data Base
#DDB

ddb.virtualHWVersion = "4"
ddb.geometry.cylinders = "%d"
ddb.geometry.heads = "%d"
ddb.geometry.sectors = "%d"
ddb.adapterType = "ide"
`, id, noParent, w.kind, capacity, name, min(16383, capacity/(heads*sectors)), heads, sectors)
}

// stream writes packed grains, each table behind those it names, then the directory and the footer.
func (w *writer) stream(ctx context.Context, h *header, directory int64) error {
	last := int64(-1)
	finish := func(table int64) error {
		if table < 0 {
			return nil
		}
		if err := w.marker(markerTable, tableSectors); err != nil {
			return err
		}
		w.places[table] = uint32(w.end / sectorSize)
		return w.put(encode(w.tables[table]))
	}
	err := w.grains(ctx, true, func(n int64, packed []byte) error {
		if table := n / tableEntries; table != last {
			if err := finish(last); err != nil {
				return err
			}
			last = table
		}
		if err := w.place(n); err != nil {
			return err
		}
		b := make([]byte, markerHeader, markerHeader+len(packed)+sectorSize)
		binary.LittleEndian.PutUint64(b, uint64(n*grainSectors))
		binary.LittleEndian.PutUint32(b[8:], uint32(len(packed)))
		return w.put(append(b, packed...))
	})
	if err != nil {
		return err
	}
	if err := finish(last); err != nil {
		return err
	}
	if err := w.marker(markerDirectory, uint64(directory)); err != nil {
		return err
	}
	footer := *h
	footer.directory = uint64(w.end / sectorSize)
	if err := w.put(encode(w.places)); err != nil {
		return err
	}
	if err := w.marker(markerFooter, 1); err != nil {
		return err
	}
	if err := w.put(footer.encode()); err != nil {
		return err
	}
	return w.marker(markerEnd, 0)
}

// sparse writes plain grains, and both copies of the tables before them.
func (w *writer) sparse(ctx context.Context, h *header, directory int64) error {
	err := w.grains(ctx, false, func(n int64, grain []byte) error {
		if err := w.place(n); err != nil {
			return err
		}
		return w.put(grain)
	})
	if err != nil {
		return err
	}
	if err := w.f.Truncate(w.end); err != nil {
		return err
	}
	for _, at := range []uint64{h.redundant, h.directory} {
		first := at + uint64(directory)
		var tables []byte
		for n := range w.tables {
			w.places[n] = uint32(first) + uint32(n*tableSectors)
			if w.tables[n] == nil {
				w.tables[n] = make([]uint32, tableEntries)
			}
			tables = append(tables, encode(w.tables[n])...)
		}
		if _, err := w.f.WriteAt(encode(w.places), int64(at)*sectorSize); err != nil {
			return err
		}
		if _, err := w.f.WriteAt(tables, int64(first)*sectorSize); err != nil {
			return err
		}
	}
	return nil
}

// place notes that a grain lies at the end.
func (w *writer) place(n int64) error {
	sector := w.end / sectorSize
	if sector > 1<<32-1 {
		return fmt.Errorf("more than 2 TiB of data: %w", ErrUnsupported)
	}
	table := &w.tables[n/tableEntries]
	if *table == nil {
		*table = make([]uint32, tableEntries)
	}
	(*table)[n%tableEntries] = uint32(sector)
	return nil
}

// put writes whole sectors at the end.
func (w *writer) put(b []byte) error {
	b = append(b, make([]byte, -len(b)&(sectorSize-1))...)
	_, err := w.f.WriteAt(b, w.end)
	w.end += int64(len(b))
	return err
}

// marker writes a sector that says what comes: so many sectors of something.
func (w *writer) marker(kind uint32, sectors uint64) error {
	b := make([]byte, sectorSize)
	binary.LittleEndian.PutUint64(b, sectors)
	binary.LittleEndian.PutUint32(b[12:], kind)
	return w.put(b)
}

func encode(entries []uint32) []byte {
	b := make([]byte, 0, 4*len(entries))
	for _, e := range entries {
		b = binary.LittleEndian.AppendUint32(b, e)
	}
	return b
}

// grains calls each for the grains that are not zero, in order: their bytes, or these packed, on all cores. What is
// behind the end of the disk in the last one is zero.
func (w *writer) grains(ctx context.Context, pack bool, each func(n int64, b []byte) error) error {
	batch := make([]int64, 0, 16*runtime.GOMAXPROCS(0))
	flush := func() error {
		done := make([][]byte, len(batch))
		sums := make([]uint32, len(batch))
		group, ctx := errgroup.WithContext(ctx)
		group.SetLimit(runtime.GOMAXPROCS(0))
		for i, n := range batch {
			group.Go(func() error {
				if err := ctx.Err(); err != nil {
					return err
				}
				b := make([]byte, grainSize)
				length := min(grainSize, w.content.Size()-n*grainSize)
				if _, err := w.content.ReadAt(b[:length], n*grainSize); err != nil && !errors.Is(err, io.EOF) {
					return disk.ReadError{Err: err}
				}
				if disk.AllZero(b) {
					return nil
				}
				sums[i] = crc32.ChecksumIEEE(b)
				done[i] = b
				if pack {
					var err error
					done[i], err = packed(b)
					return err
				}
				return nil
			})
		}
		if err := group.Wait(); err != nil {
			return err
		}
		for i, n := range batch {
			if done[i] == nil {
				continue
			}
			fmt.Fprintln(w.sum, n, sums[i])
			if err := each(n, done[i]); err != nil {
				return err
			}
		}
		batch = batch[:0]
		return nil
	}
	next := int64(0) // grains before it are taken
	for _, e := range w.content.Extents() {
		for n := max(next, e.Offset/grainSize); n*grainSize < e.Offset+e.Length; n++ {
			next = n + 1
			if batch = append(batch, n); len(batch) == cap(batch) {
				if err := flush(); err != nil {
					return err
				}
			}
		}
	}
	return flush()
}

func packed(b []byte) ([]byte, error) {
	var out bytes.Buffer
	z := zlib.NewWriter(&out)
	if _, err := z.Write(b); err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}
