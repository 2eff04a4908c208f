package ext4

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"path"
	"strings"
	"time"
)

// Options say what a new filesystem is like.
type Options struct {
	Size     int64 // bytes of the image; the filesystem takes as many whole blocks of it as it can
	Label    string
	UUID     [16]byte
	HashSeed [16]byte // of directories that the kernel makes large later
	Time     time.Time
}

// NewFile is a file or directory of a new filesystem.
type NewFile struct {
	Path     string // below the root, with slashes: "lib/dhcp"; empty: the root itself
	Dir      bool
	Mode     uint16 // permissions: 0 to 07777
	UID, GID uint32
	Modified time.Time
	Size     int64     // bytes, of a file
	Content  io.Reader // exactly Size bytes
}

// What a new filesystem is made of: blocks of the kernel's page, one block group for each bitmap of a block, and one
// inode in 16 KiB, as mke2fs has it.
const (
	makeBlock         = 4096
	makeGroup         = 8 * makeBlock
	makeInodeSize     = 256
	makeInodesPerByte = 16 << 10
	makeDescriptor    = 32
	makeExtra         = 32 // bytes of the inode's fields beyond the first 128
	journalInode      = 8
	lostFoundInode    = 11
	makeFirst         = 12 // the first inode that is free for files
	mostExtent        = 1 << 15
	inodeExtents      = 4
	journalLeast      = 1024 // blocks: the smallest that jbd2 takes (JBD2_MIN_JOURNAL_BLOCKS)
)

// Features of a new filesystem (super.rst): ext_attr and dir_index; large_file, huge_file, dir_nlink and extra_isize.
const (
	makeCompat   = compatJournal | 0x8 | 0x20
	makeIncompat = incompatFiletype | incompatExtents
	makeROCompat = roCompatSparse | 0x2 | 0x8 | 0x20 | 0x40 | roCompatMetaCsum
)

// ErrRoom is returned when the files do not fit.
var ErrRoom = errors.New("no room in the new filesystem")

// MaxContent is how many bytes a file may have to lie, wherever it begins, in as few pieces as an inode has room for:
// those of three whole groups, each with the tables of the largest filesystem.
const MaxContent = (inodeExtents - 1) * (makeGroup - mostOverhead) * makeBlock

// mostOverhead is how many blocks of a group are no file's at most: superblock and descriptors, bitmaps, inodes.
const mostOverhead = 1 + (1<<32)/makeGroup*makeDescriptor/makeBlock + 2 +
	makeGroup*makeBlock/makeInodesPerByte*makeInodeSize/makeBlock

// Room is what Make has room for in an image of size bytes: so many files and directories, which together take at most
// so many bytes by Takes.
func Room(size int64) (files int, bytes int64) {
	m, err := newMaker(nil, Options{Size: size, UUID: [16]byte{1}, Time: time.Unix(1, 0)})
	if err != nil {
		return 0, 0
	}
	const own = 2 // the root and lost+found
	free := int64(m.blocks) - int64(m.journalBlocks()) - own
	for _, n := range m.taken {
		free -= int64(n)
	}
	return int(m.inodesPerGroup) - makeFirst, max(free, 0) * makeBlock
}

// Takes is how much a file or directory takes of a new filesystem at most, in bytes: whole blocks, and room for the
// longest name.
func Takes(n NewFile) int64 {
	const name = 512 // 264 bytes in a directory's block, which need not be filled to its end
	if n.Dir {
		return makeBlock + name
	}
	return (n.Size+makeBlock-1)/makeBlock*makeBlock + name
}

// Make writes a new filesystem with files into an image that reads as zeros everywhere, a sparse one say: what is zero
// is not written. Parents must come before what is in them, and no path twice. The same arguments make the same bytes.
func Make(image io.WriterAt, o Options, list []NewFile) error {
	m, err := newMaker(image, o)
	if err != nil {
		return err
	}
	if err := m.plan(list); err != nil {
		return err
	}
	if err := m.contents(); err != nil {
		return err
	}
	if err := m.journal(); err != nil {
		return err
	}
	return m.tables()
}

// made is a file as it gets its inode and blocks.
type made struct {
	NewFile
	inode   uint32
	links   uint16
	entries []byte // of a directory: its blocks
	used    int    // bytes of the last block that entries take
	last    int    // where in it the last entry begins
	runs    []span
	seed    uint32
}

// span is a run of blocks.
type span struct{ first, count uint64 }

// maker makes one filesystem.
type maker struct {
	Options
	image          io.WriterAt
	f              *FS // for the checksums of its metadata
	blocks         uint64
	groups         uint32
	inodesPerGroup uint32
	next           uint64 // the first block that may be free
	files          []*made
	byPath         map[string]*made
	journalRuns    []span
	taken          []uint64 // blocks of each group that are taken
	dirs           []uint16
}

func newMaker(image io.WriterAt, o Options) (*maker, error) {
	m := &maker{Options: o, image: image, blocks: uint64(max(o.Size, 0)) / makeBlock, byPath: map[string]*made{}}
	if len(o.Label) > 16 || o.UUID == [16]byte{} || o.Time.Unix() <= 0 || o.Time.Unix() > math.MaxInt32 {
		return nil, fmt.Errorf("ext4: label %q, UUID %x, time %v: want 16 bytes at most, an UUID, and a time until 2038",
			o.Label, o.UUID, o.Time)
	}
	if m.blocks > math.MaxUint32 {
		return nil, fmt.Errorf("ext4: %d bytes: want less than 16 TiB", o.Size)
	}
	m.inodesPerGroup = makeGroup * makeBlock / makeInodesPerByte
	if m.blocks < makeGroup { // a small one has but one group, and its inodes in proportion
		m.inodesPerGroup = uint32(max(m.blocks*makeBlock/makeInodesPerByte, 128)) / 16 * 16
	}
	m.groups = uint32((m.blocks + makeGroup - 1) / makeGroup)
	if rest := m.blocks % makeGroup; rest != 0 && m.groups > 1 && rest < m.overhead(m.groups-1)+journalLeast {
		m.blocks, m.groups = m.blocks-rest, m.groups-1 // too small to be worth its tables
	}
	if m.groups == 0 || m.blocks < m.overhead(0)+2*journalLeast {
		return nil, fmt.Errorf("ext4: %w: %d bytes are too small for one", ErrRoom, o.Size)
	}
	m.taken, m.dirs = make([]uint64, m.groups), make([]uint16, m.groups)
	for g := range m.taken {
		m.taken[g] = m.overhead(uint32(g))
	}
	m.f = &FS{s: super{seed: crc32c(^uint32(0), o.UUID[:]), inodeSize: makeInodeSize, ro: makeROCompat}}
	return m, nil
}

// descriptorBlocks is how many blocks the group descriptors take.
func (m *maker) descriptorBlocks() uint64 {
	return (uint64(m.groups)*makeDescriptor + makeBlock - 1) / makeBlock
}

// bitmaps is the first block of a group's own tables: block bitmap, inode bitmap, inodes.
func (m *maker) bitmaps(group uint32) uint64 {
	s := super{ro: makeROCompat}
	at := uint64(group) * makeGroup
	if s.hasBackup(group) {
		at += 1 + m.descriptorBlocks()
	}
	return at
}

// overhead is how many blocks at the beginning of a group are no file's.
func (m *maker) overhead(group uint32) uint64 {
	return m.bitmaps(group) - uint64(group)*makeGroup + 2 + uint64(m.inodesPerGroup)*makeInodeSize/makeBlock
}

// allocate finds blocks for so many, in at most as many runs as an inode has room for.
func (m *maker) allocate(blocks uint64) (runs []span, err error) {
	for blocks > 0 {
		group := uint32(m.next / makeGroup)
		if group >= m.groups {
			return nil, ErrRoom
		}
		m.next = max(m.next, uint64(group)*makeGroup+m.overhead(group))
		end := min(uint64(group+1)*makeGroup, m.blocks)
		n := min(end-min(m.next, end), blocks, mostExtent)
		if n == 0 {
			m.next = uint64(group+1) * makeGroup
			continue
		}
		runs = append(runs, span{m.next, n})
		m.next, blocks, m.taken[group] = m.next+n, blocks-n, m.taken[group]+n
	}
	if len(runs) > inodeExtents {
		return nil, fmt.Errorf("%w: a file would lie in %d pieces, at most %d", ErrRoom, len(runs), inodeExtents)
	}
	return runs, nil
}

// plan gives every file its inode and every directory its entries.
func (m *maker) plan(list []NewFile) error {
	root := &made{NewFile: NewFile{Dir: true, Mode: 0o755, Modified: m.Time}, inode: RootInode, links: 2}
	lost := &made{NewFile: NewFile{Path: "lost+found", Dir: true, Mode: 0o700, Modified: m.Time}, inode: lostFoundInode,
		links: 2}
	m.files, m.byPath[""] = []*made{root}, root
	m.addEntry(root, root.inode, ".", true)
	m.addEntry(root, root.inode, "..", true)
	if err := m.put(lost); err != nil {
		return err
	}
	next := uint32(makeFirst)
	for _, n := range list {
		if n.Path == "" {
			root.Mode, root.UID, root.GID, root.Modified = n.Mode, n.UID, n.GID, n.Modified
			continue
		}
		if err := m.put(&made{NewFile: n, inode: next, links: 1}); err != nil {
			return err
		}
		next++
	}
	if next > m.inodesPerGroup {
		return fmt.Errorf("ext4: %w: %d files, at most %d", ErrRoom, next, m.inodesPerGroup)
	}
	journal, err := m.allocate(m.journalBlocks())
	if err != nil {
		return fmt.Errorf("ext4: journal: %w", err)
	}
	m.journalRuns = journal
	return nil
}

// journalBlocks are as many as mke2fs takes, up to 32 MiB.
func (m *maker) journalBlocks() uint64 {
	switch {
	case m.blocks < 1<<15:
		return journalLeast
	case m.blocks < 1<<18:
		return 4096
	}
	return 8192
}

// put takes a file into its directory.
func (m *maker) put(f *made) error {
	dir, name := path.Split(f.Path)
	parent := m.byPath[strings.TrimSuffix(dir, "/")]
	switch {
	case parent == nil || !parent.Dir:
		return fmt.Errorf("ext4: %q: there is no directory for it", f.Path)
	case strings.HasPrefix(f.Path, "/"): // it would be another path than the same one without
		return fmt.Errorf("ext4: %q: want a path below the root", f.Path)
	case m.byPath[f.Path] != nil:
		return fmt.Errorf("ext4: %q is there already", f.Path)
	case name == "" || len(name) > 255 || name == "." || name == ".." || strings.ContainsRune(name, 0):
		return fmt.Errorf("ext4: %q: a name has 1 to 255 bytes", f.Path)
	case f.Mode&^0o7777 != 0 || f.Size < 0 || !f.Dir && f.Content == nil && f.Size > 0:
		return fmt.Errorf("ext4: %q: mode %o, size %d: want permissions, and a content of that size", f.Path, f.Mode, f.Size)
	}
	m.byPath[f.Path], m.files = f, append(m.files, f)
	m.addEntry(parent, f.inode, name, f.Dir)
	if f.Dir {
		f.links = 2
		parent.links++
		m.addEntry(f, f.inode, ".", true)
		m.addEntry(f, parent.inode, "..", true)
	}
	return nil
}

// tailSize is that of a directory block's checksum (dynamic.rst, ext4_dir_entry_tail).
const tailSize = 12

// addEntry appends an entry to a directory (directory.rst, ext4_dir_entry_2). The last entry of a block reaches to its
// tail.
func (m *maker) addEntry(d *made, inode uint32, name string, isDir bool) {
	le := binary.LittleEndian
	need := (8 + len(name) + 3) &^ 3
	if len(d.entries) == 0 || d.used+need > makeBlock-tailSize {
		d.entries = append(d.entries, make([]byte, makeBlock)...)
		d.used, d.last = 0, 0
	}
	b := d.entries[len(d.entries)-makeBlock:]
	if d.used > 0 {
		le.PutUint16(b[d.last+4:], uint16(d.used-d.last))
	}
	e := b[d.used:]
	le.PutUint32(e, inode)
	le.PutUint16(e[4:], uint16(makeBlock-tailSize-d.used))
	e[6], e[7] = byte(len(name)), 1 // a regular file
	if isDir {
		e[7] = 2
	}
	copy(e[8:], name)
	d.last, d.used = d.used, d.used+need
	tail := b[makeBlock-tailSize:]
	le.PutUint16(tail[4:], tailSize)
	tail[7] = 0xde // EXT4_FT_DIR_CSUM
}
