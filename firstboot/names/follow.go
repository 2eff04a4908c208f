package names

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"rempart/firstboot/child"
)

// Pauses between attempts to reach a feed. The first is short because names should be back at once when the feed's
// process was started again, the last because nobody reads a log that says the same ten times a second.
const (
	firstPause = 50 * time.Millisecond
	lastPause  = 2 * time.Second
)

// ErrFeed is the error of a feed that does not speak as agreed.
var ErrFeed = errors.New("feed of names")

// Follow calls f, from this goroutine alone, with the whole state of the feed at path and then with each change, until
// ctx is done. While there is no feed the last state holds: f is not called until there is a whole one again.
func Follow(ctx context.Context, path string, log *slog.Logger, f func(Change)) {
	pause, lost := firstPause, false
	for ctx.Err() == nil {
		err := follow(ctx, path, func(c Change) {
			if c.Whole && lost {
				log.Info("names are fed again", "bindings", len(c.Put))
			}
			pause, lost = firstPause, false
			f(c)
		})
		if ctx.Err() != nil {
			return
		}
		if !lost {
			lost = true
			log.Warn("names are not fed; those known stay", "socket", path, "error", err)
		}
		wait := time.NewTimer(pause)
		select {
		case <-ctx.Done():
		case <-wait.C:
		}
		wait.Stop()
		pause = min(2*pause, lastPause)
	}
}

// follow reads one connection until it ends, which is always an error.
func follow(ctx context.Context, path string, f func(Change)) error {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", path)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	return read(conn, f)
}

// read tells f what a feed says: the whole state at once, then each change.
func read(r io.Reader, f func(Change)) error {
	in := bufio.NewReaderSize(r, maxLine)
	var all []Binding
	whole := false
	for {
		b, err := in.ReadSlice('\n')
		if err != nil {
			return fmt.Errorf("%w: %w", ErrFeed, err)
		}
		l, err := parse(b)
		switch {
		case err != nil:
			return err
		case l.Whole && whole:
			return fmt.Errorf("%w: a second whole state", ErrFeed)
		case l.Whole:
			whole = true
			f(Change{Whole: true, Put: all})
			all = nil
		case l.Put != nil && whole:
			f(Change{Put: []Binding{*l.Put}})
		case l.Put != nil && len(all) == MaxBindings:
			return fmt.Errorf("%w: more than %d bindings", ErrFeed, MaxBindings)
		case l.Put != nil:
			all = append(all, *l.Put)
		case whole: // what went before it could be told is no part of the whole
			f(Change{Gone: []netip.Addr{*l.Gone}})
		}
	}
}

// parse reads one line.
func parse(b []byte) (line, error) {
	var l line
	if err := child.Strict(b, &l); err != nil {
		return line{}, fmt.Errorf("%w: %w", ErrFeed, err)
	}
	n := 0
	if l.Put != nil {
		n++
		if err := l.Put.Check(); err != nil {
			return line{}, fmt.Errorf("%w: %w", ErrFeed, err)
		}
	}
	if l.Gone != nil {
		n++
		if !l.Gone.IsValid() {
			return line{}, fmt.Errorf("%w: no address is gone", ErrFeed)
		}
	}
	if l.Whole {
		n++
	}
	if n != 1 {
		return line{}, fmt.Errorf("%w: a line says %d things; want one", ErrFeed, n)
	}
	return l, nil
}
