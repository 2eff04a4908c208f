// Package clock keeps the guest's clock right by the time servers of the profile (SNTP, RFC 5905 section 14), and tells
// the time to the links it is to serve.
//
// A server is believed within bounds: what it says of its own error counts, more than half of those that answer must
// agree, and a jump of a quarter of an hour and more must be told again and again. Before the guest is READY the clock
// is set, either way; from then on it never goes back: it runs slow until the time has come up with it. With no server
// in reach the guest starts all the same, after a short wait, and says so.
//
// What it deliberately does not do: authenticate servers (NTS), insert leap seconds (the clock is slewed through them),
// or speak of anything but the time: questions of modes that tell or change how the server is are ignored.
package clock

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"rempart/firstboot/child"
	"rempart/firstboot/contract"
	"rempart/firstboot/onlink"
)

// runDir is where the child keeps, over its restarts, that the clock was right once, and its status.
const runDir = contract.TimeDir

// Spec is the child. CAP_SYS_TIME sets the clock, CAP_NET_BIND_SERVICE holds the NTP port.
func Spec() child.Spec {
	return child.Spec{
		Name: "time",
		Run:  run,
		Needed: func(root string) bool {
			p, _, err := child.ReadProfile(root)
			return err == nil && p.NTP != nil
		},
		After:       []string{"link", "state"},
		Follows:     true,
		UID:         contract.UIDTime,
		Caps:        []uintptr{unix.CAP_SYS_TIME, unix.CAP_NET_BIND_SERVICE},
		Own:         []string{runDir},
		Read:        []string{"/etc", contract.LinkDir},
		Write:       []string{keepDir},
		OOMScore:    300,
		MemoryLimit: 8 << 20,
	}
}

// Times of the loop.
const (
	// startWait is how long the guest's start waits for a first answer.
	startWait = 8 * time.Second
	firstTry  = 500 * time.Millisecond // again, doubling to leastPoll, while nobody answers
	keepEvery = time.Hour
)

func run(ctx context.Context, env *child.Env) error {
	k := newKeeper(env, kernel{}, newAsker())
	return k.run(ctx)
}

// keeper keeps the clock.
type keeper struct {
	env     *child.Env
	machine Machine
	asker   *asker
	server  server
	d       discipline
	kept    time.Time // when the time was last kept
	// serve answers on links until ctx is done; it may fail before.
	serve func(ctx context.Context, links []string) error

	mu     sync.Mutex
	ref    Reference
	set    time.Time // monotonic, when ref was made
	status Status
}

// Status is what the child knows, for people; it is kept as JSON at contract.TimeStatus.
type Status struct {
	Synced   bool     `json:"synced"`
	Server   string   `json:"server,omitempty"`  // whose time was taken
	Stratum  int      `json:"stratum,omitempty"` // of the guest
	Offset   float64  `json:"offset"`            // seconds, at the last round; positive: the clock was behind
	Distance float64  `json:"distance"`          // seconds that may be off
	Last     int64    `json:"last,omitempty"`    // Unix seconds of the last good round
	Next     float64  `json:"next"`              // seconds from then to the next
	Steps    int      `json:"steps"`             // how often the clock was set
	Crawling bool     `json:"crawling,omitempty"`
	Problem  string   `json:"problem,omitempty"`
	Answers  []Server `json:"servers"`
	Answered uint64   `json:"answered"` // questions of clients
	Ignored  uint64   `json:"ignored"`
}

// Server is how one server did in the last round.
type Server struct {
	Name    string  `json:"name"`
	Address string  `json:"address,omitempty"`
	Offset  float64 `json:"offset"`
	Stratum int     `json:"stratum,omitempty"`
	Problem string  `json:"problem,omitempty"`
}

func newKeeper(env *child.Env, m Machine, a *asker) *keeper {
	k := &keeper{env: env, machine: m, asker: a}
	k.server = server{reference: k.reference, port: ntpPort}
	k.serve = func(ctx context.Context, links []string) error {
		return onlink.Serve(ctx, links, env.Log, k.server.link)
	}
	return k
}

func (k *keeper) run(ctx context.Context) error {
	n := k.env.Profile.NTP
	if n == nil {
		k.env.Ready()
		<-ctx.Done()
		return nil
	}
	k.resume()
	if k.d.settled {
		k.env.Ready()
	}
	served := make(chan error, 1)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		served <- k.serve(ctx, n.Serve)
		cancel() // clients that are not served any more are no less a failure than a clock that is not kept
	}()
	k.loop(ctx, n.Servers)
	cancel()
	k.leave()
	return <-served
}

// resume takes up what an earlier run of this child knew, and brings a clock that is far behind to the last time that
// is known to have passed.
func (k *keeper) resume() {
	if _, err := os.Stat(filepath.Join(k.env.Root, runDir, "settled")); err == nil {
		k.d.settled, k.d.synced = true, true
	}
	if err := k.machine.Steer(0, leastPoll); err != nil { // an earlier run may have ended while the clock ran slow
		k.env.Log.Error(err.Error())
	}
	if known, now := lastKnown(filepath.Join(k.env.Root, keepDir)), time.Now(); now.Before(known) {
		k.env.Log.Warn("the machine's clock is behind the last time known", "clock", now.UTC().Format(time.RFC3339),
			"known", known.UTC().Format(time.RFC3339))
		if err := k.machine.Step(known.Sub(now)); err != nil {
			k.env.Log.Error(err.Error())
		}
	}
}

// leave lets the clock run as fast as it should and keeps the time.
func (k *keeper) leave() {
	if k.d.crawls {
		if err := k.machine.Steer(0, leastPoll); err != nil {
			k.env.Log.Error(err.Error())
		}
	}
	if k.reference().synced() {
		k.keep()
	}
}

func (k *keeper) keep() {
	if err := keep(filepath.Join(k.env.Root, keepDir), time.Now()); err != nil {
		k.env.Log.Warn(err.Error())
	}
	k.kept = time.Now()
}

// loop compares the clock again and again.
func (k *keeper) loop(ctx context.Context, names []string) {
	if len(names) == 0 {
		k.settle()
		<-ctx.Done()
		return
	}
	start := time.Now()
	again := firstTry
	for {
		err := k.compare(ctx, names)
		if ctx.Err() != nil {
			return
		}
		wait := k.d.poll
		if err != nil {
			k.problem(err)
			if !errors.As(err, new(doubt)) { // servers that answer are asked again at the usual pace
				wait = again
				again = min(2*again, leastPoll)
			}
		} else {
			k.problem(nil)
			again = firstTry
		}
		if left := startWait - time.Since(start); !k.d.settled && (err == nil || left <= 0) {
			k.settle()
		} else if !k.d.settled {
			wait = min(wait, left)
		}
		k.tell(wait)
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// settle is the moment from which the guest counts on its clock.
func (k *keeper) settle() {
	k.d.settled = true
	if err := os.WriteFile(filepath.Join(k.env.Root, runDir, "settled"), nil, 0o644); err != nil {
		k.env.Log.Warn("the clock", "error", err)
	}
	k.env.Ready()
}

// compare is one round.
func (k *keeper) compare(ctx context.Context, names []string) error {
	answers := k.asker.round(ctx, names)
	var samples []Sample
	for _, a := range answers {
		if a.Err == nil {
			samples = append(samples, a.Sample)
		}
	}
	best, liars, err := choose(samples)
	k.note(answers, liars)
	if err != nil {
		return err
	}
	todo, err := k.d.decide(best.Offset, best.Distance)
	if err != nil { // the clock is left as it is, and no answer rests on this round
		if todo == steer {
			err = errors.Join(err, k.machine.Steer(0, k.d.poll))
		}
		return doubt{err}
	}
	switch todo {
	case step:
		k.env.Log.Info("the clock is set", "by", best.Offset.Round(time.Millisecond), "from", best.Server)
		err = k.machine.Step(best.Offset)
	case crawl:
		err = k.machine.Crawl()
	case steer:
		err = k.machine.Steer(bounded(best.Offset), k.d.poll)
	}
	if err != nil {
		return err
	}
	k.mu.Lock()
	k.ref, k.set = reference(best, time.Now()), time.Now()
	if todo == crawl {
		k.ref.RootDispersion += best.Offset.Abs()
	}
	s := &k.status
	s.Server, s.Offset, s.Distance = best.Server.String(), best.Offset.Seconds(), best.Distance.Seconds()
	s.Last = time.Now().Unix()
	s.Crawling = todo == crawl
	if todo == step {
		s.Steps++
	}
	k.mu.Unlock()
	if time.Since(k.kept) > keepEvery {
		k.keep()
	}
	return nil
}

// doubt is the error of a round whose time is not believed, or cannot be followed.
type doubt struct{ error }

// bounded is an offset that the kernel's loop takes.
func bounded(offset time.Duration) time.Duration { return max(-slewable, min(slewable, offset)) }

// note remembers how each server did.
func (k *keeper) note(answers []Answer, liars []Sample) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.status.Answers = k.status.Answers[:0]
	for _, a := range answers {
		s := Server{Name: a.Name, Offset: a.Sample.Offset.Seconds(), Stratum: int(a.Sample.Stratum)}
		if a.Server.IsValid() {
			s.Address = a.Server.String()
		}
		if a.Err != nil {
			s.Problem = a.Err.Error()
		}
		for _, l := range liars {
			if a.Err == nil && l.Server == a.Server {
				s.Problem = "the others tell another time"
			}
		}
		k.status.Answers = append(k.status.Answers, s)
	}
}

// problem tells what is wrong, or that nothing is any more.
func (k *keeper) problem(err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	k.mu.Lock()
	was := k.status.Problem
	k.status.Problem = text
	k.mu.Unlock()
	if text != was {
		if text != "" {
			text = "the clock is not kept: " + text
		}
		k.env.Tell(child.KeyWarning, text)
	}
}

// reference is what answers rest on now.
func (k *keeper) reference() Reference {
	k.mu.Lock()
	defer k.mu.Unlock()
	r := k.ref
	r.Age = time.Since(k.set)
	return r
}

// tell writes the status.
func (k *keeper) tell(next time.Duration) {
	ref := k.reference()
	k.mu.Lock()
	s := k.status
	k.mu.Unlock()
	s.Synced, s.Next = ref.synced(), next.Seconds()
	if s.Synced {
		s.Stratum = int(ref.Stratum)
	}
	s.Answered, s.Ignored = k.server.answered.Load(), k.server.ignored.Load()
	b, err := json.Marshal(s)
	if err == nil {
		err = os.WriteFile(filepath.Join(k.env.Root, contract.TimeStatus)+".new", b, 0o644)
	}
	if err == nil {
		err = os.Rename(filepath.Join(k.env.Root, contract.TimeStatus)+".new", filepath.Join(k.env.Root,
			contract.TimeStatus))
	}
	if err != nil {
		k.env.Log.Warn("the status of the clock", "error", err)
	}
}

// Words are a status for people.
func (s Status) Words() string {
	var b strings.Builder
	switch {
	case s.Synced:
		fmt.Fprintf(&b, "synchronised to %s, stratum %d, at most %.3f s off\n", s.Server, s.Stratum, s.Distance)
	case len(s.Answers) == 0:
		b.WriteString("no time servers\n")
	default:
		b.WriteString("not synchronised\n")
	}
	if s.Problem != "" {
		fmt.Fprintf(&b, "problem: %s\n", s.Problem)
	}
	if s.Crawling {
		fmt.Fprintf(&b, "the clock is ahead by %.1f s and runs slow until the time has come up with it\n", -s.Offset)
	}
	for _, a := range s.Answers {
		fmt.Fprintf(&b, "  %s", a.Name)
		if a.Address != "" && a.Address != a.Name {
			fmt.Fprintf(&b, " %s", a.Address)
		}
		if a.Stratum != 0 {
			fmt.Fprintf(&b, ": stratum %d, offset %+.6f s", a.Stratum, a.Offset)
		}
		if a.Problem != "" {
			fmt.Fprintf(&b, ": %s", a.Problem)
		}
		b.WriteByte('\n')
	}
	return b.String()
}
