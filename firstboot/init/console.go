package pid1

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"rempart/firstboot/contract"
	"rempart/firstboot/power"
)

// console writes lines without ever making PID 1 wait: a serial line nobody reads, or a hypervisor that stopped taking
// bytes, costs lines and nothing else.
type console struct {
	book    *logbook
	lines   chan queuedLine
	mu      sync.Mutex
	dropped int
}

// queued is how many lines wait at most; at 115200 baud they take two seconds.
const queued = 256

// queuedLine is a line that waits, or who waits for those before it.
type queuedLine struct {
	text string
	sent chan struct{} // nil, or to be closed when all that was written has been sent
}

func newConsole(w io.Writer) *console {
	c := &console{book: newLogbook(), lines: make(chan queuedLine, queued)}
	go func() {
		for line := range c.lines {
			if line.sent == nil {
				_, _ = io.WriteString(w, line.text) // there is nobody to tell of a console that fails
				continue
			}
			if f, ok := w.(*os.File); ok {
				_ = power.Sent(f)
			}
			close(line.sent)
		}
	}()
	return c
}

// say queues one line.
func (c *console) say(line string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dropped > 0 {
		select {
		case c.lines <- queuedLine{text: fmt.Sprintf("%s%d lines were dropped: the console is too slow\n",
			contract.ConsolePrefix, c.dropped)}:
			c.dropped = 0
		default:
			c.dropped++
			return
		}
	}
	select {
	case c.lines <- queuedLine{text: contract.ConsolePrefix + line + "\n"}:
	default:
		c.dropped++
	}
}

// tell says what somebody said, and keeps it for the log.
func (c *console) tell(from, said string) {
	c.say(from + ": " + said)
	c.book.keep(from, said)
}

// drain waits until what was said is sent, at most for d.
func (c *console) drain(d time.Duration) {
	end := time.After(d)
	sent := make(chan struct{})
	select {
	case c.lines <- queuedLine{sent: sent}:
	case <-end: // the queue is full, and the console takes nothing
		return
	}
	select {
	case <-sent:
	case <-end:
	}
}

// maxSaid bounds one line of a child on the console, in bytes.
const maxSaid = 500

// printable makes a line of a child fit for a console: no control characters, which a terminal would obey, and a
// bounded length.
func printable(line []byte) string {
	var b strings.Builder
	for i, r := range string(line) {
		if i >= maxSaid {
			b.WriteString("...")
			break
		}
		switch {
		case r == '\t':
			b.WriteByte(' ')
		case r < ' ' || r >= 0x7f && r < 0xa0 || r == 0xfffd:
			b.WriteByte('?')
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

func oneLine(s string) string { return printable([]byte(strings.ReplaceAll(s, "\n", "; "))) }

// handler returns a log handler that writes "NAME: message key=value".
func (c *console) handler(name string) slog.Handler { return &consoleLog{c: c, name: name} }

type consoleLog struct {
	c           *console
	name, attrs string
}

func (h *consoleLog) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelInfo }

func (h *consoleLog) Handle(_ context.Context, r slog.Record) error {
	var b strings.Builder
	switch {
	case r.Level >= slog.LevelError:
		b.WriteString("error: ")
	case r.Level >= slog.LevelWarn:
		b.WriteString("warning: ")
	}
	b.WriteString(r.Message + h.attrs)
	r.Attrs(func(a slog.Attr) bool {
		fmt.Fprintf(&b, " %s=%q", a.Key, fmt.Sprint(a.Value.Resolve().Any()))
		return true
	})
	h.c.tell(h.name, strings.ReplaceAll(b.String(), "\n", "; "))
	return nil
}

func (h *consoleLog) WithAttrs(attrs []slog.Attr) slog.Handler {
	n := *h
	for _, a := range attrs {
		n.attrs += fmt.Sprintf(" %s=%q", a.Key, fmt.Sprint(a.Value.Resolve().Any()))
	}
	return &n
}

func (h *consoleLog) WithGroup(string) slog.Handler { return h }
