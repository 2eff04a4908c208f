package ssh

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"sync"

	"golang.org/x/crypto/ssh"
)

// Call is one command as a session hands it on.
type Call struct {
	Args           []string  // not empty
	Since          float64   // CLOCK_BOOTTIME of the connection, in seconds
	Stdin          io.Reader // nil: nothing
	Stdout, Stderr io.Writer
}

// Commands carries out what an admin asks for.
type Commands interface {
	// Run runs a command to its end and returns its exit status: 0 done, 1 failed, 2 no such command or usage.
	Run(ctx context.Context, c Call) int
	// Prompt is what a person's prompt begins with.
	Prompt() string
	// Shell returns a shell for a terminal of the kind named and size; nil without an error: the profile allows none, and
	// a person gets the prompt.
	Shell(ctx context.Context, kind string, columns, rows int) (Shell, error)
}

// Shell is a shell that runs: what is written is typed, what is read is shown, until it ends. Close ends it.
type Shell interface {
	io.ReadWriteCloser
	Resize(columns, rows int) error
	Wait() (status int, err error)
}

// Exit statuses.
const (
	exitFailed = 1
	exitUsage  = 2
)

// session is one channel: one command, or a prompt.
type session struct {
	ssh.Channel
	commands Commands
	log      *slog.Logger
	since    float64
	cancel   context.CancelFunc
	mu       sync.Mutex
	tty      *size // the client's terminal; nil: it has none
	term     string
	screen   func(size)
}

// size is that of a terminal, in characters.
type size struct{ columns, rows int }

// serve answers the requests of a session (RFC 4254, section 6) until it ends.
func (x *session) serve(ctx context.Context, requests <-chan *ssh.Request) {
	ctx, x.cancel = context.WithCancel(ctx)
	defer x.cancel()
	var running sync.WaitGroup
	defer running.Wait()
	defer x.Close()
	defer x.cancel()
	begun := false
	for r := range requests {
		ok := false
		var work func(context.Context) int
		switch r.Type {
		case "pty-req":
			var p struct {
				Term                         string
				Columns, Rows, Width, Height uint32
				Modes                        string
			}
			if ok = !begun && ssh.Unmarshal(r.Payload, &p) == nil; ok {
				x.term = p.Term
				x.resize(p.Columns, p.Rows)
			}
		case "window-change":
			var p struct{ Columns, Rows, Width, Height uint32 }
			if ok = x.tty != nil && ssh.Unmarshal(r.Payload, &p) == nil; ok {
				x.resize(p.Columns, p.Rows)
			}
		case "signal":
			var p struct{ Name string }
			if ok = ssh.Unmarshal(r.Payload, &p) == nil && begun; ok {
				x.cancel()
			}
		case "exec":
			var p struct{ Command string }
			if ok = !begun && ssh.Unmarshal(r.Payload, &p) == nil; ok {
				work = func(ctx context.Context) int { return x.exec(ctx, p.Command) }
			}
		case "shell":
			ok, work = !begun, x.prompt
		}
		if r.WantReply {
			_ = r.Reply(ok, nil)
		}
		if !ok || work == nil {
			continue
		}
		begun = true
		running.Go(func() {
			status := work(ctx)
			x.blank()
			_ = x.CloseWrite()
			_, _ = x.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{uint32(status)}))
			x.Close()
		})
	}
}

// Bounds of a terminal; beyond them is nonsense.
const maxSide = 1000

func (x *session) resize(columns, rows uint32) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.tty = &size{int(min(max(columns, 1), maxSide)), int(min(max(rows, 1), maxSide))}
	if x.screen != nil {
		x.screen(*x.tty)
	}
}

// blank ends what shows a new size of the terminal: it writes to the channel, which must not be while that is closed.
func (x *session) blank() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.screen = nil
}

// exec runs one command line.
func (x *session) exec(ctx context.Context, line string) int {
	// A client that closes its end has gone or has nothing more to say: only the former ends a command, and that the
	// end of the requests tells.
	return x.line(ctx, line, Call{Stdin: x.Channel, Stdout: x.Channel, Stderr: x.Stderr()})
}

// line runs one line of a prompt or of an exec request.
func (x *session) line(ctx context.Context, line string, c Call) int {
	args, err := split(line)
	if err != nil {
		fmt.Fprintln(c.Stderr, err)
		return exitUsage
	}
	if len(args) == 0 {
		return 0
	}
	c.Args, c.Since = args, x.since
	x.log.Info("command", "command", fmt.Sprintf("%.200q", line))
	return x.commands.Run(ctx, c)
}
