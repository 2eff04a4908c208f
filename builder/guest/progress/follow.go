package progress

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Errors, for errors.Is.
var (
	// ErrNone: no command left words.
	ErrNone = errors.New("no command left word of what it did")
	// ErrDied: the process ended without a word on how, killed say.
	ErrDied = errors.New("it ended without a word")
	// ErrDamaged: the file is none of ours, or not whole.
	ErrDamaged = errors.New("the file does not hold")
)

// pause is how long a follower waits before it looks again: what a person takes for at once. Nothing tells of both a
// file that grows and a process that is killed.
const pause = 200 * time.Millisecond

// Listener is told what a command says.
type Listener struct {
	// Began is told first, and whether it is at work still.
	Began func(w Work, lasts bool)
	// Said is told each line, and when it was said.
	Said func(at time.Time, text string)
}

// Follow tells what the command says that is at work on the guest of a folder, or was last, from its beginning to its
// end, and how it ended and when. It returns ErrNone, ErrDied, ErrDamaged or the error of ctx when it cannot.
func Follow(ctx context.Context, folder string, l Listener) (End, time.Time, error) {
	f, err := open(folder)
	if err != nil {
		return End{}, time.Time{}, err
	}
	defer f.Close()
	r := reader{l: l}
	for tick := time.NewTicker(pause); ; {
		// First the one and then the other: what a process said before its end is there when its lock is free.
		over := free(f)
		end, at, err := r.read(f, over)
		switch {
		case err != nil:
			return End{}, time.Time{}, fmt.Errorf("%s: %w", f.Name(), err)
		case end != nil:
			return *end, at, nil
		case over:
			return End{}, time.Time{}, ErrDied
		}
		select {
		case <-ctx.Done():
			return End{}, time.Time{}, context.Cause(ctx)
		case <-tick.C:
		}
	}
}

// Now tells which command is at work on the guest of a folder; nil: none is.
func Now(folder string) (*Work, error) {
	f, err := open(folder)
	if errors.Is(err, ErrNone) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if free(f) {
		return nil, nil
	}
	var now *Work
	r := reader{l: Listener{Began: func(w Work, _ bool) { now = &w }, Said: func(time.Time, string) {}}}
	end, _, err := r.read(f, false)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.Name(), err)
	}
	if end != nil { // it is just about to give the file free
		return nil, nil
	}
	return now, nil
}

func open(folder string) (*os.File, error) {
	f, err := os.Open(filepath.Join(folder, File))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNone
	}
	return f, err
}

// free tells whether the process has ended whose words a file holds. It takes nothing from anybody: the file is no
// other process's to lock again.
func free(f *os.File) bool { return unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB) == nil }

// reader reads the lines of a file that grows.
type reader struct {
	l     Listener
	size  int    // bytes read
	rest  []byte // of a line whose end has not come
	begun bool
}

// read tells the lines that are there, and the end, if that is among them.
func (r *reader) read(f io.Reader, over bool) (*End, time.Time, error) {
	b, err := io.ReadAll(io.LimitReader(f, int64(maxFile-r.size)+1))
	if err != nil {
		return nil, time.Time{}, err
	}
	if r.size += len(b); r.size > maxFile {
		return nil, time.Time{}, fmt.Errorf("%w: more than %d bytes", ErrDamaged, maxFile)
	}
	r.rest = append(r.rest, b...)
	for {
		line, rest, whole := bytes.Cut(r.rest, []byte("\n"))
		if !whole {
			return nil, time.Time{}, nil
		}
		r.rest = rest
		var now record
		if err := json.Unmarshal(line, &now); err != nil && r.begun {
			continue // there was no room for all of it
		} else if err != nil {
			return nil, time.Time{}, fmt.Errorf("%w: %w", ErrDamaged, err)
		}
		switch {
		case (now.Work != nil) == r.begun:
			return nil, time.Time{}, fmt.Errorf("%w: its first line says who is at work, and no other", ErrDamaged)
		case now.Work != nil:
			r.begun = true
			r.l.Began(*now.Work, !over)
		case now.End != nil:
			return now.End, now.At, nil
		default:
			r.l.Said(now.At, now.Said)
		}
	}
}
