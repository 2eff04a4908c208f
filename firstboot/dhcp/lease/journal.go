package lease

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"rempart/profiles"
)

// header is the first line of a file, with the version of its format.
const header = "rempart leases 1\n"

// Damaged and fresh are what follows the name of the file for a damaged one kept aside and for one not yet in place.
const (
	Damaged = ".damaged"
	fresh   = ".new"
)

// maxLine bounds one line: the bounds of a lease, its client and hardware address in hex, its name quoted at worst.
const maxLine = profiles.MaxLeaseLine

// castagnoli is the polynomial of CRC-32C, for which processors have an instruction.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// spare is how many outdated lines a file may have beyond twice the leases before it is written anew.
const spare = profiles.LeaseSpare

// journal is the file and what is on its way into it. All but end, ended and file is guarded by the store's mutex.
type journal struct {
	path    string
	file    *os.File
	lines   int // in the file
	reading bool
	stale   bool // the file does not say what the memory does: it must be written anew
	pending []byte
	spent   []byte // a buffer to use again
	added   int    // lines in pending
	waiting []func(error)

	kick, end, ended chan struct{}
}

// openJournal reads a file into a store. newest is the time of its last line.
func openJournal(path string, s *Store) (j *journal, newest int64, err error) {
	j = &journal{path: path, kick: make(chan struct{}, 1), end: make(chan struct{}), ended: make(chan struct{})}
	if err := os.Remove(path + fresh); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, 0, fmt.Errorf("leases: %w", err)
	}
	in, err := os.Open(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return j, 0, j.rewrite(s)
	case err != nil:
		return nil, 0, fmt.Errorf("leases: %w", err)
	}
	defer in.Close()
	j.reading = true
	s.journal = j
	r := replay(in, s)
	j.reading = false
	if r.err != nil {
		return nil, 0, fmt.Errorf("leases in %s: %w", path, r.err)
	}
	j.lines = r.lines
	if r.damaged > 0 {
		aside := path + Damaged
		s.log.Warn("the lease file is damaged; what is readable is kept, the file as it was is set aside", "file", aside,
			"damaged lines", r.damaged, "leases", len(s.byAddr))
		if err := os.Remove(aside); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, 0, fmt.Errorf("leases: %w", err)
		}
		if err := os.Link(path, aside); err != nil {
			return nil, 0, fmt.Errorf("setting the damaged leases aside: %w", err)
		}
	}
	if r.torn > 0 {
		s.log.Warn("the last change of the lease file was not written to its end and is dropped; its client was never told",
			"file", path, "bytes", r.torn)
	}
	if r.damaged > 0 || r.torn > 0 || !r.whole {
		return j, r.newest, j.rewrite(s)
	}
	j.file, err = os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return nil, 0, fmt.Errorf("leases: %w", err)
	}
	return j, r.newest, nil
}

// replayed is what reading a file came to.
type replayed struct {
	lines   int
	whole   bool  // there is a first line
	damaged int   // lines
	torn    int   // bytes after the last newline
	newest  int64 // Unix seconds
	err     error // of reading
}

// replay reads lines into a store. Whatever the bytes are, it ends, and takes no more memory than the store's bounds.
func replay(in io.Reader, s *Store) (r replayed) {
	b := bufio.NewReaderSize(in, maxLine)
	for first := true; ; first = false {
		line, err := b.ReadSlice('\n')
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			r.damaged++
			for errors.Is(err, bufio.ErrBufferFull) {
				line, err = b.ReadSlice('\n')
			}
			if err != nil {
				r.torn = len(line)
			}
		case err != nil:
			r.torn = len(line)
		case first:
			r.whole = true
			if string(line) != header {
				r.damaged++ // another version's lines do not read as ours
			}
		default:
			r.lines++
			if written, err := s.apply(string(line[:len(line)-1])); err != nil {
				r.damaged++
			} else {
				r.newest = max(r.newest, written)
			}
		}
		if err != nil {
			if !errors.Is(err, io.EOF) {
				r.err = err
			}
			return r
		}
	}
}

var errLine = errors.New("not a line of a lease file")

// apply takes one line in.
func (s *Store) apply(line string) (written int64, err error) {
	l, written, gone, err := parseLine(line)
	if err != nil {
		return 0, err
	}
	if gone {
		s.forget(l.Addr)
		return written, nil
	}
	if len(s.byAddr) >= s.most && s.byAddr[l.Addr] == nil {
		return 0, ErrFull
	}
	s.set(l)
	return written, nil
}

// parseLine reads a line without its newline.
func parseLine(line string) (l Lease, written int64, gone bool, err error) {
	sum, rest, ok := strings.Cut(line, " ")
	n, err := strconv.ParseUint(sum, 16, 32)
	if !ok || err != nil || len(sum) != 8 || uint32(n) != crc32.Checksum([]byte(rest), castagnoli) {
		return l, 0, false, errLine
	}
	f := strings.SplitN(rest, " ", 9)
	if len(f) < 3 {
		return l, 0, false, errLine
	}
	if l.Addr, err = netip.ParseAddr(f[1]); err != nil || l.Addr.Zone() != "" {
		return l, 0, false, errLine
	}
	if written, err = strconv.ParseInt(f[2], 10, 64); err != nil {
		return l, 0, false, errLine
	}
	if f[0] == "-" && len(f) == 3 {
		return l, written, true, nil
	}
	if len(f) != 9 || len(f[0]) != 1 {
		return l, 0, false, errLine
	}
	l.State = State(f[0][0])
	length, via, routed := strings.Cut(f[3], "@")
	bits, err1 := strconv.ParseUint(length, 10, 8)
	if routed {
		if l.Via, err = netip.ParseAddr(via); err != nil || l.Via.Zone() != "" {
			return l, 0, false, errLine
		}
	}
	expires, err2 := strconv.ParseInt(f[4], 10, 64)
	since, err3 := strconv.ParseInt(f[5], 10, 64)
	client, err4 := hex.DecodeString(strings.TrimPrefix(f[6], "."))
	hardware, err5 := hex.DecodeString(strings.TrimPrefix(f[7], "."))
	name, err6 := strconv.Unquote(f[8])
	l.Bits, l.Since, l.Expires, l.Name = int(bits), since, expires, name
	l.Client, l.Hardware = string(client), string(hardware)
	if errors.Join(err1, err2, err3, err4, err5, err6) != nil ||
		l.State != Bound && l.State != Freed && l.State != Declined || l.Bits > l.Addr.BitLen() ||
		len(client) > MaxClient || len(hardware) > MaxHardware || len(name) > MaxName {
		return l, 0, false, errLine
	}
	return l, written, false, nil
}

// appendLine adds the line of a lease. Empty fields are a dot, so that there are always as many.
func appendLine(b []byte, l Lease, now int64) []byte {
	return summed(b, func(b []byte) []byte {
		b = append(b, byte(l.State), ' ')
		b = l.Addr.AppendTo(b)
		b = strconv.AppendInt(append(b, ' '), now, 10)
		b = strconv.AppendInt(append(b, ' '), int64(l.Bits), 10)
		if l.Via.IsValid() {
			b = l.Via.AppendTo(append(b, '@'))
		}
		b = strconv.AppendInt(append(b, ' '), l.Expires, 10)
		b = strconv.AppendInt(append(b, ' '), l.Since, 10)
		b = hex.AppendEncode(append(b, " ."...), []byte(l.Client))
		b = hex.AppendEncode(append(b, " ."...), []byte(l.Hardware))
		return strconv.AppendQuoteToASCII(append(b, ' '), l.Name)
	})
}

// summed adds what fill adds, with its checksum before it and a newline after it.
func summed(b []byte, fill func([]byte) []byte) []byte {
	at := len(b)
	b = append(b, "00000000 "...)
	from := len(b)
	b = fill(b)
	sum := crc32.Checksum(b[from:], castagnoli)
	hex.Encode(b[at:], []byte{byte(sum >> 24), byte(sum >> 16), byte(sum >> 8), byte(sum)})
	return append(b, '\n')
}

func (j *journal) put(l Lease, now int64) {
	j.pending = appendLine(j.pending, l, now)
	j.added++
}

func (j *journal) remove(a netip.Addr, now int64) {
	j.pending = summed(j.pending, func(b []byte) []byte {
		return strconv.AppendInt(append(a.AppendTo(append(b, "- "...)), ' '), now, 10)
	})
	j.added++
}

// wake tells the committer that there is something to write.
func (j *journal) wake() {
	select {
	case j.kick <- struct{}{}:
	default:
	}
}

// commit writes what is pending, everything at once, until the store is closed.
func (j *journal) commit(s *Store) {
	defer close(j.ended)
	for {
		last := false
		select {
		case <-j.kick:
		case <-j.end:
			last = true
		}
		s.mu.Lock()
		batch, waiting, added := j.pending, j.waiting, j.added
		j.pending, j.waiting, j.added, j.spent = j.spent[:0], nil, 0, nil
		var err error
		if j.stale || j.lines+added > 2*len(s.byAddr)+spare {
			err = j.rewrite(s) // what is in the batch is in memory already
			s.mu.Unlock()
		} else {
			s.mu.Unlock()
			err = j.append(batch)
		}
		s.mu.Lock()
		if err != nil {
			j.stale = true // what the file holds now nobody knows; the next write replaces it
		} else if len(batch) > 0 {
			j.lines += added
		}
		j.spent = batch
		s.mu.Unlock()
		if err != nil {
			s.log.Error("leases cannot be written: no client is told of its lease until they can", "error", err)
		}
		for _, done := range waiting {
			done(err)
		}
		if last {
			return
		}
	}
}

// append writes lines to the end of the file and waits for the disk.
func (j *journal) append(batch []byte) error {
	if len(batch) == 0 {
		return nil
	}
	if _, err := j.file.Write(batch); err != nil {
		return fmt.Errorf("leases: %w", err)
	}
	if err := unix.Fdatasync(int(j.file.Fd())); err != nil {
		return fmt.Errorf("leases: %s: %w", j.path, err)
	}
	return nil
}

// rewrite writes all leases to a file of its own that then takes the place of the old one.
func (j *journal) rewrite(s *Store) (err error) {
	f, err := os.OpenFile(j.path+fresh, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|os.O_APPEND, 0o640)
	if err != nil {
		return fmt.Errorf("writing the leases anew: %w", err)
	}
	defer func() {
		if err != nil {
			_ = f.Close()
		}
	}()
	out := bufio.NewWriterSize(f, 1<<16)
	if _, err = out.WriteString(header); err != nil {
		return fmt.Errorf("writing the leases anew: %w", err)
	}
	var line []byte
	now := s.now()
	for _, e := range s.byAddr {
		line = appendLine(line[:0], e.Lease, now)
		if _, err = out.Write(line); err != nil {
			return fmt.Errorf("writing the leases anew: %w", err)
		}
	}
	if err = errors.Join(out.Flush(), f.Sync()); err != nil {
		return fmt.Errorf("writing the leases anew: %w", err)
	}
	if err = os.Rename(j.path+fresh, j.path); err != nil {
		return fmt.Errorf("writing the leases anew: %w", err)
	}
	if err = syncDir(filepath.Dir(j.path)); err != nil {
		return err
	}
	if j.file != nil {
		_ = j.file.Close()
	}
	j.file, j.lines, j.stale = f, len(s.byAddr), false
	return nil
}

// syncDir makes a change of names in a directory last.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("leases: %w", err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("leases: %w", err)
	}
	return nil
}

// Read is what a file holds, for who only looks: its leases, and how many lines of it are damaged.
func Read(src []byte) (leases []Lease, damaged int) {
	s := &Store{clock: SystemClock(), most: DefaultMost, byAddr: map[netip.Addr]*entry{}, byClient: map[string]*entry{}}
	r := replay(bytes.NewReader(src), s)
	return s.All(), r.damaged
}
