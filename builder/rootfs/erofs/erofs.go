// Package erofs turns a file tree into an EROFS image (Linux Documentation/filesystems/erofs.rst), in memory and the
// same bytes each time: files in the order of their paths, one time for all, no identifier that is not constant.
//
// The format is written by github.com/erofs/go-erofs; this package feeds it in a way that needs no temporary file,
// counts links, and checks what the library takes on trust.
//
// What it deliberately does not do: compress (the image travels in compressed qcow2 clusters, and the guest reads it
// without spending memory and time on unpacking), device nodes (the guest mounts devtmpfs), hard links, extended
// attributes.
package erofs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"time"

	"github.com/erofs/go-erofs"

	"rempart/builder/rootfs/tree"
)

// BlockSize is the block size of the images in bytes.
const BlockSize = 4096

// Epoch is the modification time of every file, seconds since 1970: 2020-01-01 00:00 UTC. A constant, since a master
// has no clock; not zero, since programs take 1970 for "unset". Files whose time is that of the superblock have
// inodes of half the size.
const Epoch = 1577836800

// Limits of what we write; far above any root.
const (
	maxImage = 4 << 30
	maxName  = 255 // EROFS_NAME_LEN
	maxLink  = BlockSize - 1
)

// superblockOffset and the magic number are from erofs_fs.h.
const (
	superblockOffset = 1024
	superblockMagic  = 0xE0F5E1E2
)

// Write returns the image of a tree; its length is a multiple of BlockSize.
func Write(t *tree.Tree) ([]byte, error) {
	source, err := newSource(t)
	if err != nil {
		return nil, fmt.Errorf("erofs: %w", err)
	}
	out := &buffer{b: make([]byte, 0, source.size)}
	w := erofs.Create(out, erofs.WithBlockSize(BlockSize), erofs.WithBuildTime(Epoch, 0))
	if err := w.CopyFrom(source); err != nil {
		return nil, fmt.Errorf("erofs: %w", err)
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("erofs: %w", err)
	}
	// A file shorter than its entry would have shifted all that follows.
	if source.short != nil {
		return nil, fmt.Errorf("erofs: %w", source.short)
	}
	if err := check(out.b); err != nil {
		return nil, fmt.Errorf("erofs: the image came out wrong: %w", err)
	}
	return out.b, nil
}

// check looks at the superblock of what the library wrote.
func check(image []byte) error {
	if len(image) < BlockSize || len(image)%BlockSize != 0 {
		return fmt.Errorf("%d bytes; want blocks of %d", len(image), BlockSize)
	}
	sb := image[superblockOffset:]
	if magic := binary.LittleEndian.Uint32(sb); magic != superblockMagic {
		return fmt.Errorf("magic number %#x; want %#x", magic, superblockMagic)
	}
	if blocks := binary.LittleEndian.Uint32(sb[36:]); int64(blocks)*BlockSize != int64(len(image)) {
		return fmt.Errorf("the superblock says %d blocks; there are %d", blocks, len(image)/BlockSize)
	}
	return nil
}

// buffer is an io.WriteSeeker in memory.
type buffer struct {
	b  []byte
	at int
}

func (w *buffer) Write(p []byte) (int, error) {
	if over := w.at + len(p) - len(w.b); over > 0 {
		if len(w.b)+over > maxImage {
			return 0, fmt.Errorf("the image grows over %d bytes", int64(maxImage))
		}
		w.b = append(w.b, p[len(p)-over:]...)
	}
	n := copy(w.b[w.at:], p)
	w.at += n
	return n, nil
}

func (w *buffer) Seek(offset int64, whence int) (int64, error) {
	if whence != io.SeekStart || offset < 0 || offset > int64(len(w.b)) {
		return 0, errors.New("the image is written forward, then from its start")
	}
	w.at = int(offset)
	return offset, nil
}

// source shows a tree to the library as a file system.
type source struct {
	tree     *tree.Tree
	children map[string][]fs.DirEntry
	size     int64 // estimate of the image
	short    error // a file had not the size of its entry
}

func newSource(t *tree.Tree) (*source, error) {
	s := &source{tree: t, children: make(map[string][]fs.DirEntry), size: 2 * BlockSize}
	dirs := make(map[string]int) // directories in a directory
	for _, e := range t.Entries() {
		if err := checkEntry(e); err != nil {
			return nil, fmt.Errorf("/%s of %s: %w", e.Path, e.Origin, err)
		}
		s.size += (e.Size+BlockSize-1)/BlockSize*BlockSize + 128 // inode and name
		if e.Mode.IsDir() && e.Path != "." {
			dirs[path.Dir(e.Path)]++
		}
	}
	if s.size > maxImage {
		return nil, fmt.Errorf("the files have %d bytes; the limit is %d", s.size, int64(maxImage))
	}
	for _, e := range t.Entries() {
		if e.Path != "." {
			dir := path.Dir(e.Path)
			s.children[dir] = append(s.children[dir], fs.FileInfoToDirEntry(newInfo(e, dirs[e.Path])))
		}
	}
	return s, nil
}

// checkEntry refuses what the format or the library cannot hold.
func checkEntry(e *tree.Entry) error {
	switch {
	case !e.Mode.IsRegular() && !e.Mode.IsDir() && e.Mode.Type() != fs.ModeSymlink:
		return fmt.Errorf("a %v has no place in a root", e.Mode.Type())
	case e.Mode.IsRegular() && e.Size < 0:
		return fmt.Errorf("size %d", e.Size)
	case len(path.Base(e.Path)) > maxName:
		return fmt.Errorf("its name has %d bytes; EROFS takes %d", len(path.Base(e.Path)), maxName)
	case e.Mode.Type() == fs.ModeSymlink && (e.Link == "" || len(e.Link) > maxLink):
		return fmt.Errorf("a link to %d bytes of name; want 1 to %d", len(e.Link), maxLink)
	case e.UID < 0 || e.GID < 0:
		return fmt.Errorf("owner %d:%d", e.UID, e.GID)
	}
	return nil
}

// info is the fs.FileInfo of an entry, with what only Unix knows in an erofs.Stat.
type info struct {
	e    *tree.Entry
	stat *erofs.Stat
}

func newInfo(e *tree.Entry, dirs int) info {
	links := 1
	if e.Mode.IsDir() {
		links = 2 + dirs // itself, its "." and the ".." of each directory in it
	}
	return info{e, &erofs.Stat{UID: uint32(e.UID), GID: uint32(e.GID), Mtime: Epoch, Nlink: links}}
}

func (i info) Name() string       { return path.Base(i.e.Path) }
func (i info) Size() int64        { return i.e.Size }
func (i info) Mode() fs.FileMode  { return i.e.Mode }
func (i info) ModTime() time.Time { return time.Unix(Epoch, 0) }
func (i info) IsDir() bool        { return i.e.Mode.IsDir() }
func (i info) Sys() any           { return i.stat }

// Stat implements fs.StatFS; the library asks for the root only.
func (s *source) Stat(name string) (fs.FileInfo, error) {
	e := s.tree.Lookup(name)
	if e == nil {
		return nil, &fs.PathError{Op: "stat", Path: name, Err: fs.ErrNotExist}
	}
	dirs := 0
	for _, c := range s.children[name] {
		if c.IsDir() {
			dirs++
		}
	}
	return newInfo(e, dirs), nil
}

// ReadDir implements fs.ReadDirFS; names come sorted.
func (s *source) ReadDir(name string) ([]fs.DirEntry, error) { return s.children[name], nil }

// ReadLink implements what the library asks for links with.
func (s *source) ReadLink(name string) (string, error) {
	e := s.tree.Lookup(name)
	if e == nil || e.Mode.Type() != fs.ModeSymlink {
		return "", &fs.PathError{Op: "readlink", Path: name, Err: fs.ErrInvalid}
	}
	return e.Link, nil
}

// Open implements fs.FS. The library opens all files before it reads the first: so the entry is opened at the first
// Read.
func (s *source) Open(name string) (fs.File, error) {
	e := s.tree.Lookup(name)
	if e == nil || !e.Mode.IsRegular() {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return &file{source: s, e: e, left: e.Size}, nil
}

// file reads an entry and notes when it has not the size that its entry says.
type file struct {
	source *source
	e      *tree.Entry
	r      io.ReadCloser
	left   int64
}

func (f *file) Stat() (fs.FileInfo, error) { return newInfo(f.e, 0), nil }

func (f *file) Read(p []byte) (int, error) {
	if f.r == nil {
		r, err := f.e.Open()
		if err != nil {
			return 0, err
		}
		f.r = r
	}
	n, err := f.r.Read(p)
	f.left -= int64(n)
	if err == io.EOF && f.left > 0 {
		err = fmt.Errorf("/%s of %s: %d bytes are missing: %w", f.e.Path, f.e.Origin, f.left, io.ErrUnexpectedEOF)
		f.source.short = err
	}
	return n, err
}

func (f *file) Close() error {
	if f.r == nil {
		return nil
	}
	return f.r.Close()
}
