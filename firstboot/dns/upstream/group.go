// Package upstream asks other name servers: over UDP from a port of its own for each question, over TCP, and over TLS
// with the server's name or key checked. Of several it asks the one that answers fastest, asks the next before the
// client gives up, and leaves one that does not answer alone until a probe shows that it does again.
//
// What makes an answer hard to forge (RFC 5452): a socket connected to the server, a port and an id that nobody can
// know, the letters of the name in a random mixture of cases (draft-vixie-dnsext-dns0x20), and after a few answers that
// do not fit the question goes over TCP.
//
// What it deliberately does not do: keep answers, look at what they say, or start at the root.
package upstream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// Times of a question.
const (
	// least and most are how long a server may take before another one is asked too; between, its own times decide.
	least = 60 * time.Millisecond
	most  = 1200 * time.Millisecond
	// unknown is the same of a server that was not asked yet.
	unknown = 400 * time.Millisecond
	// Patience is how long a question may take in all: stubs wait 5 s (resolv.conf(5)).
	Patience = 4 * time.Second
)

// maxTries is how many times one question is sent, to the same or to different servers.
const maxTries = 5

// ErrNobody is wrapped by the error of an Exchange that had nobody to ask.
var ErrNobody = errors.New("there is no name server to ask")

// Group is servers of which any may be asked. It is an answer.Exchanger.
type Group struct {
	log *slog.Logger
	mu  sync.Mutex
	all []*Server
}

// NewGroup returns a group; Set may change its servers.
func NewGroup(log *slog.Logger, servers []*Server) *Group { return &Group{log: log, all: servers} }

// Set replaces the servers; questions that are under way go on.
func (g *Group) Set(servers []*Server) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.all = servers
}

// Servers are those of the group.
func (g *Group) Servers() []*Server {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.all)
}

// exploreOne of so many questions goes to a server that is not the fastest, so that one that became faster is found.
const exploreOne = 32

// order is the servers in the order they are to be asked: those that work by their times, then the others by how long
// ago they were tried.
func (g *Group) order(now time.Time) []*Server {
	type ranked struct {
		*Server
		down bool
		time time.Duration
	}
	all := g.Servers()
	if len(all) == 1 {
		return all
	}
	var list []ranked
	for _, s := range all {
		down, rtt := s.standing(now)
		list = append(list, ranked{s, down, rtt})
	}
	slices.SortStableFunc(list, func(a, b ranked) int {
		switch {
		case a.down != b.down && a.down:
			return 1
		case a.down != b.down:
			return -1
		}
		return int(a.time - b.time)
	})
	for i := range list {
		all[i] = list[i].Server
	}
	if len(list) > 1 && !list[1].down && rand.IntN(exploreOne) == 0 {
		up := 2
		for up < len(list) && !list[up].down {
			up++
		}
		i := 1 + rand.IntN(up-1)
		all[0], all[i] = all[i], all[0]
	}
	return all
}

// result is what one try brought.
type result struct {
	msg *dns.Msg
	err error
}

// Exchange asks the servers until one gives an answer. An answer that says the server itself failed (SERVFAIL, REFUSED,
// NOTIMP) has the next one asked, and is the answer when all say so.
func (g *Group) Exchange(ctx context.Context, query *dns.Msg) (*dns.Msg, error) {
	servers := g.order(time.Now())
	if len(servers) == 0 {
		return nil, ErrNobody
	}
	ctx, cancel := context.WithTimeout(ctx, Patience)
	defer cancel()
	tries := max(2, min(len(servers), maxTries))
	results := make(chan result, tries)
	started, ended := 0, 0
	next := time.NewTimer(0)
	defer next.Stop()
	var refusal *dns.Msg
	var failures []error
	for {
		select {
		case <-next.C:
			s := servers[started%len(servers)]
			started++
			go func() {
				m, err := s.Exchange(ctx, query)
				results <- result{m, err}
			}()
			if started < tries {
				next.Reset(s.patience())
			}
		case r := <-results:
			ended++
			switch {
			case r.err != nil:
				failures = append(failures, r.err)
			case refuses(r.msg):
				refusal = r.msg
			default:
				return r.msg, nil
			}
			switch {
			case started < tries:
				next.Reset(0) // somebody who says no is no reason to wait
			case ended == tries && refusal != nil:
				return refusal, nil
			case ended == tries:
				return nil, errors.Join(failures...)
			}
		case <-ctx.Done():
			if refusal != nil {
				return refusal, nil
			}
			return nil, fmt.Errorf("no name server answered in %v: %w", Patience, ctx.Err())
		}
	}
}

// refuses tells whether another server may know better.
func refuses(m *dns.Msg) bool {
	return m.Rcode == dns.RcodeServerFailure || m.Rcode == dns.RcodeRefused || m.Rcode == dns.RcodeNotImplemented
}

// probeEach is how often Probe looks for servers that are to be tried again.
const probeEach = time.Second

// Probe tries servers that do not answer until ctx is done, each after a while that doubles.
func (g *Group) Probe(ctx context.Context) {
	tick := time.NewTicker(probeEach)
	defer tick.Stop()
	for {
		select {
		case now := <-tick.C:
			var all sync.WaitGroup
			for _, s := range g.Servers() {
				if s.dueForProbe(now) {
					all.Go(func() { g.probe(ctx, s) })
				}
			}
			all.Wait()
		case <-ctx.Done():
			return
		}
	}
}

// probe asks for the name servers of the root: every resolver has them.
func (g *Group) probe(ctx context.Context, s *Server) {
	q := new(dns.Msg)
	q.SetQuestion(".", dns.TypeNS)
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	down, _ := s.standing(time.Now())
	if _, err := s.Exchange(ctx, q); err == nil && down {
		g.log.Info("name server answers again", "server", s.Name())
	}
}
