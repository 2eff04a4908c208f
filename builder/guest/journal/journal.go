// Package journal remembers how far a change has come that must be finished or taken back, whatever ends the process
// that makes it: each step that is done is a record, on the disk before the next step begins.
//
// The file has its whole size from the beginning, so that a disk which fills up later does not stop the records by
// which a change is taken back. A record is a line: the first 16 hexadecimal digits of the SHA-256 of the rest, a
// space, and JSON. The first line that is none, a torn one, ends the journal.
//
// What it deliberately does not do: know what the steps are, lock (the change does), or hold much: a path or a digest,
// no content.
package journal

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"rempart/builder/files"
)

// Size is that of a journal's file in bytes, and so bounds all records of one change together.
const Size = 32 << 10

// maxRecord bounds one record in bytes, so that there is room for those a change ends with.
const maxRecord = 4 << 10

// Errors, for errors.Is.
var (
	ErrFull    = errors.New("the journal is full")
	ErrForeign = errors.New("no journal")
)

// Record is one step that is done.
type Record struct {
	Step string          `json:"step"`
	Data json.RawMessage `json:"data,omitempty"`
}

// Journal is an open one.
type Journal struct {
	f       *os.File
	at      int64 // where the next record goes
	records []Record
}

// Create makes a journal with its first record, in a file that is not there yet. It appears whole.
func Create(path string, first Record) (*Journal, error) {
	line, err := encode(first)
	if err != nil {
		return nil, err
	}
	if _, err := os.Lstat(path); err == nil {
		return nil, fmt.Errorf("journal %s: there is one already", path)
	}
	// Zeros that are written, not a hole: room on the disk is what they are for.
	if err := files.Write(path, append(line, make([]byte, Size-len(line))...), 0o600); err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	return Open(path)
}

// Open reads a journal, to go on with it. A file that is not there is an error that wraps fs.ErrNotExist.
func Open(path string) (*Journal, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(f, Size+1))
	var records []Record
	var at int
	if err == nil {
		records, at, err = parse(b)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("journal %s: %w", path, err)
	}
	return &Journal{f, int64(at), records}, nil
}

// Read returns the records of a journal.
func Read(path string) ([]Record, error) {
	j, err := Open(path)
	if err != nil {
		return nil, err
	}
	return j.records, j.Close()
}

// Records are those on the disk, in order.
func (j *Journal) Records() []Record { return j.records }

// Append writes a record and returns when it is on the disk.
func (j *Journal) Append(r Record) error {
	line, err := encode(r)
	if err != nil {
		return err
	}
	if j.at+int64(len(line)) > Size {
		return fmt.Errorf("journal %s: %w", j.f.Name(), ErrFull)
	}
	_, err = j.f.WriteAt(line, j.at)
	if err == nil {
		// Its blocks and its size were there before: only the bytes have to reach the disk.
		err = unix.Fdatasync(int(j.f.Fd()))
	}
	if err != nil {
		return fmt.Errorf("journal %s: %w", j.f.Name(), err)
	}
	j.at += int64(len(line))
	j.records = append(j.records, r)
	return nil
}

// Close ends the use of the file; the journal stays.
func (j *Journal) Close() error { return j.f.Close() }

// Retire closes a journal whose change is over and moves its file elsewhere on the same filesystem.
func (j *Journal) Retire(to string) error {
	return errors.Join(j.Close(), files.Move(j.f.Name(), filepath.Clean(to)))
}

// sumLen is how much of a record's digest stands before it, in hexadecimal digits.
const sumLen = 16

func encode(r Record) ([]byte, error) {
	b, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	line := append(sum(b), ' ')
	line = append(append(line, b...), '\n')
	if r.Step == "" || len(line) > maxRecord {
		return nil, fmt.Errorf("journal: a record of step %q with %d bytes; want a step and at most %d", r.Step, len(line),
			maxRecord)
	}
	return line, nil
}

func sum(b []byte) []byte {
	digest := sha256.Sum256(b)
	return []byte(hex.EncodeToString(digest[:])[:sumLen])
}

// parse reads all records and tells where the next one goes. A file without a single one is none of ours.
func parse(b []byte) (records []Record, at int, err error) {
	if len(b) != Size {
		return nil, 0, fmt.Errorf("%w: %d bytes, want %d", ErrForeign, len(b), Size)
	}
	for {
		line, _, whole := bytes.Cut(b[at:], []byte("\n"))
		if !whole || len(line) <= sumLen+1 || line[sumLen] != ' ' || !bytes.Equal(sum(line[sumLen+1:]), line[:sumLen]) {
			break
		}
		var r Record
		if json.Unmarshal(line[sumLen+1:], &r) != nil || r.Step == "" {
			break
		}
		records, at = append(records, r), at+len(line)+1
	}
	if len(records) == 0 {
		return nil, 0, fmt.Errorf("%w: its first record does not hold", ErrForeign)
	}
	return records, at, nil
}
