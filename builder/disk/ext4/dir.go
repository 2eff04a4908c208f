package ext4

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
)

// Entry is a name in a directory.
type Entry struct {
	Name  string // any bytes but '/' and zero: it may hold what a terminal obeys
	Inode uint32
}

// Bounds of names (include/linux/limits.h, fs/ext4/ext4.h).
const (
	mostName    = 255
	mostLink    = 4096 // bytes a symbolic link holds: PATH_MAX
	entryHeader = 8
	// mostEntries bounds what is kept in memory of a directory that its owner may have filled to make us run out of it:
	// with the longest names 300 MiB.
	mostEntries = 1 << 20
)

// ReadDir returns the names of a directory but . and .., in the order they are stored. What is damaged is left out and
// told by the error, which wraps ErrDamaged then; the entries are all that could be read.
func (f *FS) ReadDir(i *Inode) (entries []Entry, err error) {
	entries, _, err = f.readDir(i, f.s.blocks) // a directory that has more has some twice
	return entries, err
}

// errShared is told of directories that have more blocks together than there are.
var errShared = fmt.Errorf("%w: directories share blocks", ErrDamaged)

// readDir is ReadDir that reads no more than most blocks, and tells how many it has read.
func (f *FS) readDir(i *Inode, most uint64) (entries []Entry, took uint64, err error) {
	if i.Mode&typeMask != typeDir {
		return nil, 0, fmt.Errorf("inode %d is no directory", i.Number)
	}
	if i.Flags&flagInline != 0 {
		entries, err = f.inlineDir(i)
		return entries, 0, err
	}
	file, err := f.open(i)
	if err != nil {
		return nil, file.nodes + 1, err
	}
	took = file.nodes
	var failed []error
	b := make([]byte, f.s.blockSize)
	// Only blocks that are there: a directory has no holes, and one that claims terabytes of them is not worth a walk.
	err = file.Data(func(offset, length int64) error {
		for ; length >= f.s.blockSize; offset, length = offset+f.s.blockSize, length-f.s.blockSize {
			if took++; took > most {
				return errShared
			}
			if n, err := file.ReadAt(b, offset); n < len(b) && err != nil && err != io.EOF {
				return err
			}
			var damaged error
			if entries, damaged = f.entries(b, entries); damaged != nil && len(failed) < 10 {
				failed = append(failed, fmt.Errorf("inode %d: directory at %d: %w", i.Number, offset, damaged))
			}
			if len(entries) > mostEntries {
				return fmt.Errorf("inode %d: %w: a directory of more than %d names", i.Number, ErrDamaged, mostEntries)
			}
		}
		return nil
	})
	return entries, took, errors.Join(append(failed, err)...)
}

// entries reads a block of names. That of a hash tree reads as one of a few entries that take all of it.
func (f *FS) entries(b []byte, into []Entry) ([]Entry, error) {
	le := binary.LittleEndian
	for off := 0; off < len(b); {
		if len(b)-off < entryHeader {
			return into, fmt.Errorf("%w: half an entry at %d", ErrDamaged, off)
		}
		inode, length := le.Uint32(b[off:]), int(le.Uint16(b[off+4:]))
		name := int(b[off+6])
		if f.s.incompat&incompatFiletype == 0 {
			name = int(le.Uint16(b[off+6:]))
		}
		if len(b) > 1<<15 && (length == 0 || length == 1<<16-1 || length == 1<<16-4) {
			length = len(b) - off // of blocks of 64 KiB (dirs: ext4_rec_len_from_disk)
		}
		if length < entryHeader || length%4 != 0 || length > len(b)-off || inode != 0 && (name > mostName ||
			entryHeader+name > length) {
			return into, fmt.Errorf("%w: an entry of %d bytes with a name of %d at %d", ErrDamaged, length, name, off)
		}
		if inode != 0 {
			text := string(b[off+entryHeader : off+entryHeader+name])
			switch {
			case text == "." || text == "..":
			case text == "" || strings.ContainsAny(text, "/\x00") || inode > f.s.inodes:
				return into, fmt.Errorf("%w: the name %.40q of inode %d at %d", ErrDamaged, text, inode, off)
			default:
				into = append(into, Entry{text, inode})
			}
		}
		off += length
	}
	return into, nil
}

// Readlink is where a symbolic link leads.
func (f *FS) Readlink(i *Inode) (string, error) {
	if i.Mode&typeMask != typeLink {
		return "", fmt.Errorf("inode %d is no symbolic link", i.Number)
	}
	if i.Size > mostLink {
		return "", fmt.Errorf("inode %d: %w: a symbolic link of %d bytes", i.Number, ErrDamaged, i.Size)
	}
	file, err := f.Open(i)
	if err != nil {
		return "", err
	}
	b := make([]byte, i.Size)
	if n, err := file.ReadAt(b, 0); n < len(b) && err != nil {
		return "", err
	}
	return string(b), nil
}

// Lookup finds a file by its path from the root, without following symbolic links.
func (f *FS) Lookup(name string) (*Inode, error) {
	i, err := f.Inode(RootInode)
	if err != nil {
		return nil, err
	}
	clean := strings.Trim(path.Clean("/"+name), "/")
	if clean == "" {
		return i, nil
	}
next:
	for part := range strings.SplitSeq(clean, "/") {
		entries, err := f.ReadDir(i)
		for _, e := range entries {
			if e.Name == part {
				if i, err = f.Inode(e.Inode); err != nil {
					return nil, err
				}
				continue next
			}
		}
		return nil, errors.Join(fmt.Errorf("there is no %q: %w", part, fs.ErrNotExist), err)
	}
	return i, nil
}

// Bounds of a walk.
const (
	mostWalked = 2048 // of its depth; paths of 4096 bytes have no more
	// mostHeld bounds the names that directories within directories make it keep at a time.
	mostHeld = 2 * mostEntries
)

// leastEntry is what a name takes of a directory, in bytes: a filesystem has no more names than fit into all of it.
const leastEntry = 12

// walk is what a walk remembers.
type walk struct {
	f    *FS
	seen map[uint32]bool // directories
	left uint64          // names that may still come
	held int             // names of the directories that it is in
	// blocks are those that directories may still have: each is of one only.
	blocks uint64
	each   func(string, *Inode, error) error
}

// Walk calls each for every file below and including the root, parents before children, with its path from the root
// ("" for the root itself), in stored order. A file that cannot be read is called with a nil inode and why; a directory
// that is read in part is called twice, the second time with why. A directory that is reached a second time, which no
// kernel makes, is told as an error and not walked again. An error of each ends the walk and is returned, as is one
// that wraps ErrDamaged where there are more names than fit, or than can be kept in memory.
func (f *FS) Walk(each func(path string, i *Inode, err error) error) error {
	w := &walk{f: f, seen: map[uint32]bool{}, left: f.s.blocks * uint64(f.s.blockSize) / leastEntry, blocks: f.s.blocks,
		each: each}
	return w.file("", RootInode, 0)
}

func (w *walk) file(name string, number uint32, depth int) error {
	if w.left == 0 {
		return fmt.Errorf("%w: more names than fit: directories share blocks", ErrDamaged)
	}
	w.left--
	i, err := w.f.Inode(number)
	if err != nil {
		return w.each(name, nil, err)
	}
	if i.Mode&typeMask != typeDir {
		return w.each(name, i, nil)
	}
	if w.seen[number] || depth > mostWalked {
		return w.each(name, nil, fmt.Errorf("inode %d: %w: a directory in two places", number, ErrDamaged))
	}
	w.seen[number] = true
	if err := w.each(name, i, nil); err != nil {
		return err
	}
	entries, took, err := w.f.readDir(i, w.blocks)
	if took > w.blocks {
		return errShared
	}
	w.blocks -= took
	if err != nil {
		if err := w.each(name, i, err); err != nil {
			return err
		}
	}
	if w.held += len(entries); w.held > mostHeld {
		return fmt.Errorf("inode %d: %w: directories within directories with more than %d names", number, ErrDamaged,
			mostHeld)
	}
	defer func() { w.held -= len(entries) }()
	for _, e := range entries {
		if err := w.file(path.Join(name, e.Name), e.Inode, depth+1); err != nil {
			return err
		}
	}
	return nil
}
