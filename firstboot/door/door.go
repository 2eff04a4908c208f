// Package door is how children let each other in by unix sockets: everybody may knock, who may enter is asked of the
// kernel (unix(7), SO_PEERCRED), and so many at a time.
//
// What it deliberately does not do: know what is said inside, or end a conversation; who serves it does.
package door

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Door is a socket and who may come in.
type Door struct {
	Name string // for what is said of it: "admin socket"
	// Allowed are the user ids that may come in; nil: everybody.
	Allowed []uint32
	Most    int // conversations at a time; who is above is turned away
	Log     *slog.Logger
}

// Listener is where connections come from: a *net.UnixListener.
type Listener interface {
	AcceptUnix() (*net.UnixConn, error)
	Close() error
}

// again is how long to wait after the kernel had no connection to give.
const again = 100 * time.Millisecond

// Listen opens the socket at a path, in place of what a predecessor left there. Its directory is the caller's.
func (d Door) Listen(path string) (*net.UnixListener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", d.Name, err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", d.Name, err)
	}
	if err := os.Chmod(path, 0o666); err != nil {
		l.Close()
		return nil, fmt.Errorf("%s: %w", d.Name, err)
	}
	return l, nil
}

// Serve calls serve for everybody who comes in, side by side, with who it is, and closes the connection when it
// returns. It returns when ctx is done or l is closed, and every serve, whose context ends then, has returned. A
// shortage of the kernel's (accept(2)) is waited out: it passes, and conversations that go on must not be ended by it.
func (d Door) Serve(ctx context.Context, l Listener, serve func(ctx context.Context, conn *net.UnixConn, uid uint32)) {
	ctx, cancel := context.WithCancel(ctx)
	defer context.AfterFunc(ctx, func() { l.Close() })()
	var open sync.WaitGroup
	defer open.Wait()
	defer cancel() // first: whoever is inside is told that it is over
	places := make(chan struct{}, d.Most)
	failing := false
	for {
		conn, err := l.AcceptUnix()
		if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
			if err == nil {
				conn.Close()
			}
			return
		}
		if err != nil {
			if !failing {
				d.Log.Warn(d.Name+": a connection could not be taken; trying on", "error", err)
			}
			failing = true
			select {
			case <-time.After(again):
			case <-ctx.Done():
			}
			continue
		}
		failing = false
		// Before it has a place: who may not come in must not keep others out.
		uid, err := peer(conn)
		if err != nil || d.Allowed != nil && !slices.Contains(d.Allowed, uid) {
			d.Log.Warn(d.Name+": somebody knocked who may not come in", "uid", uid, "error", err)
			conn.Close()
			continue
		}
		select {
		case places <- struct{}{}:
		default:
			d.Log.Warn(d.Name+": too many connections", "most", d.Most)
			conn.Close()
			continue
		}
		open.Go(func() {
			defer func() { <-places }()
			defer conn.Close()
			serve(ctx, conn, uid)
		})
	}
}

// peer asks the kernel who connected.
func peer(conn *net.UnixConn) (uint32, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var failed error
	err = raw.Control(func(fd uintptr) {
		cred, failed = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err = errors.Join(err, failed); err != nil {
		return 0, err
	}
	return cred.Uid, nil
}
