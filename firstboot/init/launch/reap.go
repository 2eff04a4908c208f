package launch

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Reaper waits for every process that ends: the ones started through it and, as PID 1 must, orphans of others. It is
// the only one in the program that waits: nothing else may use os/exec.
type Reaper struct {
	mu      sync.Mutex // held from before a fork until its process is known, so that no end is missed
	running map[int]chan<- unix.WaitStatus
}

// Process is a started process.
type Process struct {
	Result
	Done <-chan unix.WaitStatus // delivers how it ended, once
}

// NewReaper returns a reaper that knows no process; Run makes it work.
func NewReaper() *Reaper { return &Reaper{running: map[int]chan<- unix.WaitStatus{}} }

// Start starts a command.
func (r *Reaper) Start(c Command) (*Process, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	result, err := forkExec(c)
	if err != nil {
		return nil, err
	}
	done := make(chan unix.WaitStatus, 1)
	r.running[result.PID] = done
	return &Process{Result: result, Done: done}, nil
}

// Run reaps until ctx is done.
func (r *Reaper) Run(ctx context.Context) {
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGCHLD)
	defer signal.Stop(ended)
	for {
		r.reap()
		select {
		case <-ended:
		case <-ctx.Done():
			return
		}
	}
}

// reap waits for all that have ended by now: signals of several merge into one.
func (r *Reaper) reap() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, unix.WNOHANG, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
		if done, ok := r.running[pid]; ok {
			delete(r.running, pid)
			done <- status
		}
	}
}

// Signal sends a signal to a process that Start started, or to its whole group; one that has been reaped is left
// alone, since its number may be another's by now.
func (r *Reaper) Signal(pid int, sig syscall.Signal, group bool) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.running[pid]; !ok {
		return os.ErrProcessDone
	}
	if group {
		pid = -pid
	}
	return unix.Kill(pid, sig)
}
