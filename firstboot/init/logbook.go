package pid1

import (
	"encoding/json"
	"io"
	"strings"
	"sync"
	"time"

	"rempart/firstboot/boottime"
	"rempart/firstboot/child"
)

// logbook keeps what was said until the log child takes it, without ever making PID 1 wait: while the child is not
// there, the oldest lines go and are counted.
type logbook struct {
	mu      sync.Mutex
	waiting []child.Line
	lost    int
	more    chan struct{} // closed and replaced when a line comes
}

// maxWaiting is how many lines wait at most. The start of a guest with 24 NICs says about 100.
const maxWaiting = 512

func newLogbook() *logbook { return &logbook{more: make(chan struct{})} }

// Severities of RFC 5424, table 2.
const (
	severityError   = 3
	severityWarning = 4
	severityInfo    = 6
)

// levels are how children mark what is no mere information; see package child's log.
var levels = []struct {
	prefix   string
	severity int
}{{"error: ", severityError}, {"warning: ", severityWarning}}

// keep puts down a line as it was said: "[LEVEL: ]TEXT".
func (l *logbook) keep(from, said string) {
	line := child.Line{Time: time.Now().UnixMicro(), Uptime: boottime.Now().Microseconds(), Severity: severityInfo,
		From: from, Text: said}
	for _, level := range levels {
		if text, ok := strings.CutPrefix(said, level.prefix); ok {
			line.Severity, line.Text = level.severity, text
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.waiting) >= maxWaiting {
		l.waiting = l.waiting[1:]
		l.lost++
	}
	l.waiting = append(l.waiting, line)
	close(l.more)
	l.more = make(chan struct{})
}

// next returns the oldest line that waits and leaves it there, or what to wait for.
func (l *logbook) next() (line child.Line, ok bool, more <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.waiting) == 0 {
		return line, false, l.more
	}
	line = l.waiting[0]
	line.Lost = l.lost
	return line, true, nil
}

// taken forgets a line that the child has.
func (l *logbook) taken(line child.Line) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lost -= line.Lost
	line.Lost = 0
	if len(l.waiting) > 0 && l.waiting[0] == line {
		l.waiting = l.waiting[1:]
	} else {
		l.lost-- // it made room for another while it was being written: it is not lost
	}
}

// copyTo writes lines to a log child until it is gone, which its pipe or done tells.
func (l *logbook) copyTo(w io.Writer, done <-chan struct{}) {
	for {
		line, ok, more := l.next()
		if !ok {
			select {
			case <-more:
				continue
			case <-done:
				return
			}
		}
		b, err := json.Marshal(line)
		if err != nil {
			b = []byte("{}") // a line is plain values: never; and an empty one is no line
		}
		if _, err := w.Write(append(b, '\n')); err != nil {
			return // it stays for the child's successor
		}
		l.taken(line)
	}
}
