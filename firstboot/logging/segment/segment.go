// Package segment keeps the guest's log in files of bounded number and size: numbered entries, one a line, as text
// that a person can read on a disk taken from a guest. The newest segment grows; full, it is followed by the next, and
// the oldest goes. Readers follow at their own pace and are told what was gone before they came to it.
//
// A power cut leaves at worst a torn last line, which is cut off at the next start. When the directory cannot be
// written any more the log goes on in another, in memory.
//
// What it deliberately does not do: compress, index, or authenticate. Who breaks into the guest can change what is on
// its state disk; a log that must survive that is sent elsewhere.
package segment

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"regexp"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// segments is how many files a full log has: rotation loses an eighth of it at a time.
const segments = 8

// Store is a log that one process writes. Make it with Open.
type Store struct {
	mu      sync.Mutex
	dir     *directory
	spare   *directory // where the log goes on when dir fails; nil: nowhere left
	all     []*file    // oldest first; the last is the one written, if out is set
	out     *os.File
	dirty   bool
	next    uint64
	changed chan struct{} // closed and replaced at each entry
}

// directory is where segments are.
type directory struct {
	root  *os.Root
	limit int64 // bytes of all segments together
}

// file is one segment.
type file struct {
	dir   *directory
	first uint64 // number of its first entry: its name
	size  int64  // bytes of whole lines
}

func (f *file) name() string { return fmt.Sprintf("%020d.log", f.first) }

var fileName = regexp.MustCompile(`^[0-9]{20}\.log$`)

// Place is a directory and how many bytes of log it may hold.
type Place struct {
	Dir   string
	Bytes int64
}

// Open opens the log in a place, which need not hold one yet. spare is where it goes on when that fails; at the next
// Open the first is tried again. With an error that wraps ErrSpare the store is there and works in spare.
func Open(place, spare Place) (*Store, error) {
	s := &Store{next: 1, changed: make(chan struct{})}
	var err error
	if s.spare, err = openDirectory(spare); err != nil {
		return nil, err
	}
	// What an earlier process kept in the spare place goes on counting, whichever place is used now.
	if err := s.load(s.spare); err != nil {
		return nil, err
	}
	if s.dir, err = openDirectory(place); err == nil {
		if err = s.load(s.dir); err != nil {
			s.dir.root.Close()
		}
	}
	slices.SortFunc(s.all, func(a, b *file) int { return int(int64(a.first) - int64(b.first)) })
	if err != nil {
		s.dir, s.spare = s.spare, nil
		return s, fmt.Errorf("%w: %w", ErrSpare, err)
	}
	return s, nil
}

// ErrSpare is wrapped by errors that say the log goes on in its spare place.
var ErrSpare = errors.New("the log is kept in memory only")

func openDirectory(p Place) (*directory, error) {
	if err := os.MkdirAll(p.Dir, 0o750); err != nil {
		return nil, fmt.Errorf("log: %w", err)
	}
	root, err := os.OpenRoot(p.Dir)
	if err != nil {
		return nil, fmt.Errorf("log: %w", err)
	}
	return &directory{root: root, limit: p.Bytes}, nil
}

// load takes in the segments of a directory and cuts a torn tail off the last.
func (s *Store) load(d *directory) error {
	list, err := fs.ReadDir(d.root.FS(), ".")
	if err != nil {
		return fmt.Errorf("log: %w", err)
	}
	var found []*file
	for _, e := range list {
		if !fileName.MatchString(e.Name()) || !e.Type().IsRegular() {
			continue // not ours: left for who looks at the disk
		}
		first, err := strconv.ParseUint(e.Name()[:20], 10, 64)
		info, err2 := e.Info()
		if err != nil || err2 != nil || first == 0 || first > maxNumber {
			continue
		}
		found = append(found, &file{dir: d, first: first, size: info.Size()})
	}
	if len(found) > 0 {
		last := found[len(found)-1]
		end, number, err := whole(d.root, last)
		if err != nil {
			return err
		}
		last.size = end
		s.next = max(s.next, last.first, number+1)
	}
	s.all = append(s.all, found...)
	return nil
}

// maxNumber keeps a planted file name from making the numbers overflow.
const maxNumber = 1 << 62

// whole finds where the last whole entry of a segment ends, and its number (0: there is none), and cuts off the rest.
func whole(root *os.Root, f *file) (end int64, number uint64, err error) {
	in, err := root.OpenFile(f.name(), os.O_RDWR|unix.O_NONBLOCK, 0)
	if err != nil {
		return 0, 0, fmt.Errorf("log: %w", err)
	}
	defer in.Close()
	// The last entry is in the last two lines' worth of bytes, unless that tail is damaged: then all is read.
	for _, from := range []int64{max(0, f.size-2*int64(maxLine)), 0} {
		b, err := io.ReadAll(io.NewSectionReader(in, from, min(f.size-from, maxWhole)))
		if err != nil {
			return 0, 0, fmt.Errorf("log: %w", err)
		}
		at := from
		for len(b) > 0 {
			line, rest, ok := bytes.Cut(b, []byte{'\n'})
			if !ok {
				break
			}
			at += int64(len(line)) + 1
			if e, err := Parse(string(line)); err == nil && e.Number >= f.first && e.Number < maxNumber {
				end, number = at, e.Number
			}
			b = rest
		}
		if number > 0 || from == 0 {
			break
		}
	}
	if end == f.size {
		return end, number, nil
	}
	if err := in.Truncate(end); err != nil {
		return 0, 0, fmt.Errorf("log: cutting off a torn tail: %w", err)
	}
	return end, number, nil
}

// maxWhole bounds what of one file is read to find its end: more than any segment holds.
const maxWhole = 2 << 20

// Append writes entries; their numbers are given here. It returns an error that wraps ErrSpare when the log moved to
// its spare place on the way, and another when the entries are lost.
func (s *Store) Append(entries ...Entry) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(entries) == 0 {
		return nil
	}
	var b bytes.Buffer
	for i := range entries {
		entries[i].Number = s.next + uint64(i)
		b.WriteString(entries[i].String())
		b.WriteByte('\n')
	}
	err := s.write(b.Bytes())
	if err != nil && s.spare != nil {
		moved := fmt.Errorf("%w: %w", ErrSpare, err)
		s.leave()
		if err = s.write(b.Bytes()); err == nil {
			err = moved
		}
	}
	if err != nil && !errors.Is(err, ErrSpare) {
		return err
	}
	s.next += uint64(len(entries))
	close(s.changed)
	s.changed = make(chan struct{})
	return err
}

// leave goes on in the spare place.
func (s *Store) leave() {
	if s.out != nil {
		s.out.Close()
		s.out = nil
	}
	s.dir, s.spare = s.spare, nil
}

// write appends whole lines to the newest segment, or to a new one.
func (s *Store) write(b []byte) error {
	if s.out == nil {
		if err := s.open(); err != nil {
			return err
		}
	}
	last := s.all[len(s.all)-1]
	if last.size > 0 && last.size+int64(len(b)) > s.dir.limit/segments {
		if err := s.rotate(); err != nil {
			return err
		}
		last = s.all[len(s.all)-1]
	}
	s.drop(int64(len(b)))
	_, err := s.out.WriteAt(b, last.size)
	if (errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT)) && s.dropOldest() {
		_, err = s.out.WriteAt(b, last.size)
	}
	if err != nil {
		_ = s.out.Truncate(last.size) // what was half written is cut off at the next start at the latest
		return fmt.Errorf("log: %w", err)
	}
	last.size += int64(len(b))
	s.dirty = true
	return nil
}

// open continues the newest segment of the directory in use when there is room, else makes a new one.
func (s *Store) open() error {
	if n := len(s.all); n > 0 && s.all[n-1].dir == s.dir && s.all[n-1].size < s.dir.limit/segments {
		out, err := s.dir.root.OpenFile(s.all[n-1].name(), os.O_WRONLY|unix.O_NONBLOCK, 0)
		if err == nil {
			s.out = out
			return nil
		}
	}
	return s.create()
}

func (s *Store) rotate() error {
	err := s.out.Sync()
	s.out.Close()
	s.out, s.dirty = nil, false
	return errors.Join(err, s.create())
}

func (s *Store) create() error {
	f := &file{dir: s.dir, first: s.next}
	out, err := s.dir.root.OpenFile(f.name(), os.O_WRONLY|os.O_CREATE|os.O_TRUNC|unix.O_NONBLOCK, 0o640)
	if err != nil {
		return fmt.Errorf("log: %w", err)
	}
	s.out = out
	s.all = slices.DeleteFunc(s.all, func(old *file) bool { return old.dir == s.dir && old.first == f.first })
	s.all = append(s.all, f)
	return nil
}

// drop removes the oldest segments until more bytes fit.
func (s *Store) drop(more int64) {
	for s.held()+more > s.dir.limit && s.dropOldest() {
	}
}

// held is how many bytes the directory in use holds.
func (s *Store) held() (sum int64) {
	for _, f := range s.all {
		if f.dir == s.dir {
			sum += f.size
		}
	}
	return sum
}

// dropOldest removes the oldest segment of the directory in use, but never the one being written.
func (s *Store) dropOldest() bool {
	for i, f := range s.all[:len(s.all)-1] {
		if f.dir == s.dir {
			_ = s.dir.root.Remove(f.name()) // one that cannot be removed is forgotten: the disk's size bounds the rest
			s.all = slices.Delete(s.all, i, i+1)
			return true
		}
	}
	return false
}

// Sync makes what was written survive a power cut.
func (s *Store) Sync() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.out == nil || !s.dirty {
		return nil
	}
	s.dirty = false
	if err := s.out.Sync(); err != nil {
		return fmt.Errorf("log: %w", err)
	}
	return nil
}

// Close syncs and ends the store. Readers see the end of what is there.
func (s *Store) Close() error {
	err := s.Sync()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.out != nil {
		err = errors.Join(err, s.out.Close())
		s.out = nil
	}
	return err
}

// Next is the number the next entry gets.
func (s *Store) Next() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.next
}

// Changed returns a channel that is closed when there is another entry.
func (s *Store) Changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

// lostEntry stands for entries that were gone before they were read; it has the number of the last of them.
func lostEntry(last, count uint64) Entry {
	return Entry{Number: last, Time: time.Now(), Severity: Warning, From: "log",
		Text: fmt.Sprintf("%d entries were gone before they were read", count)}
}
