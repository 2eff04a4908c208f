// Package admin is the child that carries out what administrators ask for: it serves a unix socket to the children
// that know who is asking (the SSH server, the control channel, the console), and has the rights their commands need,
// which those do not.
//
// What it deliberately does not do: decide who is an administrator, or act where PID 1 must: it asks PID 1.
package admin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"rempart/firstboot/child"
	"rempart/firstboot/contract"
	"rempart/firstboot/contract/ctl"
)

// Spec is the child.
func Spec() child.Spec {
	return child.Spec{
		Name: "admin",
		Run:  run,
		UID:  contract.UIDAdmin,
		// CAP_NET_ADMIN reads rules and connections, CAP_NET_RAW captures, CAP_SYSLOG reads the kernel's log (syslog(2)).
		Caps: []uintptr{unix.CAP_NET_ADMIN, unix.CAP_NET_RAW, unix.CAP_SYSLOG},
		Read: []string{contract.LinkDir, contract.TimeDir, contract.ListsDir, groupsDir, memoryFile, loadFile,
			filepath.Dir(conntrackMax)},
		Own:         []string{contract.AdminDir},
		Feed:        true,
		OOMScore:    150,
		MemoryLimit: 16 << 20,
	}
}

// maxClients bounds the connections to the socket at a time.
const maxClients = 16

// clients are the user ids that may connect: children that know whom they speak for, shells of who was let in, and
// root, for a person on the console of a guest under repair.
var clients = []uint32{contract.UIDRoot, contract.UIDSSH, contract.UIDControl, contract.UIDShell,
	contract.UIDConsole}

func run(ctx context.Context, env *child.Env) error {
	d := &desk{root: env.Root, log: env.Log, tell: env.Tell, news: newNews(), input: ctl.NewBudget(ctl.MaxInput)}
	go d.news.keep(ctx, env.Reports)
	listener, err := listen(filepath.Join(env.Root, contract.AdminSocket))
	if err != nil {
		return err
	}
	env.Ready()
	return d.serve(ctx, listener, clients)
}

// listen makes the socket. Everybody may knock; who may enter is asked of the kernel.
func listen(path string) (*net.UnixListener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("admin socket: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("admin socket: %w", err)
	}
	if err := os.Chmod(path, 0o666); err != nil {
		l.Close()
		return nil, fmt.Errorf("admin socket: %w", err)
	}
	return l, nil
}

// desk is where commands are carried out.
type desk struct {
	root string
	log  *slog.Logger
	tell func(key string, value any)
	news *news
	// input is what commands may leave unread, all together: one changed profile.
	input    *ctl.Budget
	incoming sync.Mutex // one changed profile on its way at a time
	live     sync.Mutex // one change of the profile at a time
}

// acceptAgain is how long to wait after the kernel had no connection to give.
const acceptAgain = 100 * time.Millisecond

// listener is what serve takes connections from.
type listener interface {
	AcceptUnix() (*net.UnixConn, error)
	Close() error
}

// serve takes connections until ctx is done, or l is closed.
func (d *desk) serve(ctx context.Context, l listener, allowed []uint32) error {
	defer context.AfterFunc(ctx, func() { l.Close() })()
	var open sync.WaitGroup
	defer open.Wait()
	places := make(chan struct{}, maxClients)
	failing := false
	for {
		conn, err := l.AcceptUnix()
		if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil { // a shortage that may pass (accept(2)); commands that go on, as log -f, must not be in its way
			if !failing {
				d.log.Warn("a connection to the admin socket could not be taken; trying on", "error", err)
			}
			failing = true
			select {
			case <-time.After(acceptAgain):
			case <-ctx.Done():
			}
			continue
		}
		failing = false
		uid, err := peer(conn)
		if err != nil || !slices.Contains(allowed, uid) {
			d.log.Warn("somebody who may not asked for the admin socket", "uid", uid, "error", err)
			conn.Close()
			continue
		}
		select {
		case places <- struct{}{}:
		default:
			d.log.Warn("too many connections to the admin socket", "most", maxClients)
			conn.Close()
			continue
		}
		open.Go(func() {
			defer func() { <-places }()
			defer conn.Close()
			defer context.AfterFunc(ctx, func() { conn.Close() })()
			err := ctl.Serve(ctx, conn, d.input, func(ctx context.Context, r ctl.Request) int {
				if uid == contract.UIDShell {
					// What a shell says of its connection proves nothing: it counts as made before any change.
					r.Since = math.SmallestNonzeroFloat64
				}
				return d.carryOut(ctx, r)
			})
			if err != nil && ctx.Err() == nil {
				d.log.Warn("admin socket", "uid", uid, "error", err)
			}
		})
	}
}

// peer asks the kernel who connected (unix(7), SO_PEERCRED).
func peer(conn *net.UnixConn) (uint32, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var credErr error
	err = raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err = errors.Join(err, credErr); err != nil {
		return 0, err
	}
	return cred.Uid, nil
}

// carryOut runs one command and returns its exit status. A fault in one command must not end the others.
func (d *desk) carryOut(ctx context.Context, r ctl.Request) (status int) {
	defer func() {
		if p := recover(); p != nil {
			d.log.Error("fault in a command", "command", r.Args[0], "panic", p, "stack", string(debug.Stack()))
			fmt.Fprintf(r.Stderr, "%s: a fault in the guest; its log says more\n", r.Args[0])
			status = ctl.Failed
		}
	}()
	i := slices.IndexFunc(commands(), func(c command) bool { return c.name == r.Args[0] })
	if i < 0 {
		fmt.Fprintf(r.Stderr, "there is no command %.32q; `help` lists those there are\n", r.Args[0])
		return ctl.Usage
	}
	err := commands()[i].run(ctx, d, r)
	var usage usageError
	switch {
	case errors.As(err, &usage):
		fmt.Fprintf(r.Stderr, "%s: %v; `help` tells more\n", r.Args[0], err)
		return ctl.Usage
	case err != nil:
		fmt.Fprintf(r.Stderr, "%s: %s\n", r.Args[0], strings.TrimSpace(err.Error()))
		return ctl.Failed
	}
	return ctl.Done
}
