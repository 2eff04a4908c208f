// Package console is the guest's prompt on its own console, where the profile says that whoever has the console is an
// administrator: the host's root, who can do anything to the guest anyway. There is no password to ask for: a master
// holds no secret, and what the hypervisor guards needs no second lock.
//
// The console is also where the guest says READY and what goes wrong, for people and programs. So nothing is written to
// it before somebody presses Enter, and after a minute without a key all is quiet again.
//
// What it deliberately does not do: ask who it is, or anything at all unless the profile says `console: open`.
package console

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"rempart/firstboot/child"
	"rempart/firstboot/contract"
	"rempart/firstboot/ssh"
)

// Spec is the child.
func Spec() child.Spec {
	a := &attendant{}
	return child.Spec{
		Name: "console",
		Run:  a.run,
		Needed: func(root string) bool {
			p, _, err := child.ReadProfile(root)
			return err == nil && p.Admin.Console
		},
		After: []string{"admin"},
		UID:   contract.UIDConsole,
		Read:  []string{activeFile},
		Devices: func(root string) []string {
			if node, err := terminal(root); err == nil {
				return []string{node}
			}
			return nil
		},
		Follows:     true,
		Feed:        true,
		OOMScore:    300,
		MemoryLimit: 8 << 20,
	}
}

// activeFile names the terminals that are consoles, that of /dev/console last
// (Documentation/ABI/testing/sysfs-tty).
const activeFile = "/sys/class/tty/console/active"

// terminal is the node of the terminal that is the console.
func terminal(root string) (string, error) {
	b, err := os.ReadFile(filepath.Join(root, activeFile))
	if err != nil {
		return "", fmt.Errorf("console: %w", err)
	}
	names := strings.Fields(string(b))
	if len(names) == 0 || strings.ContainsAny(names[len(names)-1], "/.") {
		return "", errors.New("console: the kernel has none that is a terminal")
	}
	return filepath.Join(root, "dev", names[len(names)-1]), nil
}

// A console says nothing of its size: that of a VT100, which every terminal can show.
const (
	columns = 80
	rows    = 24
)

// quiet is after how long without a key the prompt is left.
const quiet = time.Minute

// attendant is what outlives a change of the profile.
type attendant struct {
	commands *ssh.Guest
	stop     context.CancelFunc // ends attending; nil: nobody attends
	ended    chan error
}

func (a *attendant) run(ctx context.Context, env *child.Env) error {
	if a.commands == nil {
		a.commands = ssh.NewGuest(env.Root, env.Reports)
	}
	a.commands.AllowShell(env.Profile.Admin.Shell)
	if !env.Profile.Admin.Console {
		if a.stop != nil {
			a.stop()
			<-a.ended
			a.stop = nil
		}
		env.Ready()
		<-ctx.Done()
		return nil
	}
	if a.stop == nil {
		if err := a.open(env); err != nil {
			return err
		}
	}
	env.Ready()
	select {
	case err := <-a.ended: // the terminal is gone
		a.stop = nil
		return err
	case <-ctx.Done(): // whoever changes the profile may sit at this prompt: it stays
		return nil
	}
}

// open attends the console from now on.
func (a *attendant) open(env *child.Env) error {
	node, err := terminal(env.Root)
	if err != nil {
		return err
	}
	// Not the controlling terminal: a hang-up is no reason to end. Not blocking, so that reading can be given up.
	fd, err := unix.Open(node, unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("console %s: %w", node, err)
	}
	tty := os.NewFile(uintptr(fd), node)
	if err := raw(fd); err != nil {
		tty.Close()
		return fmt.Errorf("console %s: %w", node, err)
	}
	ctx, stop := context.WithCancel(context.Background()) // of the process, not of this profile
	a.stop, a.ended = stop, make(chan error, 1)
	go func(ended chan<- error) {
		defer tty.Close()
		ended <- attend(ctx, tty, a.commands, env.Log, quiet)
	}(a.ended)
	return nil
}

// raw has keys arrive one by one and unshown. What is written goes on being made lines of, for whoever else writes
// there: the kernel and PID 1.
func raw(fd int) error {
	t, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return err
	}
	t.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
	t.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
	t.Cc[unix.VMIN], t.Cc[unix.VTIME] = 1, 0
	return unix.IoctlSetTermios(fd, unix.TCSETS, t)
}

// keyed is a terminal whose reads end when no key comes for some time.
type keyed interface {
	io.ReadWriter
	SetReadDeadline(time.Time) error
}

// attend waits for Enter, lets whoever pressed it have the prompt until they leave or press no key for so long, and
// waits again.
func attend(ctx context.Context, tty keyed, c ssh.Commands, log *slog.Logger, quiet time.Duration) error {
	// A deadline in the past ends whatever is being read.
	defer context.AfterFunc(ctx, func() { _ = tty.SetReadDeadline(time.Unix(1, 0)) })()
	key := make([]byte, 1)
	for ctx.Err() == nil {
		if err := tty.SetReadDeadline(time.Time{}); err != nil {
			return fmt.Errorf("console: %w", err)
		}
		if ctx.Err() != nil { // it came before the deadline was taken off
			return nil
		}
		switch n, err := tty.Read(key); {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return fmt.Errorf("console: %w", err)
		case n == 0 || key[0] != '\r' && key[0] != '\n':
			continue
		}
		log.Info("somebody takes the prompt of the console")
		w := newWatched(ctx, tty, quiet)
		ssh.Converse(w.ctx, w, columns, rows, c, log)
		w.close()
		log.Info("the prompt of the console is left")
	}
	return nil
}

// watched is a terminal at which somebody must press a key now and then.
type watched struct {
	tty    keyed
	quiet  time.Duration
	ctx    context.Context
	cancel context.CancelFunc
	mu     sync.Mutex // held while somebody reads
}

func newWatched(ctx context.Context, tty keyed, quiet time.Duration) *watched {
	w := &watched{tty: tty, quiet: quiet}
	w.ctx, w.cancel = context.WithCancel(ctx)
	return w
}

// close waits until nobody reads any more: what is typed from then on is for others.
func (w *watched) close() {
	w.cancel()
	_ = w.tty.SetReadDeadline(time.Unix(1, 0)) // ends a read that has begun
	w.mu.Lock()
	defer w.mu.Unlock()
}

// Read implements io.Reader; too long without a key is io.EOF.
func (w *watched) Read(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.tty.SetReadDeadline(time.Now().Add(w.quiet)); err != nil {
		return 0, err
	}
	if w.ctx.Err() != nil { // after the deadline: whoever cancels later ends the read by another one
		return 0, io.EOF
	}
	n, err := w.tty.Read(b)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = io.EOF
	}
	return n, err
}

// Write implements io.Writer.
func (w *watched) Write(b []byte) (int, error) { return w.tty.Write(b) }
