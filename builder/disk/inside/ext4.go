package inside

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"sync"

	"rempart/builder/disk/ext4"
)

func openExt4(r io.ReaderAt, size int64) (*Volume, error) {
	f, err := ext4.Open(r, size)
	if err != nil {
		return nil, err
	}
	return &Volume{FS: ext4FS{f, &names{}}, Kind: "ext4", Label: f.Info().Label}, nil
}

// ext4FS shows ext4 by paths.
type ext4FS struct {
	f     *ext4.FS
	names *names
}

// names are those of the directories that were looked through last: were a directory read again for each of its files,
// a large one would have no end.
type names struct {
	mu   sync.Mutex
	dirs map[uint32]*folder // by inode
	held int
}

// folder is a directory: the inodes of its names, and why these may not be all.
type folder struct {
	inodes map[string]uint32
	err    error
}

// mostHeld bounds the names that are kept, but for those of a single directory.
const mostHeld = 1 << 18

// find finds a name in a directory.
func (n *names) find(f *ext4.FS, dir *ext4.Inode, name string) (uint32, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	d := n.dirs[dir.Number]
	if d == nil {
		d = &folder{inodes: map[string]uint32{}}
		var entries []ext4.Entry
		entries, d.err = f.ReadDir(dir)
		for _, e := range entries {
			if _, twice := d.inodes[e.Name]; !twice {
				d.inodes[e.Name] = e.Inode
			}
		}
		if n.held += len(d.inodes); n.dirs == nil || n.held > mostHeld {
			n.dirs, n.held = map[uint32]*folder{}, len(d.inodes)
		}
		n.dirs[dir.Number] = d
	}
	if inode, ok := d.inodes[name]; ok {
		return inode, nil
	}
	return 0, errors.Join(fmt.Errorf("there is no %q: %w", name, fs.ErrNotExist), d.err)
}

// inode finds a file. Its name need not be text: ext4 takes any bytes.
func (e ext4FS) inode(op, name string) (*ext4.Inode, error) {
	if !fs.ValidPath(strings.ToValidUTF8(name, "?")) {
		return nil, &fs.PathError{Op: op, Path: name, Err: fs.ErrInvalid}
	}
	i, err := e.f.Inode(ext4.RootInode)
	for part := range strings.SplitSeq(name, "/") {
		if err != nil || name == "." {
			break
		}
		var number uint32
		if number, err = e.names.find(e.f, i, part); err == nil {
			i, err = e.f.Inode(number)
		}
	}
	if err != nil {
		return nil, &fs.PathError{Op: op, Path: name, Err: err}
	}
	return i, nil
}

func base(name string) string { return name[strings.LastIndexByte(name, '/')+1:] }

func (e ext4FS) info(name string, i *ext4.Inode) info {
	m := &Meta{Inode: uint64(i.Number), UID: i.UID, GID: i.GID, Links: uint32(i.Links), Major: i.Major, Minor: i.Minor}
	return info{base(name), i.Size, i.FileMode(), i.Modified, m}
}

func (e ext4FS) Open(name string) (fs.File, error) {
	i, err := e.inode("open", name)
	if err != nil {
		return nil, err
	}
	if i.FileMode().IsDir() {
		return &openDir{fsys: e, name: name, info: e.info(name, i)}, nil
	}
	if !i.FileMode().IsRegular() {
		return nil, &fs.PathError{Op: "open", Path: name, Err: errors.New("not a regular file")}
	}
	file, err := e.f.Open(i)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return &openFile{io.NewSectionReader(file, 0, file.Size()), e.info(name, i), file}, nil
}

func (e ext4FS) Lstat(name string) (fs.FileInfo, error) {
	i, err := e.inode("stat", name)
	if err != nil {
		return nil, err
	}
	found := e.info(name, i)
	all, err := e.f.Attributes(i)
	found.meta.Unread = err
	for _, a := range all {
		if found.meta.Attributes == nil {
			found.meta.Attributes = map[string][]byte{}
		}
		found.meta.Attributes[a.Name] = a.Value
	}
	return found, nil
}

func (e ext4FS) ReadLink(name string) (string, error) {
	i, err := e.inode("readlink", name)
	if err != nil {
		return "", err
	}
	target, err := e.f.Readlink(i)
	if err != nil {
		return "", &fs.PathError{Op: "readlink", Path: name, Err: err}
	}
	return target, nil
}

// ReadDir lists by names; of a damaged directory what could be read, with the damage.
func (e ext4FS) ReadDir(name string) ([]fs.DirEntry, error) {
	i, err := e.inode("readdir", name)
	if err != nil {
		return nil, err
	}
	entries, err := e.f.ReadDir(i)
	failed := []error{err}
	var all []fs.DirEntry
	for _, entry := range entries {
		child, bad := e.f.Inode(entry.Inode)
		if bad != nil {
			failed = addTold(failed, bad)
			continue
		}
		all = append(all, fs.FileInfoToDirEntry(e.info(entry.Name, child)))
	}
	slices.SortFunc(all, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	if err := errors.Join(failed...); err != nil {
		return all, &fs.PathError{Op: "readdir", Path: name, Err: err}
	}
	return all, nil
}

// mostTold bounds the errors of one directory that are told: a hostile one has millions.
const mostTold = 10

// addTold adds an error to those that are told.
func addTold(all []error, err error) []error {
	if len(all) < mostTold {
		all = append(all, err)
	}
	return all
}

func (e ext4FS) Usage() (size, used int64, err error) { return e.f.Usage() }

// openFile is an opened regular file.
type openFile struct {
	*io.SectionReader
	info fs.FileInfo
	data interface {
		Data(each func(offset, length int64) error) error
	}
}

func (f *openFile) Stat() (fs.FileInfo, error) { return f.info, nil }
func (f *openFile) Close() error               { return nil }

// Data calls each with the runs of bytes that are not holes.
func (f *openFile) Data(each func(offset, length int64) error) error { return f.data.Data(each) }

// openDir is an opened directory.
type openDir struct {
	fsys fs.ReadDirFS
	name string
	info fs.FileInfo
	all  []fs.DirEntry
	read bool
}

func (d *openDir) Stat() (fs.FileInfo, error) { return d.info, nil }
func (d *openDir) Close() error               { return nil }

func (d *openDir) Read([]byte) (int, error) {
	return 0, &fs.PathError{Op: "read", Path: d.name, Err: errors.New("a directory")}
}

// ReadDir lists as fs.ReadDirFile asks.
func (d *openDir) ReadDir(n int) ([]fs.DirEntry, error) {
	if !d.read {
		var err error
		if d.all, err = d.fsys.ReadDir(d.name); err != nil {
			return d.all, err
		}
		d.read = true
	}
	if n > 0 && len(d.all) == 0 {
		return nil, io.EOF
	}
	if n <= 0 {
		n = len(d.all)
	}
	n = min(n, len(d.all))
	part := d.all[:n]
	d.all = d.all[n:]
	return part, nil
}
