package ssh

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"
)

// newServer returns a server that lets nobody in until it is given keys.
func newServer(log *slog.Logger, signer ssh.Signer, c Commands) *server {
	s := &server{log: log, commands: c, sources: newSources(time.Now), lobby: &lobby{places: maxVisitors},
		refusals: &refusals{log: log, now: time.Now}, inside: make(chan struct{}, maxConnections),
		uptime: func() float64 { return sinceBoot(unix.ClockGettime) }}
	s.keys.Store(&[]key{})
	s.config = serverConfig(signer, &s.keys)
	return s
}

// connection is the life of one.
func (s *server) connection(ctx context.Context, in *visitor) {
	conn := in.conn
	since := s.uptime() // before its first packet is answered: a policy that comes later may be judged by it
	// Both ends of the deadline hold for all of the login, so that no trickle of bytes draws it out.
	_ = conn.SetDeadline(time.Now().Add(loginGrace))
	config := *s.config
	tried := false
	config.AuthLogCallback = func(_ ssh.ConnMetadata, method string, _ error) {
		// Every client begins with "none", to learn what there is (RFC 4252 section 5.2).
		tried = tried || method != "none"
	}
	c, channels, requests, err := ssh.NewServerConn(conn, &config)
	s.sources.leave(in.from, err != nil && tried)
	s.lobby.leave(in)
	switch {
	case err != nil && tried:
		s.log.Info("SSH login failed", "from", conn.RemoteAddr(), "why", fmt.Sprintf("%.200s", err))
		return
	case err != nil:
		s.log.Info("SSH connection without a login", "from", conn.RemoteAddr(), "why", fmt.Sprintf("%.200s", err))
		return
	}
	select {
	case s.inside <- struct{}{}:
		defer func() { <-s.inside }()
	default:
		s.log.Warn("SSH login refused: too many are logged in", "from", conn.RemoteAddr(), "most", maxConnections)
		c.Close()
		return
	}
	_ = conn.SetDeadline(time.Time{})
	var open sync.WaitGroup
	defer open.Wait()
	defer c.Close()
	log := s.log.With("from", conn.RemoteAddr(), "user", fmt.Sprintf("%.32q", c.User()))
	log.Info("SSH login", "key", c.Permissions.Extensions[permissionKey],
		"comment", c.Permissions.Extensions[permissionComment])
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go ssh.DiscardRequests(requests) // forwarding and all else is refused
	go s.alive(ctx, c, log)
	sessions := make(chan struct{}, maxSessions)
	for ch := range channels {
		if ch.ChannelType() != "session" {
			_ = ch.Reject(ssh.Prohibited, "only sessions are served")
			continue
		}
		select {
		case sessions <- struct{}{}:
		default:
			_ = ch.Reject(ssh.ResourceShortage, fmt.Sprintf("%d sessions at most", maxSessions))
			continue
		}
		channel, requests, err := ch.Accept()
		if err != nil {
			<-sessions
			continue
		}
		open.Go(func() {
			defer func() { <-sessions }()
			x := &session{Channel: channel, commands: s.commands, log: log, since: since}
			x.serve(ctx, requests)
		})
	}
	log.Info("SSH logout")
}

// sinceBoot is CLOCK_BOOTTIME in seconds. A time that the kernel does not tell counts as before everything: 0 would
// mean a connection that no policy can cut, whose confirmation counts for more.
func sinceBoot(gettime func(clock int32, t *unix.Timespec) error) float64 {
	var t unix.Timespec
	if err := gettime(unix.CLOCK_BOOTTIME, &t); err != nil || t.Nano() <= 0 {
		return math.SmallestNonzeroFloat64
	}
	return time.Duration(t.Nano()).Seconds()
}

// alive asks now and then whether the client is still there, and ends the connection when it is not.
func (s *server) alive(ctx context.Context, c *ssh.ServerConn, log *slog.Logger) {
	tick := time.NewTicker(aliveEvery)
	defer tick.Stop()
	answered := make(chan error, 1)
	waiting, missed := false, 0
	for {
		select {
		case <-ctx.Done():
			c.Close()
			return
		case err := <-answered:
			if waiting, missed = false, 0; err != nil {
				return
			}
		case <-tick.C:
			if waiting {
				if missed++; missed >= aliveMissed {
					log.Info("SSH client is gone")
					c.Close()
					return
				}
				continue
			}
			waiting = true
			go func() {
				_, _, err := c.SendRequest("keepalive@openssh.com", true, nil)
				answered <- err
			}()
		}
	}
}
