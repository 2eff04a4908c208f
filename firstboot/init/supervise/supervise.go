// Package supervise keeps a set of children running: it starts each when what it needs is there, starts it again when
// it dies, later and later while it keeps dying, and stops all in the end in reverse order. How a child is started is
// given from outside, so tests run it over any process.
//
// What it deliberately does not do: confine, read what children say, or judge whether the guest works.
package supervise

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"rempart/firstboot/child"
	"rempart/firstboot/contract"
)

// States of a child; see contract.ChildState.
const (
	Waiting    = "waiting" // for what it needs
	Starting   = "starting"
	Ready      = "ready"
	Done       = "done"
	Failed     = "failed"
	Restarting = "restarting"
	Stopped    = "stopped"
)

// Timing of restarts and of the stop. There is no jitter: nothing else restarts in step with a child.
type Timing struct {
	First   time.Duration // delay before the first restart; doubles with each
	Longest time.Duration // the delay grows to this and stays
	Healthy time.Duration // a child that was ready this long has its delay and its failures forgotten
	Grace   time.Duration // between SIGTERM and SIGKILL
}

// DefaultTiming keeps a dead firewall child away for a tenth of a second at first, and a hopeless one from taking the
// processor: at most one start in ten seconds.
var DefaultTiming = Timing{First: 100 * time.Millisecond, Longest: 10 * time.Second, Healthy: time.Minute,
	Grace: 3 * time.Second}

// ErrNotNeeded is what start returns for a child that has nothing to do in this guest: it is done, until Reconsider.
var ErrNotNeeded = errors.New("not needed in this guest")

// failuresUntilFailed is how many ends in a row, without having been ready, make a child Failed. It is still tried.
const failuresUntilFailed = 3

// Process is a running child.
type Process struct {
	PID    int
	Done   <-chan unix.WaitStatus
	Ready  <-chan struct{} // closed, or sent to, when the child says it is ready
	Signal func(sig syscall.Signal, group bool) error
	// Why may say more of why it ended than its status does; may be nil.
	Why func(error) error
	// Ended is called once the process is gone, before its successor starts; may be nil.
	Ended func()
}

// Supervisor runs children. Make it with New.
type Supervisor struct {
	specs  []child.Spec
	timing Timing
	start  func(spec child.Spec, starts int) (*Process, error)
	done   func(spec child.Spec, status error)
	log    *slog.Logger

	mu      sync.Mutex
	kids    map[string]*kid
	changed chan struct{} // closed and replaced at each change
	again   chan struct{} // closed and replaced at each Reconsider
	open    bool          // children with AfterReady may start
	onEvent func()
	running sync.WaitGroup
}

type kid struct {
	contract.ChildState
	failures int // ends in a row without having been ready
	starts   int
	process  *Process
	stop     context.CancelFunc
	stopped  chan struct{}
}

// New returns a supervisor of specs, which it starts in that order where nothing else orders them. start starts a
// child for the given time, counted from 0; done is told when a child ended, with why (nil: well), before it is started
// again, and may be nil; event is called, not concurrently with itself, after each change, and must not block.
func New(specs []child.Spec, timing Timing, log *slog.Logger, start func(spec child.Spec, starts int) (*Process, error),
	done func(spec child.Spec, status error), event func()) (*Supervisor, error) {
	s := &Supervisor{timing: timing, start: start, done: done, log: log, onEvent: event,
		kids: map[string]*kid{}, changed: make(chan struct{}), again: make(chan struct{})}
	ordered, err := order(specs)
	if err != nil {
		return nil, err
	}
	s.specs = ordered
	for _, spec := range ordered {
		s.kids[spec.Name] = &kid{ChildState: contract.ChildState{Name: spec.Name, State: Waiting},
			stopped: make(chan struct{})}
	}
	return s, nil
}

// order sorts specs so that each comes after what it needs, and otherwise keeps their order.
func order(specs []child.Spec) ([]child.Spec, error) {
	byName := map[string]child.Spec{}
	for _, spec := range specs {
		if _, twice := byName[spec.Name]; twice || spec.Name == "" {
			return nil, fmt.Errorf("children: the name %q is empty or taken twice", spec.Name)
		}
		byName[spec.Name] = spec
	}
	var out []child.Spec
	const visiting, visited = 1, 2
	mark := map[string]int{}
	var visit func(spec child.Spec) error
	visit = func(spec child.Spec) error {
		switch mark[spec.Name] {
		case visiting:
			return fmt.Errorf("children: %s waits for itself", spec.Name)
		case visited:
			return nil
		}
		mark[spec.Name] = visiting
		for _, name := range spec.After {
			needed, ok := byName[name]
			if !ok {
				return fmt.Errorf("children: %s waits for %s, which does not exist", spec.Name, name)
			}
			if err := visit(needed); err != nil {
				return err
			}
		}
		mark[spec.Name] = visited
		out = append(out, spec)
		return nil
	}
	for _, spec := range specs {
		if err := visit(spec); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// Start begins to run all children and returns at once. They run until Stop.
func (s *Supervisor) Start() {
	for _, spec := range s.specs {
		ctx, stop := context.WithCancel(context.Background())
		s.mu.Lock()
		s.kids[spec.Name].stop = stop
		s.mu.Unlock()
		s.running.Add(1)
		go func() {
			defer s.running.Done()
			defer close(s.kids[spec.Name].stopped)
			s.keep(ctx, spec)
		}()
	}
}

// Open lets the children with AfterReady start. More than once is harmless.
func (s *Supervisor) Open() {
	s.mu.Lock()
	open := s.open
	s.mu.Unlock()
	if !open { // a second time is no change, and must not look like one
		s.update(func() { s.open = true })
	}
}

// States returns what each child is doing, in start order.
func (s *Supervisor) States() []contract.ChildState {
	s.mu.Lock()
	defer s.mu.Unlock()
	states := make([]contract.ChildState, len(s.specs))
	for i, spec := range s.specs {
		states[i] = s.kids[spec.Name].ChildState
	}
	return states
}

// Signal sends a signal to a child's process.
func (s *Supervisor) Signal(name string, sig syscall.Signal) error {
	s.mu.Lock()
	k := s.kids[name]
	var p *Process
	if k != nil {
		p = k.process
	}
	s.mu.Unlock()
	switch {
	case k == nil:
		return fmt.Errorf("there is no child %.32q", name)
	case p == nil:
		return fmt.Errorf("child %s is not running", name)
	}
	return p.Signal(sig, false)
}

// Reconsider asks again whether the children are needed that were not: the profile has changed.
func (s *Supervisor) Reconsider() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.again)
	s.again = make(chan struct{})
}

// Stop ends all children, the last started first, each by SIGTERM and after the grace time by SIGKILL. When ctx ends
// before, the rest are killed at once. It returns the names of those that were running, in the order they ended.
func (s *Supervisor) Stop(ctx context.Context) (order []string) {
	for _, spec := range slices.Backward(s.specs) {
		k := s.kids[spec.Name]
		s.mu.Lock()
		stop, running := k.stop, k.process != nil
		s.mu.Unlock()
		if stop == nil {
			continue // never started
		}
		if running {
			order = append(order, spec.Name)
		}
		stop()
		select {
		case <-k.stopped:
			continue
		case <-time.After(s.timing.Grace):
		case <-ctx.Done():
		}
		s.mu.Lock()
		p := k.process
		s.mu.Unlock()
		if p != nil {
			s.log.Warn("child did not stop in time: killed", "child", spec.Name)
			_ = p.Signal(syscall.SIGKILL, true)
		}
		select {
		case <-k.stopped:
		case <-time.After(s.timing.Grace): // a process the kernel cannot end: go on without it
		}
	}
	return order
}

// update changes something under the lock and tells everybody.
func (s *Supervisor) update(change func()) {
	s.mu.Lock()
	change()
	close(s.changed)
	s.changed = make(chan struct{})
	if s.onEvent != nil {
		s.onEvent()
	}
	s.mu.Unlock()
}

// may waits until a child may start.
func (s *Supervisor) may(ctx context.Context, spec child.Spec) bool {
	for {
		s.mu.Lock()
		ok := s.open || !spec.AfterReady
		for _, name := range spec.After {
			state := s.kids[name].State
			ok = ok && (state == Ready || state == Done)
		}
		changed := s.changed
		s.mu.Unlock()
		if ok {
			return ctx.Err() == nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		}
	}
}

// keep keeps one child running until ctx is done or, for a task, until it ended well.
func (s *Supervisor) keep(ctx context.Context, spec child.Spec) {
	k := s.kids[spec.Name]
	delay := s.timing.First
	for s.may(ctx, spec) {
		s.update(func() {
			if k.failures < failuresUntilFailed { // one that keeps failing stays failed until it is ready
				k.State = Starting
			}
		})
		s.mu.Lock()
		again := s.again // from before it is asked: what changes after that is not missed
		s.mu.Unlock()
		healthy, err := s.guarded(ctx, spec, k)
		if s.done != nil && ctx.Err() == nil {
			s.tellDone(spec, err)
		}
		if ctx.Err() != nil {
			break
		}
		if spec.Task && err == nil {
			s.update(func() { k.State, k.PID, k.process = Done, 0, nil })
			return
		}
		if errors.Is(err, ErrNotNeeded) {
			s.update(func() { k.State, k.PID, k.process = Done, 0, nil })
			select {
			case <-again:
				continue
			case <-ctx.Done():
			}
			break
		}
		if err == nil {
			err = errEnded
		}
		if healthy >= s.timing.Healthy {
			delay = s.timing.First
		}
		s.update(func() {
			k.process, k.PID = nil, 0
			k.Restarts++
			k.Last = err.Error()
			k.failures++
			if healthy > 0 {
				k.failures = 0
			}
			k.State = Restarting
			if k.failures >= failuresUntilFailed {
				k.State = Failed
			}
		})
		s.log.Warn("child ended", "child", spec.Name, "why", err, "again_in", delay)
		select {
		case <-time.After(delay):
		case <-ctx.Done():
		}
		delay = min(2*delay, s.timing.Longest)
	}
	s.update(func() { k.State, k.PID, k.process = Stopped, 0, nil })
}

var errEnded = fmt.Errorf("ended, although it should run for ever")

// tellDone reports an end; a fault in who is told must not cost the child its successor.
func (s *Supervisor) tellDone(spec child.Spec, status error) {
	defer s.recovered(spec.Name)
	s.done(spec, status)
}

// guarded runs a child once. A panic on the way is an error like any other: PID 1 must live.
func (s *Supervisor) guarded(ctx context.Context, spec child.Spec, k *kid) (healthy time.Duration, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("a fault in PID 1 itself: %v", p)
			s.log.Error("fault in PID 1", "child", spec.Name, "panic", p, "stack", string(debug.Stack()))
		}
	}()
	return s.once(ctx, spec, k)
}

func (s *Supervisor) recovered(name string) {
	if p := recover(); p != nil {
		s.log.Error("fault in PID 1", "child", name, "panic", p, "stack", string(debug.Stack()))
	}
}

// once starts a child and waits until it is gone. healthy is how long it was ready: 0, never.
func (s *Supervisor) once(ctx context.Context, spec child.Spec, k *kid) (healthy time.Duration, err error) {
	p, err := s.start(spec, k.starts)
	k.starts++
	if err != nil {
		return 0, err
	}
	if p.Ended != nil {
		defer p.Ended()
	}
	s.update(func() { k.process, k.PID = p, p.PID })
	defer s.update(func() { k.process = nil })
	ready := p.Ready
	stop := ctx.Done()
	var since time.Time
	for {
		select {
		case <-ready:
			ready = nil
			since = time.Now()
			s.update(func() {
				if !spec.Task {
					k.State = Ready
				}
			})
		case <-stop:
			stop = nil
			_ = p.Signal(syscall.SIGTERM, false)
		case status := <-p.Done:
			if !since.IsZero() {
				healthy = max(time.Since(since), 1)
			}
			if err = why(status); p.Why != nil {
				err = p.Why(err)
			}
			return healthy, err
		}
	}
}

// why says how a process ended; nil: with status 0.
func why(status unix.WaitStatus) error {
	switch {
	case status.Signaled():
		return fmt.Errorf("killed by %s", unix.SignalName(status.Signal()))
	case status.ExitStatus() != 0:
		return fmt.Errorf("exit status %d", status.ExitStatus())
	}
	return nil
}
