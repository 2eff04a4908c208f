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
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"rempart/firstboot/child"
	"rempart/firstboot/contract"
	"rempart/firstboot/contract/ctl"
	"rempart/firstboot/door"
)

// Spec is the child.
func Spec() child.Spec {
	return child.Spec{
		Name: "admin",
		Run:  run,
		UID:  contract.UIDAdmin,
		// CAP_NET_ADMIN reads rules and connections, CAP_NET_RAW captures, CAP_SYSLOG reads the kernel's log (syslog(2)).
		Caps: []uintptr{unix.CAP_NET_ADMIN, unix.CAP_NET_RAW, unix.CAP_SYSLOG},
		Read: []string{contract.LinkDir, contract.TimeDir, contract.ListsDir, contract.SetsDir, contract.BlockedPath,
			groupsDir, memoryFile, loadFile, filepath.Dir(conntrackMax)},
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
	listener, err := d.door(clients).Listen(filepath.Join(env.Root, contract.AdminSocket))
	if err != nil {
		return err
	}
	env.Ready()
	d.serve(ctx, listener, clients)
	return nil
}

// door is the socket, and who may come in.
func (d *desk) door(allowed []uint32) door.Door {
	return door.Door{Name: "admin socket", Allowed: allowed, Most: maxClients, Log: d.log}
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

// serve takes connections until ctx is done, or l is closed.
func (d *desk) serve(ctx context.Context, l door.Listener, allowed []uint32) {
	d.door(allowed).Serve(ctx, l, func(ctx context.Context, conn *net.UnixConn, uid uint32) {
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
