package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"rempart/firstboot/child"
	"rempart/firstboot/contract"
	"rempart/firstboot/contract/ctl"
)

// Waits of the port for commands.
const (
	absent  = 250 * time.Millisecond // how often to look for a host that is not there, or for an admin child that is not
	glance  = 500                    // milliseconds after which a port that is silent is looked at for the end
	again   = 20 * time.Millisecond  // how soon to look whether a host is really gone
	dialing = 10 * time.Second       // for an admin child that is being started again
)

// keepCommandPort joins the port for commands with the admin child's socket until ctx is done. It understands nothing
// of what passes but the greeting, with which each client of the host begins.
func keepCommandPort(ctx context.Context, env *child.Env) {
	path, ok := findPort(env.Root, contract.CommandPort)
	if store, there := xenstoreDevice(env.Root); !ok && there {
		keepStoreCommands(ctx, env, store)
		return
	}
	if !ok {
		env.Log.Info("the hypervisor offers no channel for commands", "port", contract.CommandPort)
		return
	}
	for ctx.Err() == nil {
		fd, err := unix.Open(path, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOCTTY, 0)
		if err != nil {
			env.Log.Warn("commands of the host cannot be taken", "error", err)
		} else {
			err = newBridge(env, fd).serve(ctx)
			unix.Close(fd)
			if err != nil && ctx.Err() == nil {
				env.Log.Warn("port for commands", "error", err)
			}
		}
		sleep(ctx, absent)
	}
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// bridge is the open port, and the connection to the admin child for the client that greeted last.
type bridge struct {
	fd     int
	socket string
	log    *slog.Logger
	tail   []byte // the last bytes that came, at most ctl.GreetingBytes
	conn   net.Conn
	ended  chan struct{} // closed when what the admin child said is all sent
}

func newBridge(env *child.Env, fd int) *bridge {
	return &bridge{fd: fd, socket: filepath.Join(env.Root, contract.AdminSocket), log: env.Log}
}

// serve reads the port until ctx is done or the port is gone.
func (b *bridge) serve(ctx context.Context) error {
	defer b.hangUp()
	buf := make([]byte, ctl.MaxPayload)
	var gone leaving
	for ctx.Err() == nil {
		fds := []unix.PollFd{{Fd: int32(b.fd), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, glance); err != nil && !errors.Is(err, unix.EINTR) {
			return os.NewSyscallError("poll", err)
		}
		switch events := fds[0].Revents; {
		case events&(unix.POLLERR|unix.POLLNVAL) != 0:
			return errors.New("the port is gone")
		case events&unix.POLLIN != 0:
			n, err := unix.Read(b.fd, buf)
			if n > 0 {
				gone = leaving{}
				b.take(ctx, buf[:n])
			} else if err != nil && !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
				return os.NewSyscallError("read", err)
			} else if n == 0 && err == nil {
				b.left(ctx, &gone)
			}
		case events&unix.POLLHUP != 0: // no host is connected; the kernel says so without end
			b.left(ctx, &gone)
		default:
			gone = leaving{}
		}
	}
	return nil
}

// leaving is since when no host is connected; zero: one is.
type leaving struct{ since time.Time }

// really tells whether a host has been away for so long that it is no mistake. What a host says outruns what the kernel
// tells of hosts that come and go, which it does in a work queue (drivers/char/virtio_console.c): so it may say that
// nobody is there after the next one was already answered, and mean the one before.
func (l *leaving) really() bool {
	if l.since.IsZero() {
		l.since = time.Now()
	}
	return time.Since(l.since) >= absent
}

// left is called while no host seems to be connected.
func (b *bridge) left(ctx context.Context, gone *leaving) {
	if !gone.really() {
		sleep(ctx, again)
		return
	}
	b.hangUp()
	sleep(ctx, absent)
}

// take passes on what the host said. A greeting comes alone at the end: the client says nothing more until it is
// answered.
func (b *bridge) take(ctx context.Context, p []byte) {
	b.tail = append(b.tail, p...)
	b.tail = b.tail[max(0, len(b.tail)-ctl.GreetingBytes):]
	if ctl.IsGreeting(b.tail) {
		b.hangUp()
		if err := b.welcome(ctx); err != nil {
			b.log.Warn("a command of the host was not taken", "error", err)
			_ = b.send(ctx, ctl.Lost)
		}
		return
	}
	if b.conn == nil {
		return // the rest of what was lost
	}
	if _, err := b.conn.Write(p); err != nil {
		b.conn.Close() // whoever reads from it tells the host
	}
}

// welcome connects with the admin child and answers the greeting.
func (b *bridge) welcome(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, dialing)
	defer cancel()
	var err error
	for {
		if b.conn, err = (&net.Dialer{}).DialContext(ctx, "unix", b.socket); err == nil {
			break
		}
		if ctx.Err() != nil {
			b.conn = nil
			return fmt.Errorf("the admin child does not answer: %w", err)
		}
		sleep(ctx, absent)
	}
	greeting := b.tail
	b.tail = nil
	if err := b.send(ctx, greeting); err != nil {
		b.hangUp()
		return err
	}
	conn, ended := b.conn, make(chan struct{})
	b.ended = ended
	go func() {
		defer close(ended)
		// Nothing but the admin child's end, or ours, ends this; a host that is gone makes send fail.
		_, err := io.Copy(sender{ctx: context.WithoutCancel(ctx), b: b}, conn)
		conn.Close()
		if !errors.Is(err, errHostGone) && !errors.Is(err, net.ErrClosed) {
			_ = b.send(context.WithoutCancel(ctx), ctl.Lost)
		}
	}()
	return nil
}

// hangUp ends the connection with the admin child, which gives up the commands that came by it.
func (b *bridge) hangUp() {
	if b.conn == nil {
		return
	}
	b.conn.Close()
	if b.ended != nil {
		<-b.ended
	}
	b.conn, b.ended = nil, nil
}

type sender struct {
	ctx context.Context
	b   *bridge
}

func (s sender) Write(p []byte) (int, error) {
	if err := s.b.send(s.ctx, p); err != nil {
		return 0, err
	}
	return len(p), nil
}

var errHostGone = errors.New("the host is gone")

// patience is how long a host that is there may take nothing before it is given up.
const patience = 30 * time.Second

// send writes to the port, waiting for a host that reads slowly.
func (b *bridge) send(ctx context.Context, p []byte) error {
	late := time.Now().Add(patience)
	var gone leaving
	for len(p) > 0 {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		fds := []unix.PollFd{{Fd: int32(b.fd), Events: unix.POLLOUT}}
		if _, err := unix.Poll(fds, glance); err != nil && !errors.Is(err, unix.EINTR) {
			return os.NewSyscallError("poll", err)
		}
		if fds[0].Revents&unix.POLLHUP != 0 && !gone.really() {
			sleep(ctx, again)
			continue
		}
		if fds[0].Revents&(unix.POLLHUP|unix.POLLERR|unix.POLLNVAL) != 0 || time.Now().After(late) {
			return errHostGone
		}
		gone = leaving{}
		if fds[0].Revents&unix.POLLOUT == 0 {
			continue
		}
		n, err := unix.Write(b.fd, p)
		if err != nil && !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
			return os.NewSyscallError("write", err)
		}
		if n > 0 {
			p, late = p[n:], time.Now().Add(patience)
		}
	}
	return nil
}
