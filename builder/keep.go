package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"rempart/builder/guest"
	"rempart/builder/guest/home"
	"rempart/builder/guest/keeper"
	"rempart/builder/guest/running"
)

// How a process that shall keep a guest is told by the one that starts it: the numbers of two descriptors, a pipe for
// its words once the guest runs, and the guest's lock, or 0.
const keeperVariable = "REMPART_KEEPER"

// begun is what the pipe says when the guest runs; anything else is why it does not.
const begun = "begun\n"

// maxWords bounds what is read from that pipe.
const maxWords = 64 << 10

// launch has another process run a guest, which it does after this one has ended; it returns once QEMU or Xen runs it.
func launch(ctx context.Context, g *home.Guest, verbose bool) (*running.Guest, error) {
	if g.Xen != nil {
		return launchXen(ctx, g)
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	words, theirs, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer words.Close()
	defer theirs.Close()
	log, err := os.OpenFile(g.KeeperLog(), os.O_WRONLY|os.O_CREATE|os.O_TRUNC|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	args := []string{"start", "--foreground", g.Name}
	if verbose {
		args = append(args, "--verbose")
	}
	cmd := exec.Command(self, args...) // not by ctx: it is to outlive this process
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{theirs}
	channels := "3,0"
	if lock := g.LockFile(); lock != nil {
		cmd.ExtraFiles = append(cmd.ExtraFiles, lock)
		channels = "3,4"
	}
	cmd.Env = append(os.Environ(), keeperVariable+"="+channels)
	cmd.Dir = g.Dir
	// A session of its own: what ends this terminal does not end the guest.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	theirs.Close()
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait() // how, its words and its log tell
		close(ended)
	}()
	defer context.AfterFunc(ctx, func() { words.SetReadDeadline(time.Now()) })()
	b, err := io.ReadAll(io.LimitReader(words, maxWords))
	if err != nil && ctx.Err() == nil {
		return nil, err
	}
	switch said := string(b); {
	case ctx.Err() != nil:
		// It may run all the same: that is asked for, not guessed.
		_ = cmd.Process.Signal(syscall.SIGTERM)
		<-ended
		return nil, context.Cause(ctx)
	case said == begun:
		return g.Running()
	case said == "":
		<-ended
		return nil, fmt.Errorf("guest %s: the process that was to keep it ended without a word; see %s", g.Name,
			g.KeeperLog())
	default:
		<-ended
		return nil, errors.New(strings.TrimSpace(said))
	}
}

// keepGuest runs a guest until it ends or ctx does, and serves those who ask for it meanwhile.
func keepGuest(ctx context.Context, c *console, name string, verbose bool) error {
	var words *os.File
	lock := 0
	if text, ok := os.LookupEnv(keeperVariable); ok {
		var fd int
		if _, err := fmt.Sscanf(text, "%d,%d", &fd, &lock); err != nil || fd < 3 || lock < 0 {
			return fmt.Errorf("%s is %q: it is for rempart's own use", keeperVariable, text)
		}
		if err := os.Unsetenv(keeperVariable); err != nil {
			return err
		}
		words = os.NewFile(uintptr(fd), "words")
		syscall.CloseOnExec(fd)
		signal.Ignore(syscall.SIGHUP)
	}
	tell := func(what string) {
		if words != nil {
			_, _ = words.WriteString(what) // whoever waited may have gone
			words.Close()
			words = nil
		}
	}
	err := keepIt(ctx, c, name, lock, verbose, func() { tell(begun) })
	if err != nil {
		tell(err.Error())
	}
	return err
}

func keepIt(ctx context.Context, c *console, name string, lock int, verbose bool, begin func()) (err error) {
	g, err := openToKeep(name, lock)
	if err != nil {
		return err
	}
	defer g.Unlock()
	if lock == 0 { // otherwise it is for whoever has the lock to know
		if err := startable(g); err != nil {
			return err
		}
	}
	if r, err := g.Running(); err == nil {
		return fmt.Errorf("%w: %s, %s", home.ErrRuns, name, whoRuns(r))
	} else if !errors.Is(err, running.ErrAbsent) {
		return err
	}
	if g.Xen != nil {
		return keepXen(ctx, g)
	}
	m, _, err := masterOf(g)
	if err != nil {
		return err
	}
	s := g.Settings()
	s.Log = logger(c, verbose)
	if err := g.Ensure(ctx); err != nil {
		return err
	}
	place, err := running.Place()
	if err != nil {
		return err
	}
	r, err := running.Register(place, name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Forget()) }()
	screen := &keeper.Screen{}
	s.Console = screen
	id, err := guest.EnsureIdentity(s.Identity, name, m.Profile, nil)
	if err != nil {
		return err
	}
	p, err := profileOfGuest(s, id, m)
	if err != nil {
		return err
	}
	if s.Backends, err = plug(p, g.NetOptions()); err != nil {
		return err
	}
	if m.Foreign() {
		if err := leadToHealth(&s, g.Image.Links); err != nil {
			return err
		}
	}
	listener, err := net.Listen("unix", r.Keeper())
	if err != nil {
		return err
	}
	defer listener.Close()
	// Everything that may go wrong has been tried. The guest outlives the signal that asks for its end by as long as it
	// takes to switch off in order.
	if err := announce(r, &s, m, p); err != nil {
		return err
	}
	q, err := guest.Start(context.WithoutCancel(ctx), m, s)
	if err != nil {
		return err
	}
	if err := g.Runs(place); err != nil {
		return errors.Join(err, q.Stop(context.WithoutCancel(ctx), 0).Err())
	}
	g.Unlock()
	begin()
	defer context.AfterFunc(ctx, func() { q.Stop(context.WithoutCancel(ctx), stopTime) })()
	keeper.New(context.WithoutCancel(ctx), q, q.Console, screen, string(q.Accel)).Serve(listener)
	end := q.Wait()
	return errors.Join(g.End(home.Ended{Cause: string(end.Cause), Detail: end.Detail, At: time.Now().UTC()}), end.Err())
}

// openToKeep opens a guest under a lock: one that came by a descriptor, or else its own.
func openToKeep(name string, lock int) (*home.Guest, error) {
	if lock == 0 {
		return lockCreated(name, "rempart start")
	}
	syscall.CloseOnExec(lock)
	h, err := home.Default()
	if err != nil {
		return nil, err
	}
	return h.Inherit(name, os.NewFile(uintptr(lock), "lock"))
}

// awaitReady waits until a guest that runs is ready, or says why it is not.
func awaitReady(ctx context.Context, r *running.Guest) error {
	if r.Xen {
		return awaitXen(ctx, r)
	}
	a, err := keeper.Ask(ctx, r.Keeper(), keeper.Request{Do: keeper.DoReady})
	if err != nil {
		return fmt.Errorf("guest %s: %w", r.Name, err)
	}
	if a.Phase != keeper.Ready {
		return fmt.Errorf("guest %s has %s: %s", r.Name, a.Phase, oneLine(a.Why))
	}
	return nil
}
