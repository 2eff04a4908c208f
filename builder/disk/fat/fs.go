package fat

import (
	"cmp"
	"errors"
	"io"
	"io/fs"
	"strings"
	"time"
)

// lookup finds a file; FAT does not tell upper from lower case.
func (v *Volume) lookup(op, name string) (*entryNode, error) {
	if !fs.ValidPath(name) {
		return nil, &fs.PathError{Op: op, Path: name, Err: fs.ErrInvalid}
	}
	n := v.root
	if name == "." {
		return n, nil
	}
next:
	for part := range strings.SplitSeq(name, "/") {
		for _, exact := range []bool{true, false} {
			for _, c := range n.children {
				if c.name == part || !exact && strings.EqualFold(c.name, part) {
					n = c
					continue next
				}
			}
		}
		return nil, &fs.PathError{Op: op, Path: name, Err: errors.Join(fs.ErrNotExist, n.damaged)}
	}
	return n, nil
}

// Open opens a file; that of a regular one is an io.ReaderAt.
func (v *Volume) Open(name string) (fs.File, error) {
	n, err := v.lookup("open", name)
	if err != nil {
		return nil, err
	}
	if n.dir {
		return &openDir{n: n, path: name}, nil
	}
	runs, err := v.chain(n.cluster, n.size)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	r := &runReader{r: v.r, runs: runs}
	return &openFile{SectionReader: io.NewSectionReader(r, 0, n.size), info: info{n}}, nil
}

// Lstat tells what a file is. There are no links, so Stat is the same.
func (v *Volume) Lstat(name string) (fs.FileInfo, error) {
	n, err := v.lookup("stat", name)
	if err != nil {
		return nil, err
	}
	return info{n}, nil
}

// Stat tells what a file is.
func (v *Volume) Stat(name string) (fs.FileInfo, error) { return v.Lstat(name) }

// ReadLink fails: FAT has no symbolic links.
func (v *Volume) ReadLink(name string) (string, error) {
	return "", &fs.PathError{Op: "readlink", Path: name, Err: fs.ErrInvalid}
}

// ReadDir lists a directory by names. Of a damaged one it returns what could be read, and why that is not all.
func (v *Volume) ReadDir(name string) ([]fs.DirEntry, error) {
	n, err := v.lookup("readdir", name)
	if err != nil {
		return nil, err
	}
	if !n.dir {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: errors.New("not a directory")}
	}
	all := make([]fs.DirEntry, len(n.children))
	for i, c := range n.children {
		all[i] = fs.FileInfoToDirEntry(info{c})
	}
	if n.damaged != nil {
		return all, &fs.PathError{Op: "readdir", Path: name, Err: n.damaged}
	}
	return all, nil
}

// Extents are where the bytes of a regular file lie in the volume, in order.
func (v *Volume) Extents(name string) ([]Extent, error) {
	n, err := v.lookup("open", name)
	if err != nil {
		return nil, err
	}
	if n.dir {
		return nil, &fs.PathError{Op: "open", Path: name, Err: errors.New("a directory")}
	}
	return v.chain(n.cluster, n.size)
}

// runReader reads a file through its pieces.
type runReader struct {
	r    io.ReaderAt
	runs []Extent
}

func (r *runReader) ReadAt(b []byte, off int64) (n int, err error) {
	for _, run := range r.runs {
		if off >= run.Length {
			off -= run.Length
			continue
		}
		part := b[n:min(len(b), n+int(min(run.Length-off, int64(len(b)))))]
		if err := readAll(r.r, part, run.Offset+off); err != nil {
			return n, err
		}
		if n += len(part); n == len(b) {
			return n, nil
		}
		off = 0
	}
	return n, io.EOF
}

type openFile struct {
	*io.SectionReader
	info info
}

func (f *openFile) Stat() (fs.FileInfo, error) { return f.info, nil }
func (f *openFile) Close() error               { return nil }

type openDir struct {
	n    *entryNode
	path string
	at   int
}

func (d *openDir) Stat() (fs.FileInfo, error) { return info{d.n}, nil }
func (d *openDir) Close() error               { return nil }

func (d *openDir) Read([]byte) (int, error) {
	return 0, &fs.PathError{Op: "read", Path: d.path, Err: errors.New("a directory")}
}

// ReadDir lists as fs.ReadDirFile asks.
func (d *openDir) ReadDir(n int) ([]fs.DirEntry, error) {
	left := d.n.children[d.at:]
	var end error
	switch {
	case n <= 0:
		n, end = len(left), d.n.damaged
	case len(left) == 0:
		return nil, cmp.Or(d.n.damaged, io.EOF)
	}
	var all []fs.DirEntry
	for _, c := range left[:min(n, len(left))] {
		all = append(all, fs.FileInfoToDirEntry(info{c}))
	}
	d.at += len(all)
	return all, end
}

// info is what is known of a file.
type info struct{ n *entryNode }

func (i info) Name() string       { return i.n.name }
func (i info) Size() int64        { return i.n.size }
func (i info) Mode() fs.FileMode  { return i.n.modeOf() }
func (i info) ModTime() time.Time { return i.n.modified }
func (i info) IsDir() bool        { return i.n.dir }
func (i info) Sys() any           { return nil }
