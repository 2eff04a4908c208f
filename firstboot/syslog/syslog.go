// Package syslog sends the guest's log to the server that the profile names: RFC 5424 over UDP (RFC 5426), over TCP
// with octet counting (RFC 6587), or the same within TLS (RFC 5425). What cannot be sent waits in the log itself,
// which is bounded; a server that was away gets it when it is back, as far as it is still there, and is told what is
// missing by the numbers of the messages.
//
// TCP does not say what the other end has read: what was on its way when a connection broke is lost. What it
// deliberately does not do: relaying what others send, or holding the guest back when the server is slow.
package syslog

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"rempart/firstboot/child"
	"rempart/firstboot/contract"
	"rempart/firstboot/contract/identity"
	"rempart/firstboot/logging"
	"rempart/firstboot/logging/segment"
	"rempart/profiles"
)

// runDir is where the child keeps which entry it sends next, in memory.
const runDir = "/run/rempart/syslog"

// Spec is the child.
func Spec() child.Spec {
	warned := false // over all profiles: a warning stands until it is taken back
	return child.Spec{
		Name: "syslog",
		Run:  func(ctx context.Context, env *child.Env) error { return run(ctx, env, &warned) },
		Needed: func(root string) bool {
			p, _, err := child.ReadProfile(root)
			return err == nil && p.Logging.To != nil
		},
		After:       []string{"log"},
		AfterReady:  true,
		Follows:     true,
		UID:         contract.UIDSyslog,
		Own:         []string{runDir},
		Read:        []string{contract.LogRunDir, identity.ConsumerDir(identity.ConsumerSyslog)},
		OOMScore:    500,
		MemoryLimit: 10 << 20,
	}
}

// Times of a sender.
const (
	dialWait  = 10 * time.Second
	writeWait = 30 * time.Second // of a server that takes nothing
	firstWait = time.Second      // before another try; doubles
	longWait  = time.Minute
	// settle is how long a server may take to refuse a client by TLS 1.3: the client is done before the server has looked
	// at its certificate, and what is sent meanwhile would be taken for sent and be lost.
	settle = 2 * time.Second
)

func run(ctx context.Context, env *child.Env, warned *bool) error {
	env.Ready()
	to := env.Profile.Logging.To
	if to == nil {
		if *warned {
			*warned = false
			env.Tell(child.KeyWarning, "")
		}
		<-ctx.Done()
		return nil
	}
	s := &sender{env: env, to: *to, failed: warned, socket: filepath.Join(env.Root, contract.LogSocket),
		mark: filepath.Join(env.Root, runDir, "next")}
	s.next = readMark(s.mark)
	return s.run(ctx)
}

// sender sends entries one after the other.
type sender struct {
	env    *child.Env
	to     profiles.LogServer
	socket string
	mark   string // file with the number of the entry to send next
	next   uint64
	failed *bool // the guest was told so
}

// run tries until ctx is done. A server that is not there is no failure of the guest.
func (s *sender) run(ctx context.Context) error {
	wait := firstWait
	for {
		began := time.Now()
		err := s.once(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if !*s.failed {
			*s.failed = true
			s.env.Tell(child.KeyWarning, "the log is not sent: "+err.Error())
		}
		if time.Since(began) > longWait {
			wait = firstWait
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil
		}
		wait = min(2*wait, longWait)
	}
}

// once connects and sends what there is and what comes, until that fails.
func (s *sender) once(ctx context.Context) error {
	network := string(s.to.Protocol)
	conn, err := (&net.Dialer{Timeout: dialWait}).DialContext(ctx, network, netip.AddrPortFrom(s.to.Addr,
		s.to.Port).String())
	if err != nil {
		return err
	}
	defer conn.Close()
	if s.to.TLS != nil {
		if conn, err = s.encrypt(ctx, conn); err != nil {
			return err
		}
		defer conn.Close()
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if s.to.Protocol == profiles.TCP {
		// A server says nothing: what can be read is its end.
		go func() {
			_, err := io.Copy(io.Discard, conn)
			if err == nil {
				err = errors.New("the server closed the connection")
			}
			cancel(err)
		}()
	}
	if secured, ok := conn.(*tls.Conn); ok && secured.ConnectionState().Version >= tls.VersionTLS13 {
		select {
		case <-ctx.Done(): // the server's refusal is its cause
			return context.Cause(ctx)
		case <-time.After(settle):
		}
	}
	request := logging.Request{From: s.next, ThisStart: s.next == 0, Follow: true}
	err = logging.Follow(ctx, s.socket, request, func(e segment.Entry) error { return s.send(conn, e) })
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

// encrypt makes a connection one by TLS, once the server has shown who it is.
func (s *sender) encrypt(ctx context.Context, conn net.Conn) (net.Conn, error) {
	config, err := secure(s.env.Root, &s.to)
	if err != nil {
		return nil, err
	}
	within, cancel := context.WithTimeout(ctx, dialWait)
	defer cancel()
	secured := tls.Client(conn, config)
	if err := secured.HandshakeContext(within); err != nil {
		return nil, fmt.Errorf("TLS with the log server %v: %w", s.to.Addr, err)
	}
	return secured, nil
}

// send sends one entry and remembers the next.
func (s *sender) send(conn net.Conn, e segment.Entry) error {
	message := format(s.env.Profile.Name, e)
	if s.to.Protocol == profiles.TCP {
		message = frame(message)
	}
	if err := conn.SetWriteDeadline(time.Now().Add(writeWait)); err != nil {
		return err
	}
	if _, err := io.WriteString(conn, message); err != nil {
		return err
	}
	if *s.failed {
		*s.failed = false
		s.env.Tell(child.KeyWarning, "")
	}
	s.next = e.Number + 1
	return os.WriteFile(s.mark, fmt.Appendf(nil, "%-20d", s.next), 0o600)
}

// readMark reads which entry is next; 0: the first of this start of the guest.
func readMark(file string) uint64 {
	b, err := os.ReadFile(file)
	if err != nil {
		return 0
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
	if err != nil {
		return 0
	}
	return n
}
