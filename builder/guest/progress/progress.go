// Package progress is what a command says that is at work on a guest for long, line by line in a file of the guest's
// folder: others follow it there while it lasts, and read how it ended when its terminal is gone.
//
// The file is new for each command, and locked (flock(2)) for as long as its process is at work: whoever gets the lock
// of a file that has no end knows that the process was killed. A line is JSON; the first says who is at work, the last
// how it ended.
//
// What it deliberately does not do: know how far a change has come that can be finished or taken back (the journal
// does), keep commands from each other (the guest's lock does), or last: the next command's words take the place of
// these, and they are not forced to the disk.
package progress

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// File is the name of the file in the folder of a guest; until it is begun it has the other.
const (
	File    = "progress"
	newFile = "progress.new"
)

// Bounds in bytes: of one line's words, of all of them with what else is in each line, and of the file that a follower
// reads: JSON may write six bytes for one.
const (
	maxWords = 4 << 10
	maxSaid  = 256 << 10
	maxFile  = 8 * maxSaid
	around   = 64 // of a line
)

// Work is a command that is at work, or was.
type Work struct {
	Command string    `json:"command"` // such as "rempart upgrade"
	PID     int       `json:"pid"`
	Began   time.Time `json:"began"`
}

// End is how it ended.
type End struct {
	Status int    `json:"status"`        // its exit status
	Why    string `json:"why,omitempty"` // its error; empty: there was none
}

// record is a line of the file: one of the three.
type record struct {
	Work *Work     `json:"work,omitempty"`
	At   time.Time `json:"at,omitzero"`
	Said string    `json:"said,omitempty"`
	End  *End      `json:"end,omitempty"`
}

// Log takes the words of a command. That they cannot be written down, for want of room say, is no reason for it to end:
// it is told by nothing but that they are not there.
type Log struct {
	mutex sync.Mutex
	f     *os.File
	left  int  // bytes of words
	torn  bool // the last line is not whole
}

// Begin begins the file of a command in the folder of a guest, which must be locked.
func Begin(folder, command string) (*Log, error) {
	path := filepath.Join(folder, newFile)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	l := &Log{f: f, left: maxSaid}
	if err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err == nil {
		err = l.put(record{Work: &Work{Command: command, PID: os.Getpid(), Began: time.Now().UTC()}})
	}
	if err == nil {
		err = os.Rename(path, filepath.Join(folder, File))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", path, err), f.Close(), os.Remove(path))
	}
	return l, nil
}

func (l *Log) put(r record) error {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	b = append(b, '\n')
	if l.torn {
		b = append([]byte("\n"), b...)
	}
	n, err := l.f.Write(b) // at once: a follower finds a line or none, or what there was room for
	if n > 0 {
		l.torn = n < len(b)
	}
	return err
}

func within(text string, most int) string {
	return strings.ToValidUTF8(text[:min(len(text), most)], "?")
}

// Say writes down a line.
func (l *Log) Say(text string) {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	text = within(text, maxWords)
	if l.left <= 0 || text == "" {
		return
	}
	if l.left -= len(text) + around; l.left <= 0 {
		text = "more is said than is written down here"
	}
	_ = l.put(record{At: time.Now().UTC(), Said: text})
}

// End writes down how the command ended, with its exit status and its error, and gives the file free.
func (l *Log) End(status int, why string) {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	_ = l.put(record{At: time.Now().UTC(), End: &End{Status: status, Why: within(why, maxWords)}})
	// Closing is not enough: a process that is just being started has the file open too, until it is another program.
	_ = unix.Flock(int(l.f.Fd()), unix.LOCK_UN) // cannot fail: it is ours
	l.f.Close()
}

// Lines is a writer that writes down what is written to it line by line. Of a line that a terminal would have seen
// overwritten, by carriage returns, the last is taken.
func (l *Log) Lines() *Lines { return &Lines{log: l} }

// Lines is a stream of a command's words.
type Lines struct {
	log   *Log
	mutex sync.Mutex
	begun []byte // of a line whose end has not come
}

// Write implements io.Writer. It never fails.
func (w *Lines) Write(b []byte) (int, error) {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	for _, c := range b {
		switch {
		case c == '\n':
			w.log.Say(string(w.begun))
			w.begun = w.begun[:0]
		case c == '\r':
			w.begun = w.begun[:0]
		case len(w.begun) < maxWords:
			w.begun = append(w.begun, c)
		}
	}
	return len(b), nil
}
