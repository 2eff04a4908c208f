package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"rempart/builder/guest/home"
	"rempart/builder/guest/progress"
)

// atWork has all words of a command written down that does something to a guest which is locked, where `rempart watch`
// finds them.
func atWork(c *console, g *home.Guest, what string, do func(c *console) error) error {
	log, err := progress.Begin(g.Dir, what)
	if err != nil { // no room, say, which must not stop what gives some back
		fmt.Fprintf(c.err, "rempart: WARNING: `rempart watch %s` will not tell of this: %v\n", g.Name, err)
		return do(c)
	}
	told := *c
	told.out, told.err = both{log.Lines(), c.out}, both{log.Lines(), c.err}
	err = do(&told)
	why := ""
	if err != nil {
		why = err.Error()
	}
	log.End(codeOf(err), why)
	return err
}

// outlive has this process go on without its terminal: neither the signal of its end nor that of a pipe whose reader it
// ended is obeyed. What cannot be written there any more is lost.
func outlive() {
	signal.Ignore(syscall.SIGHUP)
	// Caught, and not ignored, which programs started from here would inherit.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
}

// both writes what is kept, and then what is shown.
type both struct{ kept, shown io.Writer }

func (b both) Write(p []byte) (int, error) {
	if _, err := b.kept.Write(p); err != nil {
		return 0, err
	}
	return b.shown.Write(p)
}

// watchCommand is `rempart watch`.
func watchCommand() *command {
	return &command{
		name:     "watch",
		synopsis: "GUEST",
		summary:  "follow the command that is at work on a guest, to its end",
		help: `
Tells what ` + "`rempart reprovision`, `upgrade`, `rollback`, `resume`, `prepare` or `backup`" + ` said since it
began, from wherever it was called, goes on until it ends, and says how. A command that is not at work any more is told
of all the same, with its times: so what became of one whose terminal was lost is known. Ctrl-C ends the watching, not
the command.

Exit status: that of the command; 1 when its process was killed, with what there is to do.`,
		words: createdNames,
		setup: guestCommand(func(ctx context.Context, c *console, name string) error {
			g, err := openCreated(name)
			if err != nil {
				return err
			}
			return watch(ctx, c, g)
		}),
	}
}

func watch(ctx context.Context, c *console, g *home.Guest) error {
	var work progress.Work
	clock := func(at time.Time) string { return at.Local().Format(time.TimeOnly) }
	end, at, err := progress.Follow(ctx, g.Dir, progress.Listener{
		Began: func(w progress.Work, lasts bool) {
			work = w
			how := "was"
			if lasts {
				how = "is"
			}
			fmt.Fprintf(c.out, "%s %s at work on %s (process %d), since %s\n", printable(w.Command), how, g.Name, w.PID,
				w.Began.Local().Format(time.DateTime))
		},
		Said: func(at time.Time, text string) {
			fmt.Fprintf(c.out, "%s  %s\n", clock(at), printable(strings.TrimPrefix(text, "rempart: ")))
		}})
	switch {
	case errors.Is(err, progress.ErrNone):
		if err := notPending(g); err != nil {
			return err
		}
		fmt.Fprintf(c.out, "nothing is at work on %s\n", g.Name)
		return nil
	case errors.Is(err, progress.ErrDied):
		err = fmt.Errorf("%s, process %d: %w", printable(work.Command), work.PID, err)
		if pending := notPending(g); pending != nil {
			return errors.Join(err, pending)
		}
		return fmt.Errorf("%w; nothing of it waits to be finished: call it again", err)
	case err != nil:
		return err
	}
	if end.Status == exitDone {
		fmt.Fprintf(c.out, "%s  done\n", clock(at))
		return nil
	}
	if end.Why != "" {
		fmt.Fprintf(c.err, "rempart watch: %s ended at %s: %s\n", printable(work.Command), clock(at), printable(end.Why))
	}
	return exitStatus(end.Status)
}
