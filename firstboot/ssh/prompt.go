package ssh

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"golang.org/x/term"
)

// interrupt is what a terminal in raw mode sends for Ctrl-C.
const interrupt = 3

// prompt takes lines and runs them until the client has no more. Its status is that of the last.
func (x *session) prompt(ctx context.Context) int {
	x.mu.Lock()
	tty := x.tty
	x.mu.Unlock()
	if tty == nil {
		return x.script(ctx)
	}
	shell, err := x.commands.Shell(ctx, x.term, tty.columns, tty.rows)
	if shell != nil {
		return x.shell(ctx, shell)
	}
	keys := &keyboard{bytes: make(chan []byte), gone: make(chan struct{}), left: make(chan struct{})}
	defer close(keys.left)
	go keys.read(x.Channel)
	t := term.NewTerminal(struct {
		io.Reader
		io.Writer
	}{keys, x.Channel}, "")
	x.mu.Lock()
	x.screen = func(s size) { _ = t.SetSize(s.columns, s.rows) }
	x.screen(*x.tty)
	x.mu.Unlock()
	if err != nil {
		x.log.Warn("no shell for an administrator", "error", err)
		fmt.Fprintf(t, "%v\n", err)
	}
	io.WriteString(t, "This guest takes its own commands; help lists them, Ctrl-D leaves.\n")
	status := 0
	for ctx.Err() == nil {
		t.SetPrompt(x.commands.Prompt() + "> ")
		line, err := t.ReadLine()
		if err != nil {
			break
		}
		line = strings.TrimSpace(line)
		if line == "exit" || line == "logout" || line == "quit" {
			break
		}
		running, stop := context.WithCancel(ctx)
		done := make(chan int, 1)
		go func() { done <- x.line(running, line, Call{Stdout: t, Stderr: t}) }()
		status = keys.watch(done, stop)
		stop()
	}
	return status
}

// script runs lines that come without a terminal.
func (x *session) script(ctx context.Context) int {
	in := bufio.NewReaderSize(x.Channel, maxCommand)
	status := 0
	for ctx.Err() == nil {
		line, err := in.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			_, _ = io.WriteString(x.Stderr(), "a line is too long\n")
			return exitUsage
		}
		if text := strings.TrimSpace(string(line)); text != "" {
			status = x.line(ctx, text, Call{Stdout: x.Channel, Stderr: x.Stderr()})
		}
		if err != nil {
			break
		}
	}
	return status
}

// keyboard hands what a client types to the prompt, or, while a command runs, looks for Ctrl-C in it.
type keyboard struct {
	bytes chan []byte
	gone  chan struct{} // closed when the client types no more
	left  chan struct{} // closed when nobody takes what it types any more
	rest  []byte
}

func (k *keyboard) read(from io.Reader) {
	defer close(k.gone)
	for {
		b := make([]byte, 256)
		n, err := from.Read(b)
		if n > 0 {
			select {
			case k.bytes <- b[:n]:
			case <-k.left:
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// Read implements io.Reader for the prompt.
func (k *keyboard) Read(p []byte) (int, error) {
	if len(k.rest) == 0 {
		select {
		case k.rest = <-k.bytes:
		case <-k.gone:
			return 0, io.EOF
		}
	}
	n := copy(p, k.rest)
	k.rest = k.rest[n:]
	return n, nil
}

// watch waits for a command, which stop interrupts when Ctrl-C is typed or the client goes. What else is typed
// meanwhile is for the prompt after it, as far as one look holds.
func (k *keyboard) watch(done <-chan int, stop func()) int {
	gone := k.gone
	for {
		select {
		case status := <-done:
			return status
		case b := <-k.bytes:
			for _, c := range b {
				if c == interrupt {
					stop()
					b = nil
					k.rest = nil
					break
				}
			}
			if len(k.rest)+len(b) <= maxCommand {
				k.rest = append(k.rest, b...)
			}
		case <-gone:
			gone = nil
			stop()
		}
	}
}

// shell joins a terminal with a shell until that ends, or the client goes. Its end is what it said last: bytes that are
// on their way are waited for.
func (x *session) shell(ctx context.Context, shell Shell) int {
	defer shell.Close()
	defer context.AfterFunc(ctx, func() { shell.Close() })()
	x.log.Info("shell")
	x.mu.Lock()
	x.screen = func(s size) { _ = shell.Resize(s.columns, s.rows) }
	x.mu.Unlock()
	go func() {
		_, _ = io.Copy(shell, x.Channel)
		shell.Close() // the client types no more, and is gone: one with a terminal has no other end
	}()
	_, _ = io.Copy(x.Channel, shell)
	status, err := shell.Wait()
	if err != nil && ctx.Err() == nil {
		x.log.Warn("shell", "error", err)
		return exitFailed
	}
	return status
}
