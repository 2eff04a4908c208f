// Package ssh is the guest's SSH server: public keys only, and a prompt that takes the guest's own commands; or, where
// the profile allows it, a shell that another child starts (package session). It runs where the policy opens the admin
// path, as a user of its own that may do nothing but listen.
//
// Who may log in is in the profile and on the identity disk; the host key is on the identity disk only, so a guest
// without one has no SSH. Keys decide, not user names: any name is taken. Sources that fail are slowed down, each
// connection has bounds of time and number, and nothing is ever forwarded.
//
// What it deliberately does not do: passwords, certificates, agents, X11, environment, subsystems, files.
package ssh

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"rempart/firstboot/child"
	"rempart/firstboot/contract"
	"rempart/firstboot/contract/identity"
	"rempart/firstboot/secret"
)

// Port is where SSH is: what the policy opens as the admin path.
const Port = "22"

// Spec is the child.
func Spec() child.Spec {
	d := &daemon{}
	return child.Spec{
		Name: "ssh",
		Run:  d.run,
		Needed: func(root string) bool {
			p, _, err := child.ReadProfile(root)
			return err == nil && !p.Admin.None
		},
		Follows:     true,
		After:       []string{"policy"},
		UID:         contract.UIDSSH,
		Caps:        []uintptr{unix.CAP_NET_BIND_SERVICE},
		Read:        []string{identity.ConsumerDir(identity.ConsumerSSH)},
		Feed:        true,
		OOMScore:    400,
		MemoryLimit: 16 << 20,
	}
}

// daemon is what outlives a change of the profile: sessions go on, since the one who changes it is in one of them.
type daemon struct {
	status   *status
	server   *server // nil: not begun
	listener net.Listener
	shells   atomic.Bool // whether the profile allows shells
}

// run serves by the profile of env, and leaves what it serves as it is when that changes.
func (d *daemon) run(ctx context.Context, env *child.Env) error {
	if d.status == nil {
		d.status = &status{}
		go d.status.keep(env.Reports)
	}
	var err error
	if env.Profile.Admin.None {
		d.close()
	} else {
		err = d.open(env)
	}
	if err != nil {
		return err
	}
	env.Ready()
	<-ctx.Done()
	return nil
}

// close lets nobody in any more.
func (d *daemon) close() {
	if d.listener != nil {
		d.listener.Close()
		d.listener = nil
	}
}

// open lets those in that have a key, from now on.
func (d *daemon) open(env *child.Env) error {
	signer, err := hostKey(env.Root)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		env.Log.Info("no SSH: the guest has no host key; start it with an identity disk that holds one")
		return nil
	case err != nil:
		return err
	}
	keys, err := authorized(env)
	warning := ""
	switch {
	case err != nil:
		warning = err.Error()
	case len(keys) == 0:
		warning = "SSH lets nobody in: neither the profile (admin.keys) nor the identity disk has a key"
	}
	env.Tell(child.KeyWarning, warning)
	if d.server == nil {
		d.server = newServer(env.Log, signer, &desk{filepath.Join(env.Root, contract.AdminSocket), d.status,
			filepath.Join(env.Root, contract.ShellSocket), &d.shells})
	}
	d.shells.Store(env.Profile.Admin.Shell)
	d.server.keys.Store(&keys)
	if d.listener != nil {
		return nil
	}
	// Of the process, not of this profile.
	if d.listener, err = (&net.ListenConfig{}).Listen(context.Background(), "tcp", ":"+Port); err != nil {
		return err
	}
	env.Log.Info("SSH listens", "host_key", ssh.FingerprintSHA256(signer.PublicKey()), "keys", len(keys))
	go func(l net.Listener) {
		if err := d.server.serve(context.Background(), l); err != nil {
			env.Tell(child.KeyFailure, "SSH: "+err.Error())
		}
	}(d.listener)
	return nil
}

func hostKey(root string) (ssh.Signer, error) {
	b, err := secret.Read(root, identity.ConsumerSSH, identity.SSHHostKey)
	if err != nil {
		return nil, err
	}
	signer, err := ssh.ParsePrivateKey(b)
	if err != nil {
		return nil, errors.New("the host key is no private key in PEM") // the cause might quote it
	}
	if kind := signer.PublicKey().Type(); kind != ssh.KeyAlgoED25519 {
		return nil, fmt.Errorf("the host key is of type %s; want %s", kind, ssh.KeyAlgoED25519)
	}
	return signer, nil
}

// server accepts connections.
type server struct {
	log      *slog.Logger
	config   *ssh.ServerConfig
	keys     atomic.Pointer[[]key] // who may log in; connections look when they are asked
	commands Commands
	sources  *sources
	lobby    *lobby
	refusals *refusals
	inside   chan struct{} // a place for each connection that is logged in
	uptime   func() float64
}

// Bounds of connections.
const (
	maxVisitors    = 24               // not logged in yet, of all sources
	maxConnections = 16               // logged in
	loginGrace     = 20 * time.Second // to log in; OpenSSH's LoginGraceTime is 120
	maxTries       = 6                // keys offered; an agent offers several. OpenSSH's MaxAuthTries
	maxSessions    = 8                // at once in one connection; OpenSSH's MaxSessions is 10
	aliveEvery     = 15 * time.Second // between questions whether the client is still there
	aliveMissed    = 3                // unanswered ones until it is not
	// acceptAgain is how long to wait after the kernel had no connection to give.
	acceptAgain = 100 * time.Millisecond
)

// serve runs until ctx is done.
func (s *server) serve(ctx context.Context, l net.Listener) error {
	var open sync.WaitGroup // of this listener: another may be served before the last connection of this one ends
	defer open.Wait()
	defer context.AfterFunc(ctx, func() { l.Close() })()
	failing := false
	for {
		conn, err := l.Accept()
		if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil { // of one connection, or of a shortage that may pass (accept(2)): never a reason to shut the way in
			if !failing {
				s.log.Warn("a connection could not be taken; trying on", "error", err)
			}
			failing = true
			select {
			case <-time.After(acceptAgain):
			case <-ctx.Done():
			}
			continue
		}
		failing = false
		source := sourceOf(conn.RemoteAddr())
		if why := s.sources.enter(source); why != "" {
			s.refusals.note(source, why)
			conn.Close()
			continue
		}
		in, out := s.lobby.enter(conn, source)
		if out != nil {
			s.refusals.note(out.from, "others wait to log in, and it held the most places or the oldest")
			out.conn.Close()
		}
		open.Go(func() {
			defer s.lobby.leave(in)
			defer conn.Close()
			defer context.AfterFunc(ctx, func() { conn.Close() })()
			s.connection(ctx, in)
		})
	}
}
