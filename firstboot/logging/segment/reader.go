package segment

import (
	"bufio"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// Reader reads a store's entries in order. It is not for concurrent use; any number of readers and the writer may be.
type Reader struct {
	s    *Store
	next uint64
	at   *file
	in   *os.File
	off  int64
}

// ReadFrom returns a reader whose first entry is the first with that number or a higher one. A number that the store
// has not come to yet, as who remembers one of a log that was lost has it, means the next.
func (s *Store) ReadFrom(number uint64) *Reader {
	s.mu.Lock()
	defer s.mu.Unlock()
	return &Reader{s: s, next: min(max(number, 1), s.next)}
}

// ReadLast returns a reader of the last n entries, as far as they are kept, and of what follows. The store may hold
// fewer because they were rotated out: that is no loss to tell.
func (s *Store) ReadLast(n uint64) *Reader {
	s.mu.Lock()
	defer s.mu.Unlock()
	from := uint64(1)
	if n < s.next {
		from = s.next - n
	}
	if len(s.all) > 0 {
		from = max(from, s.all[0].first)
	}
	return &Reader{s: s, next: from}
}

// Close gives up what the reader holds.
func (r *Reader) Close() {
	if r.in != nil {
		r.in.Close()
		r.in, r.at = nil, nil
	}
}

// batch is how many entries Read returns at most: a reader's memory does not depend on the log's size.
const batch = 64

// Read returns entries that are there, none when all have been read. Entries that were rotated out before they were
// read are counted by an entry of the log itself.
func (r *Reader) Read() ([]Entry, error) {
	var out []Entry
	for len(out) < batch {
		size, ok, err := r.position()
		if err != nil {
			return out, err
		}
		if !ok {
			return out, nil
		}
		if r.next < r.at.first {
			out = append(out, lostEntry(r.at.first-1, r.at.first-r.next))
			r.next = r.at.first
		}
		if out, err = r.lines(size, out); err != nil {
			return out, err
		}
	}
	return out, nil
}

// position makes r.in the segment that holds the next entry with unread bytes, and returns its size. ok is false when
// there is nothing unread.
func (r *Reader) position() (size int64, ok bool, err error) {
	for {
		r.s.mu.Lock()
		var take *file
		for _, f := range r.s.all {
			switch {
			case r.at == nil && (take == nil || f.first <= r.next):
				take = f // the last that begins at or before the next entry; else the oldest
			case r.at != nil && take == nil && f.first > r.at.first:
				take = f // the one after the present one
			}
		}
		if r.at != nil && r.off < r.at.size {
			size = r.at.size
			r.s.mu.Unlock()
			return size, true, nil
		}
		r.s.mu.Unlock()
		if take == nil {
			return 0, false, nil
		}
		in, err := take.dir.root.OpenFile(take.name(), os.O_RDONLY|unix.O_NONBLOCK, 0)
		if os.IsNotExist(err) && r.gone(take) {
			continue // rotated out between the two looks: the next look finds the oldest there is
		}
		if err != nil {
			return 0, false, fmt.Errorf("log: %w", err)
		}
		r.Close()
		r.in, r.at, r.off = in, take, 0
	}
}

// gone tells whether a segment is no part of the store any more.
func (r *Reader) gone(f *file) bool {
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	for _, have := range r.s.all {
		if have == f {
			return false
		}
	}
	return true
}

// lines reads entries of the present segment up to size. What is damaged is passed over: its number is missing.
func (r *Reader) lines(size int64, out []Entry) ([]Entry, error) {
	in := bufio.NewReaderSize(io.NewSectionReader(r.in, r.off, size-r.off), 2*maxLine)
	for len(out) < batch {
		line, err := in.ReadSlice('\n')
		r.off += int64(len(line))
		switch {
		case err == bufio.ErrBufferFull:
			continue
		case err == io.EOF:
			r.off = size // a tail without a newline can only be damage: all that is written ends with one
			return out, nil
		case err != nil:
			return out, fmt.Errorf("log: %w", err)
		}
		e, err := Parse(string(line[:len(line)-1]))
		if err != nil || e.Number < r.next {
			continue
		}
		r.next = e.Number + 1
		out = append(out, e)
	}
	return out, nil
}
