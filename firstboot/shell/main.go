// Command shell is the shell of a guest whose profile allows one, and by its other names the few programs a person
// needs to look around: u-root's core commands, and guest, which has the guest's own commands carried out.
//
//	shell [-c LINE] [FILE]     the language is that of POSIX and much of bash (mvdan.cc/sh, as in u-root's gosh)
//	guest COMMAND ARGUMENTS    as `rempart ctl` and SSH have it; in the shell the word guest may be left out
//	ls, cat, find, ...         see commands
//
// It is a program of its own, and in the root only where the profile says so: a guest without a shell holds nothing
// that could be one. Why not u-root's gosh itself: its prompt is fixed, and Ctrl-C ends it with what it runs.
package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
	"mvdan.cc/sh/v3/interp"
	"mvdan.cc/sh/v3/syntax"

	"rempart/firstboot/contract"
)

// Exit statuses, as POSIX has them for a shell.
const (
	exitFailed     = 1
	exitUsage      = 2
	exitNotFound   = 127
	exitNotStarted = 126
	// 128 and the number of the signal, SIGINT.
	exitInterrupted = 130
)

func main() {
	name := strings.TrimPrefix(filepath.Base(os.Args[0]), "-")
	switch {
	case name == contract.GuestCommand:
		os.Exit(askGuest(os.Args[1:]))
	case slices.Contains(contract.ShellCommands(), name):
		os.Exit(runCore(name, os.Args[1:]))
	}
	os.Exit(shell(os.Args[1:]))
}

func complain(format string, args ...any) { fmt.Fprintf(os.Stderr, "shell: "+format+"\n", args...) }

// shell runs a line, a file, what comes on standard input, or what a person types.
func shell(args []string) int {
	interrupts := make(chan os.Signal, 1)
	signal.Notify(interrupts, os.Interrupt) // for what runs, not for the shell
	runner, err := interp.New(interp.StdIO(os.Stdin, os.Stdout, os.Stderr), interp.ExecHandlers(byName),
		interp.CallHandler(guestHelp))
	if err != nil {
		complain("%v", err)
		return exitFailed
	}
	r := &repl{runner: runner, interrupts: interrupts}
	switch {
	case len(args) == 2 && args[0] == "-c":
		return r.source(strings.NewReader(args[1]), "-c")
	case len(args) == 1 && !strings.HasPrefix(args[0], "-"):
		f, err := os.Open(args[0])
		if err != nil {
			complain("%v", err)
			return exitNotFound
		}
		defer f.Close()
		return r.source(f, args[0])
	case len(args) > 0:
		complain("want -c LINE, a file, or nothing")
		return exitUsage
	case term.IsTerminal(int(os.Stdin.Fd())):
		return r.interactive(os.Stdin)
	}
	return r.source(os.Stdin, "standard input")
}

// guestHelp has the word help alone mean the guest's: the language has a command of that name, which lists its own.
func guestHelp(_ context.Context, args []string) ([]string, error) {
	if len(args) == 1 && args[0] == "help" {
		return []string{contract.GuestCommand, "help"}, nil
	}
	return args, nil
}

// byName finds out what a command is: a program of the root, or else one of the guest's own commands.
func byName(next interp.ExecHandlerFunc) interp.ExecHandlerFunc {
	run := interp.DefaultExecHandler(killAfter)
	return func(ctx context.Context, args []string) error {
		hc := interp.HandlerCtx(ctx)
		if _, err := interp.LookPathDir(hc.Dir, hc.Env, args[0]); err != nil && !strings.Contains(args[0], "/") {
			args = append([]string{contract.GuestCommand}, args...)
		}
		err := run(ctx, args)
		if failed := (*fs.PathError)(nil); errors.As(err, &failed) {
			// The kernel does not start it. To the runner any error that is no status is the end of the whole shell.
			fmt.Fprintf(hc.Stderr, "shell: %s: %v\n", args[0], failed.Err)
			return interp.ExitStatus(exitNotStarted)
		}
		return err
	}
}

// killAfter is how long a program that was interrupted may take to end.
const killAfter = 2 * time.Second

// repl runs lines one after the other.
type repl struct {
	runner     *interp.Runner
	interrupts <-chan os.Signal
	status     int  // of the last
	left       bool // by exit
}

// run runs statements until they end, or Ctrl-C.
func (r *repl) run(stmts []*syntax.Stmt) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		select {
		case <-r.interrupts:
			cancel()
		case <-ctx.Done():
		}
	}()
	r.status = 0
	for _, s := range stmts {
		err := r.runner.Run(ctx, s)
		if ctx.Err() != nil {
			r.status = exitInterrupted // the runner takes this for its own end; it is that of what ran
			break
		}
		var status interp.ExitStatus
		switch {
		case errors.As(err, &status):
			r.status = int(status)
		case err != nil:
			complain("%v", err)
			r.status = exitFailed
		default:
			r.status = 0
		}
		if r.left = r.runner.Exited(); r.left {
			break
		}
	}
	cancel()
	<-done
}

// source runs all of a text.
func (r *repl) source(from interface{ Read([]byte) (int, error) }, name string) int {
	program, err := syntax.NewParser().Parse(from, name)
	if err != nil {
		complain("%v", err)
		return exitUsage
	}
	r.run(program.Stmts)
	return r.status
}

// interactive takes lines of a person until there are no more, or exit.
func (r *repl) interactive(tty *os.File) int {
	t := term.NewTerminal(tty, "")
	fmt.Fprintf(tty, "A shell of this guest: help lists the guest's commands, Ctrl-D leaves.\n")
	parser := syntax.NewParser()
	text := ""
	for {
		prompt := r.prompt()
		if text != "" {
			prompt = "> "
		}
		line, err := readLine(t, tty, prompt)
		if err != nil {
			fmt.Fprintln(tty)
			return r.status
		}
		text += line + "\n"
		program, err := parser.Parse(strings.NewReader(text), "")
		switch {
		case err != nil && syntax.IsIncomplete(err) && len(text) < maxText:
			continue
		case err != nil:
			complain("%v", err)
			r.status = exitUsage
		default:
			r.run(program.Stmts)
		}
		text = ""
		if r.left {
			return r.status
		}
	}
}

// maxText bounds what a person types before it is whole, in bytes.
const maxText = 64 << 10

// readLine reads one line with the terminal's own editing off, and on again for what runs.
func readLine(t *term.Terminal, tty *os.File, prompt string) (string, error) {
	fd := int(tty.Fd())
	if columns, rows, err := term.GetSize(fd); err == nil && columns > 0 {
		_ = t.SetSize(columns, rows)
	}
	before, err := term.MakeRaw(fd)
	if err != nil {
		return "", err
	}
	defer func() { _ = term.Restore(fd, before) }()
	t.SetPrompt(prompt)
	return t.ReadLine()
}

// prompt is the guest's name, whether its root can be written, which the kernel is asked each time, where one is, and
// what became of the last command when it failed.
func (r *repl) prompt() string {
	name, err := os.Hostname()
	if err != nil {
		name = "guest"
	}
	failed := ""
	if r.status != 0 {
		failed = fmt.Sprintf(" (%d)", r.status)
	}
	return fmt.Sprintf("%s [%s] %s%s $ ", name, rootWord("/"), r.runner.Dir, failed)
}

// rootWord tells of a filesystem what statfs(2) does.
func rootWord(path string) string {
	var fs unix.Statfs_t
	switch err := unix.Statfs(path, &fs); {
	case err != nil:
		return "UNKNOWN"
	case fs.Flags&unix.ST_RDONLY == 0:
		return "WRITABLE"
	}
	return "read-only"
}
