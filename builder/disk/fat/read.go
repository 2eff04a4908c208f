package fat

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sort"
	"sync"
	"time"
)

// Errors of Open and of reading, for errors.Is.
var (
	// ErrNotFAT is told of bytes that are no FAT volume.
	ErrNotFAT = errors.New("no FAT volume")
	// ErrDamaged is told of a volume whose numbers cannot be.
	ErrDamaged = errors.New("damaged FAT volume")
)

// Bounds of what is believed.
const (
	maxSectorSize  = 4096
	maxDepth       = 128     // directories in each other: a path of 260 characters has no more
	maxVolumeNames = 1 << 20 // names on a volume, which are kept in memory
	maxRuns        = 1 << 20 // pieces of one file
	pageSize       = 4096    // of the table of clusters, kept
	tail12, tail16 = 0xFF8, 0xFFF8
	tail32, mask32 = 0x0FFFFFF8, 0x0FFFFFFF
)

// Volume is an opened FAT12, FAT16 or FAT32 volume. It is an io/fs.FS whose files are io.ReaderAts, and may be used
// from many goroutines. All its names are read when it is opened, so that one made of loops has an end.
type Volume struct {
	r        io.ReaderAt
	label    string
	bits     int   // of a table entry: 12, 16 or 32
	table    int64 // where the first table begins, bytes
	data     int64 // where cluster 2 begins
	cluster  int64 // bytes
	clusters uint32
	root     *entryNode

	mu     sync.Mutex
	page   []byte
	pageAt int64
}

// Extent is a run of bytes of the volume.
type Extent struct{ Offset, Length int64 }

// entryNode is a file or directory as read.
type entryNode struct {
	name     string
	dir      bool
	readOnly bool
	size     int64
	cluster  uint32
	modified time.Time
	children []*entryNode // by name
	damaged  error        // of a directory that could be read in part
}

// OpenVolume reads the boot sector and every directory of a volume of size bytes. Whoever wrote it may have meant harm:
// time and memory are bounded by its size. A directory that is damaged keeps what could be read; reading it says so.
func OpenVolume(r io.ReaderAt, size int64) (*Volume, error) {
	b := make([]byte, sectorSize)
	if err := readAll(r, b, 0); err != nil || size < sectorSize {
		return nil, fmt.Errorf("%w: its first sector cannot be read: %w", ErrNotFAT, err)
	}
	le := binary.LittleEndian
	if le.Uint16(b[510:]) != 0xAA55 || b[0] != 0xEB && b[0] != 0xE9 {
		return nil, fmt.Errorf("%w: no boot sector", ErrNotFAT)
	}
	sector, perCluster := int64(le.Uint16(b[11:])), int64(b[13])
	reserved, fats := int64(le.Uint16(b[14:])), int64(b[16])
	rootEntries, sectors := int64(le.Uint16(b[17:])), int64(le.Uint16(b[19:]))
	perFAT := int64(le.Uint16(b[22:]))
	if sectors == 0 {
		sectors = int64(le.Uint32(b[32:]))
	}
	wide := perFAT == 0
	if wide {
		perFAT = int64(le.Uint32(b[36:]))
	}
	if sector < sectorSize || sector > maxSectorSize || sector&(sector-1) != 0 || perCluster == 0 ||
		perCluster&(perCluster-1) != 0 || reserved == 0 || fats == 0 || fats > 4 || perFAT == 0 || sectors == 0 {
		return nil, fmt.Errorf("%w: sectors of %d bytes, %d a cluster, %d tables of %d", ErrNotFAT, sector, perCluster, fats,
			perFAT)
	}
	v := &Volume{r: r, table: reserved * sector, cluster: perCluster * sector}
	rootAt := (reserved + fats*perFAT) * sector
	v.data = rootAt + (rootEntries*dirEntrySize+sector-1)/sector*sector
	end := min(sectors*sector, size)
	if v.data >= end || sectors*sector > size {
		return nil, fmt.Errorf("%w: %d sectors of %d bytes in %d bytes", ErrDamaged, sectors, sector, size)
	}
	count := (end - v.data) / v.cluster
	switch { // section "FAT Type Determination"
	case count < 4085:
		v.bits = 12
	case count < 65525:
		v.bits = 16
	default:
		v.bits = 32
	}
	if room := perFAT * sector * 8 / int64(v.bits); wide != (v.bits == 32) || room < count+firstCluster ||
		count > mask32 {
		return nil, fmt.Errorf("%w: %d clusters, a table for %d of %d bits", ErrDamaged, count, room, v.bits)
	}
	v.clusters = uint32(count)
	t := &treeReader{v: v, claimed: map[uint32]bool{}}
	v.root = &entryNode{name: ".", dir: true}
	if v.bits == 32 {
		v.root.cluster = le.Uint32(b[44:]) & mask32
		t.read(v.root, nil, 0)
	} else {
		fixed := make([]byte, rootEntries*dirEntrySize)
		if err := readAll(r, fixed, rootAt); err != nil {
			return nil, fmt.Errorf("root directory: %w", err)
		}
		t.read(v.root, fixed, 0)
	}
	return v, nil
}

// Label is the volume's label as its root directory says it; empty: none.
func (v *Volume) Label() string { return v.label }

// Usage is the size of the clusters together and of those in use, in bytes.
func (v *Volume) Usage() (size, used int64, err error) {
	for c := uint32(firstCluster); c < v.clusters+firstCluster; c++ {
		n, err := v.next(c)
		if err != nil {
			return 0, 0, err
		}
		if n != 0 {
			used += v.cluster
		}
	}
	return int64(v.clusters) * v.cluster, used, nil
}

// next is what the table has for a cluster; the ends of chains are the largest uint32.
func (v *Volume) next(c uint32) (uint32, error) {
	at := int64(c) * int64(v.bits) / 8
	b, err := v.tableBytes(at, (v.bits+7)/8)
	if err != nil {
		return 0, fmt.Errorf("table of clusters: %w", err)
	}
	var n, tail uint32
	switch v.bits {
	case 12:
		n, tail = uint32(binary.LittleEndian.Uint16(b[:])), tail12
		if c%2 == 1 {
			n >>= 4
		}
		n &= 0xFFF
	case 16:
		n, tail = uint32(binary.LittleEndian.Uint16(b[:])), tail16
	default:
		n, tail = binary.LittleEndian.Uint32(b[:])&mask32, tail32
	}
	if n >= tail {
		n = 1<<32 - 1
	}
	return n, nil
}

// tableBytes reads a few bytes of the first table, from the page that was read last where they are there.
func (v *Volume) tableBytes(at int64, n int) (b [4]byte, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for i := range n {
		page := (at + int64(i)) / pageSize * pageSize
		if v.page == nil || v.pageAt != page {
			p := make([]byte, min(pageSize, v.data-v.table-page))
			if err := readAll(v.r, p, v.table+page); err != nil {
				v.page = nil
				return b, err
			}
			v.page, v.pageAt = p, page
		}
		b[i] = v.page[at+int64(i)-page]
	}
	return b, nil
}

// chain is where the clusters of a chain lie that has at most most bytes, joined where they follow each other.
func (v *Volume) chain(first uint32, most int64) (runs []Extent, err error) {
	left := v.clusters
	for c := first; most > 0; most -= v.cluster {
		if c < firstCluster || c >= v.clusters+firstCluster || left == 0 {
			return runs, fmt.Errorf("%w: a chain goes on at cluster %d of %d", ErrDamaged, c, v.clusters)
		}
		left--
		at, n := v.data+int64(c-firstCluster)*v.cluster, min(v.cluster, most)
		if k := len(runs) - 1; k >= 0 && runs[k].Offset+runs[k].Length == at {
			runs[k].Length += n
		} else if runs = append(runs, Extent{at, n}); len(runs) > maxRuns {
			return runs, fmt.Errorf("%w: a file in more than %d pieces", ErrDamaged, maxRuns)
		}
		if c, err = v.next(c); err != nil {
			return runs, err
		}
		if c == 1<<32-1 && most > v.cluster {
			return runs, io.ErrUnexpectedEOF
		}
	}
	return runs, nil
}

// treeReader reads the directories.
type treeReader struct {
	v       *Volume
	claimed map[uint32]bool // clusters of directories: each is of one only
	names   int
}

// read fills a directory: from bytes of a fixed root, or from its clusters.
func (t *treeReader) read(n *entryNode, fixed []byte, depth int) {
	b := fixed
	if fixed == nil {
		if b, n.damaged = t.clusters(n.cluster); len(b) == 0 {
			return
		}
	}
	if err := t.entries(n, b); err != nil {
		n.damaged = errors.Join(n.damaged, err)
	}
	sort.SliceStable(n.children, func(i, j int) bool { return n.children[i].name < n.children[j].name })
	twice := false
	for i, c := range n.children {
		if i > 0 && c.name == n.children[i-1].name && !twice { // told once: a hostile one has a thousand of them
			twice = true
			n.damaged = errors.Join(n.damaged, fmt.Errorf("%w: two files are named %q", ErrDamaged, c.name))
		}
		if !c.dir {
			continue
		}
		if depth >= maxDepth {
			c.damaged = fmt.Errorf("%w: more than %d directories in each other", ErrDamaged, maxDepth)
			continue
		}
		t.read(c, nil, depth+1)
	}
}

// clusters reads the clusters of a directory.
func (t *treeReader) clusters(first uint32) (all []byte, err error) {
	for c := first; c != 1<<32-1; {
		switch {
		case c < firstCluster || c >= t.v.clusters+firstCluster:
			return all, fmt.Errorf("%w: a directory goes on at cluster %d of %d", ErrDamaged, c, t.v.clusters)
		case t.claimed[c]:
			return all, fmt.Errorf("%w: cluster %d is of two directories", ErrDamaged, c)
		case len(all) >= maxDirEntries*dirEntrySize:
			return all, fmt.Errorf("%w: a directory of more than %d entries", ErrDamaged, maxDirEntries)
		}
		t.claimed[c] = true
		b := make([]byte, t.v.cluster)
		if err := readAll(t.v.r, b, t.v.data+int64(c-firstCluster)*t.v.cluster); err != nil {
			return all, err
		}
		all = append(all, b...)
		if c, err = t.v.next(c); err != nil {
			return all, err
		}
	}
	return all, nil
}

// readAll reads all of b.
func readAll(r io.ReaderAt, b []byte, off int64) error {
	n, err := r.ReadAt(b, off)
	if n == len(b) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// modeOf is the mode of a file: FAT knows none but whether it may be written.
func (n *entryNode) modeOf() fs.FileMode {
	switch {
	case n.dir:
		return fs.ModeDir | 0o555
	case n.readOnly:
		return 0o444
	}
	return 0o644
}

// Bits are those of an entry of its table: 12, 16 or 32.
func (v *Volume) Bits() int { return v.bits }
