package ssh

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// Streams are what a command reads and writes.
type Streams struct {
	In       io.Reader
	Out, Err io.Writer
}

// Terminal is a person's.
type Terminal struct {
	Kind          string // as in TERM
	Columns, Rows int
	Changed       <-chan [2]int // columns and rows when they change
}

// giveUp is how long a command may take to end once it was told to.
const giveUp = 3 * time.Second

// Run runs a command in the guest and returns its exit status; no words mean the guest's prompt, with a terminal if t
// is not nil. When ctx is done the command is interrupted; before it runs, the connection is closed.
func Run(ctx context.Context, c *ssh.Client, words []string, s Streams, t *Terminal) (status int, err error) {
	// Until the command runs there is nobody to interrupt: a guest that no longer answers is hung up on.
	stay := context.AfterFunc(ctx, func() { c.Close() })
	defer stay()
	defer func() {
		if err != nil && ctx.Err() != nil {
			err = context.Cause(ctx)
		}
	}()
	session, err := c.NewSession()
	if err != nil {
		return 0, fmt.Errorf("session: %w", err)
	}
	defer session.Close()
	// Not session.Stdin: its copy would be waited for, and nobody can end a read from a terminal.
	in, err := session.StdinPipe()
	if err != nil {
		return 0, err
	}
	session.Stdout, session.Stderr = s.Out, s.Err
	if t != nil {
		if err := session.RequestPty(t.Kind, t.Rows, t.Columns, ssh.TerminalModes{}); err != nil {
			return 0, fmt.Errorf("terminal: %w", err)
		}
	}
	if len(words) == 0 {
		err = session.Shell()
	} else {
		err = session.Start(Quote(words))
	}
	if err != nil {
		return 0, err
	}
	stay()
	if s.In != nil {
		go func() {
			_, _ = io.Copy(in, s.In)
			in.Close()
		}()
	} else {
		in.Close()
	}
	done := make(chan error, 1)
	go func() { done <- session.Wait() }()
	interrupted := ctx.Done()
	var late <-chan time.Time
	var changed <-chan [2]int
	if t != nil {
		changed = t.Changed
	}
	for {
		select {
		case err := <-done:
			var exit *ssh.ExitError
			if errors.As(err, &exit) {
				return exitStatus(exit.ExitStatus()), nil
			}
			if err != nil {
				return 0, fmt.Errorf("the connection ended before the command did: %w", err)
			}
			return 0, nil
		case size := <-changed:
			_ = session.WindowChange(size[1], size[0]) // a guest that does not care shows lines as long as before
		case <-interrupted:
			interrupted = nil
			_ = session.Signal(ssh.SIGINT)
			late = time.After(giveUp)
		case <-late:
			return 0, context.Cause(ctx)
		}
	}
}

// exitStatus is a status of a guest as a process can end with it. The guest sends 32 bits, of which a process keeps
// eight: one that is none would pass for success.
func exitStatus(status int) int {
	const failed, most = 1, 255
	if status < 0 || status > most {
		return failed
	}
	return status
}

// Quote makes one line of words as the guest takes it apart: every word that is more than plain letters in quotes.
func Quote(words []string) string {
	var b strings.Builder
	for i, w := range words {
		if i > 0 {
			b.WriteByte(' ')
		}
		if w != "" && !strings.ContainsFunc(w, func(r rune) bool { return !plain(r) }) {
			b.WriteString(w)
			continue
		}
		b.WriteString("'" + strings.ReplaceAll(w, "'", `'\''`) + "'")
	}
	return b.String()
}

func plain(r rune) bool {
	return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("-_./:,=@%+", r)
}
