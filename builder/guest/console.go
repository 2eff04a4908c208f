package guest

import (
	"bytes"
	"strings"
	"sync"

	"rempart/builder/hypervisor/qemu"
	"rempart/firstboot/contract"
)

// maxLine bounds a line of the console that is looked at, in bytes; the rest of a longer one is not.
const maxLine = 1024

// lines cuts what a guest says into lines.
type lines struct {
	each func(line string)
	// begun is called with a line that has not ended yet, as a prompt does not; nil: nobody waits for one.
	begun func(line string)

	mu      sync.Mutex
	partial []byte
	last    string
	why     string // the last line that starts with FAILED
}

// Write implements io.Writer; it never fails.
func (l *lines) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		i := bytes.IndexByte(p, '\n')
		piece := p
		if i >= 0 {
			piece = p[:i]
		}
		l.mu.Lock()
		if room := maxLine - len(l.partial); room > 0 {
			l.partial = append(l.partial, piece[:min(room, len(piece))]...)
		}
		line := ""
		if i >= 0 {
			line = qemu.Printable(strings.TrimRight(string(l.partial), "\r"))
			l.partial = l.partial[:0]
			if strings.TrimSpace(line) != "" {
				l.last = line
			}
			if strings.HasPrefix(line, contract.FailedPrefix) {
				l.why = line
			}
		}
		prompt := ""
		if i < 0 && l.begun != nil {
			prompt = qemu.Printable(string(l.partial))
		}
		l.mu.Unlock()
		if i < 0 {
			if l.begun != nil {
				l.begun(prompt)
			}
			break
		}
		l.each(line)
		p = p[i+1:]
	}
	return n, nil
}

func (l *lines) lastLine() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last
}

func (l *lines) failure() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.why
}

// panicWords begin the kernel's last line (kernel/panic.c), after its time stamp.
const panicWords = "Kernel panic - not syncing"

// line looks at one line of the console.
func (g *Guest) line(line string) {
	switch {
	case g.pattern != nil: // of another system: our words mean nothing there
		g.match(line)
		if strings.Contains(line, "] "+panicWords) {
			g.Panicked(line)
		}
	case strings.HasPrefix(line, contract.ReadyPrefix):
		closeOnce(g.ready)
	case strings.HasPrefix(line, contract.FailedPrefix):
		closeOnce(g.failed)
	case strings.Contains(line, "] "+panicWords):
		g.Panicked(line)
	}
}

// match looks whether a line of another system's console is the one that is waited for.
func (g *Guest) match(line string) {
	if g.pattern.MatchString(line) {
		closeOnce(g.matched)
	}
}

// closeOnce closes c unless it is closed; only one goroutine, the one that follows the console, does.
func closeOnce(c chan struct{}) {
	select {
	case <-c:
	default:
		close(c)
	}
}
