package refresh

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"rempart/firstboot/refresh/get"
)

// Store is a directory with the last good content of each source: a file for each name with the content, then Meta as
// JSON, then eight bytes with the length of that, then magic. Its time of modification is when the content was last
// seen to be still the one.
type Store struct{ root *os.Root }

// Meta is what is known of a content.
type Meta struct {
	From   string    `json:"from"`   // Source.URL, or "file:" and Source.File
	Taken  time.Time `json:"taken"`  // when it was taken
	Bytes  int64     `json:"bytes"`  // of the content
	SHA256 []byte    `json:"sha256"` // of the content
	get.Validators
	seen time.Time
}

// Kept is an open content.
type Kept struct {
	Meta
	io.ReadSeeker
	f *os.File
}

// Close closes it.
func (k *Kept) Close() error { return k.f.Close() }

// ErrDamaged is wrapped when a file is not what was laid there: a disk that lost something, or somebody else's work.
var ErrDamaged = errors.New("is damaged")

const (
	magic    = "RMPKEPT1"
	tailSize = 8 + len(magic)
	maxMeta  = 16 << 10 // bytes
	// scratchName and newName are files on their way. No Source is called so.
	scratchName = ".fetched"
	newName     = ".new"
)

// OpenStore opens the store in a directory.
func OpenStore(dir string) (*Store, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("what is kept: %w", err)
	}
	return &Store{root}, nil
}

// Close closes the store. What was opened from it stays open.
func (s *Store) Close() error { return s.root.Close() }

// keepPruned is how long what is no longer named stays after it was last seen to be right: a change of the profile may
// be undone, and then it is wanted. It is longer than anybody waits from one look to the next.
const keepPruned = 31 * 24 * time.Hour

// Prune removes all but the named, in time.
func (s *Store) Prune(names []string) error {
	dir, err := s.root.Open(".")
	if err != nil {
		return fmt.Errorf("what is kept: %w", err)
	}
	defer dir.Close()
	there, err := dir.Readdirnames(-1)
	if err != nil {
		return fmt.Errorf("what is kept: %w", err)
	}
	var failed []error
	for _, name := range there {
		if !slices.Contains(names, name) {
			info, err := s.root.Lstat(name)
			if err == nil && info.Mode().IsRegular() && name[0] != '.' && time.Since(info.ModTime()) < keepPruned {
				continue
			}
			failed = append(failed, s.root.RemoveAll(name))
		}
	}
	return errors.Join(failed...)
}

// Open opens what is kept under a name and has checked its digest. The error wraps os.ErrNotExist when there is
// nothing, ErrDamaged when it is not what was kept.
func (s *Store) Open(name string) (*Kept, error) {
	f, err := s.root.OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("what is kept: %w", err)
	}
	k, err := check(f)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("what is kept as %s: %w", name, err)
	}
	return k, nil
}

// OpenOf is Open of what was kept of a source; what is of another one under its name is not there.
func (s *Store) OpenOf(source *Source) (*Kept, error) {
	k, err := s.Open(source.Name)
	if err == nil && k.From != source.from() {
		k.Close()
		return nil, fmt.Errorf("what is kept as %s is of another source: %w", source.Name, os.ErrNotExist)
	}
	return k, err
}

// check reads what stands behind the content of a file, and the content.
func check(f *os.File) (*Kept, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() < int64(tailSize) {
		return nil, ErrDamaged
	}
	tail := make([]byte, tailSize)
	if _, err := f.ReadAt(tail, info.Size()-int64(tailSize)); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint64(tail)
	if string(tail[8:]) != magic || n > maxMeta || int64(n) > info.Size()-int64(tailSize) {
		return nil, ErrDamaged
	}
	b := make([]byte, n)
	if _, err := f.ReadAt(b, info.Size()-int64(tailSize)-int64(n)); err != nil {
		return nil, err
	}
	k := &Kept{f: f}
	if err := json.Unmarshal(b, &k.Meta); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if k.Bytes < 0 || k.Bytes != info.Size()-int64(tailSize)-int64(n) {
		return nil, ErrDamaged
	}
	sum := sha256.New()
	if _, err := io.Copy(sum, io.NewSectionReader(f, 0, k.Bytes)); err != nil {
		return nil, err
	}
	if !bytes.Equal(sum.Sum(nil), k.SHA256) {
		return nil, fmt.Errorf("%w: its digest is another", ErrDamaged)
	}
	k.seen = info.ModTime()
	k.ReadSeeker = io.NewSectionReader(f, 0, k.Bytes)
	return k, nil
}

// scratch is a file without a name for what is being fetched.
func (s *Store) scratch() (*os.File, error) {
	f, err := s.fresh(scratchName)
	if err == nil {
		err = s.root.Remove(scratchName)
	}
	if err != nil {
		return nil, fmt.Errorf("room for what is fetched: %w", err)
	}
	return f, nil
}

// fresh makes a file, in place of whatever is there.
func (s *Store) fresh(name string) (*os.File, error) {
	if err := s.root.RemoveAll(name); err != nil {
		return nil, err
	}
	return s.root.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
}

// put keeps what write writes under a name, in place of what is there, and tells whether its content is another. After
// an error what was kept still is.
func (s *Store) put(name string, m Meta, old *Kept, write func(io.Writer) error) (changed bool, err error) {
	seen := m.Taken
	f, err := s.fresh(newName)
	if err != nil {
		return false, fmt.Errorf("keep %s: %w", name, err)
	}
	defer func() {
		f.Close()
		if err != nil {
			_ = s.root.Remove(newName) // the next one replaces it otherwise
		}
	}()
	counted := &counter{w: f, sum: sha256.New()}
	if err := write(counted); err != nil {
		return false, err
	}
	m.Bytes, m.SHA256 = counted.n, counted.sum.Sum(nil)
	same := old != nil && bytes.Equal(old.SHA256, m.SHA256)
	if same {
		m.Taken = old.Taken
	}
	b, err := json.Marshal(m)
	if err == nil && len(b) > maxMeta {
		err = fmt.Errorf("%d bytes are told of it, at most %d", len(b), maxMeta)
	}
	if err == nil {
		_, err = f.Write(append(binary.BigEndian.AppendUint64(b, uint64(len(b))), magic...))
	}
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = s.root.Rename(newName, name)
	}
	if err == nil {
		err = s.sync()
	}
	if err == nil {
		err = s.touch(name, seen)
	}
	if err != nil {
		return false, fmt.Errorf("keep %s: %w", name, err)
	}
	return !same, nil
}

// sync makes names last.
func (s *Store) sync() error {
	dir, err := s.root.Open(".")
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

// touch notes that what is kept under a name was still the one at a time.
func (s *Store) touch(name string, at time.Time) error { return s.root.Chtimes(name, at, at) }

// counter counts and digests what is written.
type counter struct {
	w   io.Writer
	n   int64
	sum interface {
		io.Writer
		Sum([]byte) []byte
	}
}

func (c *counter) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	c.n += int64(n)
	c.sum.Write(b[:n])
	return n, err
}
