package inside

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"

	"github.com/erofs/go-erofs"
)

// ErrDamaged is told of an EROFS that its reader stumbles over.
var ErrDamaged = errors.New("damaged EROFS")

// The superblock (Linux fs/erofs/erofs_fs.h, struct erofs_super_block).
const (
	erofsSuper     = 1024
	erofsMagic     = 0xE0F5E1E2
	erofsBlockBits = 12 // offset of blkszbits
	erofsBlocks    = 36 // of the number of blocks
	erofsName      = 64 // of volume_name
)

func openEROFS(r io.ReaderAt, size int64) (v *Volume, err error) {
	b := make([]byte, 80)
	if size < erofsSuper+int64(len(b)) {
		return nil, fmt.Errorf("no EROFS: %d bytes", size)
	}
	if n, err := r.ReadAt(b, erofsSuper); n < len(b) {
		return nil, fmt.Errorf("no EROFS: %w", err)
	}
	if binary.LittleEndian.Uint32(b) != erofsMagic {
		return nil, errors.New("no EROFS: no magic number")
	}
	bits := b[erofsBlockBits]
	if bits < 9 || bits > 16 {
		return nil, fmt.Errorf("%w: blocks of 2^%d bytes", ErrDamaged, bits)
	}
	used := int64(binary.LittleEndian.Uint32(b[erofsBlocks:])) << bits
	if used > size {
		return nil, fmt.Errorf("%w: %d bytes in %d", ErrDamaged, used, size)
	}
	e := erofsFS{size: size, used: used}
	err = guard("open", ".", func() error {
		f, err := erofs.Open(io.NewSectionReader(r, 0, size))
		if err != nil {
			return err
		}
		var ok bool
		if e.fsys, ok = f.(fullFS); !ok {
			return fmt.Errorf("%T lists no directories and reads no links", f)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	label := b[erofsName : erofsName+16]
	for i, c := range label {
		if c == 0 {
			label = label[:i]
			break
		}
	}
	return &Volume{FS: e, Kind: "erofs", Label: string(label)}, nil
}

// fullFS is what the library's filesystem does.
type fullFS interface {
	fs.ReadDirFS
	fs.ReadLinkFS
}

// erofsFS keeps the library's reader from taking the program down with it: it was written for images that are sound.
type erofsFS struct {
	fsys       fullFS
	size, used int64
}

// guard calls the library.
func guard(op, name string, call func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = &fs.PathError{Op: op, Path: name, Err: fmt.Errorf("%w: %v", ErrDamaged, r)}
		}
	}()
	return call()
}

// lastYear is the last that RFC 3339 has.
const lastYear = 9999

func (e erofsFS) convert(i fs.FileInfo) info {
	m, mode := &Meta{Links: 1}, i.Mode()
	if s, ok := i.Sys().(*erofs.Stat); ok && s != nil {
		mode = s.Mode // that of the FileInfo has bits of the disk in it that mean nothing to Go
		m = &Meta{Inode: uint64(s.Ino), UID: s.UID, GID: s.GID, Links: uint32(s.Nlink)}
		if mode&fs.ModeDevice != 0 {
			m.Major, m.Minor = s.Rdev>>8&0xfff, s.Rdev&0xff|s.Rdev>>12&0xfff00 // new_decode_dev
		}
		if len(s.Xattrs) > 0 {
			m.Attributes = map[string][]byte{}
			for name, value := range s.Xattrs {
				m.Attributes[name] = []byte(value)
			}
		}
	}
	modified := i.ModTime()
	if modified.Year() < 0 || modified.Year() > lastYear {
		modified = time.Time{} // JSON cannot say it
	}
	return info{i.Name(), i.Size(), mode, modified, m}
}

func (e erofsFS) Lstat(name string) (found fs.FileInfo, err error) {
	err = guard("stat", name, func() error {
		i, err := e.fsys.Lstat(name)
		if err != nil {
			return err
		}
		if i.Size() < 0 || i.Mode().IsRegular() && i.Size() > mostSparse {
			return &fs.PathError{Op: "stat", Path: name, Err: fmt.Errorf("%w: %d bytes", ErrDamaged, i.Size())}
		}
		found = e.convert(i)
		return nil
	})
	return found, err
}

// mostSparse bounds what a file may claim to have.
const mostSparse = 1 << 46

func (e erofsFS) Stat(name string) (fs.FileInfo, error) { return e.Lstat(name) }

func (e erofsFS) ReadLink(name string) (target string, err error) {
	i, err := e.Lstat(name)
	if err != nil {
		return "", err
	}
	if i.Size() > mostTarget {
		return "", &fs.PathError{Op: "readlink", Path: name, Err: fmt.Errorf("%w: a link of %d bytes", ErrDamaged, i.Size())}
	}
	err = guard("readlink", name, func() error { target, err = e.fsys.ReadLink(name); return err })
	return target, err
}

// mostTarget is the longest target of a link (PATH_MAX).
const mostTarget = 4096

// ReadDir lists a directory; of a damaged one what could be read, with the damage.
func (e erofsFS) ReadDir(name string) (all []fs.DirEntry, err error) {
	i, err := e.Lstat(name)
	if err != nil {
		return nil, err
	}
	if i.Size() > e.size {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: fmt.Errorf("%w: a directory of %d bytes", ErrDamaged,
			i.Size())}
	}
	err = guard("readdir", name, func() error {
		entries, err := e.fsys.ReadDir(name)
		failed := []error{err}
		for _, entry := range entries {
			i, bad := entry.Info()
			if bad != nil {
				failed = addTold(failed, bad)
				continue
			}
			found := e.convert(i)
			found.meta.Attributes = nil
			all = append(all, fs.FileInfoToDirEntry(found))
		}
		return errors.Join(failed...)
	})
	return all, err
}

func (e erofsFS) Open(name string) (fs.File, error) {
	i, err := e.Lstat(name)
	if err != nil {
		return nil, err
	}
	if i.IsDir() {
		return &openDir{fsys: e, name: name, info: i}, nil
	}
	if !i.Mode().IsRegular() {
		return nil, &fs.PathError{Op: "open", Path: name, Err: errors.New("not a regular file")}
	}
	f := &erofsFile{name: name, info: i}
	err = guard("open", name, func() error { f.file, err = e.fsys.Open(name); return err })
	if err != nil {
		return nil, err
	}
	return f, nil
}

func (e erofsFS) Usage() (size, used int64, err error) { return e.size, e.used, nil }

type erofsFile struct {
	file fs.File
	name string
	info fs.FileInfo
}

func (f *erofsFile) Stat() (fs.FileInfo, error) { return f.info, nil }
func (f *erofsFile) Close() error               { return f.file.Close() }

func (f *erofsFile) Read(b []byte) (n int, err error) {
	guarded := guard("read", f.name, func() error { n, err = f.file.Read(b); return nil })
	if guarded != nil {
		return 0, guarded
	}
	return n, err
}
