package launch

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Reaper waits for every process that ends: the ones started through it and, as PID 1 must, orphans of others. It is
// the only one in the program that waits: nothing else may use os/exec.
type Reaper struct {
	mu      sync.Mutex // held from before a fork until its process is known, so that no end is missed
	running map[int]chan<- unix.WaitStatus
	pinned  map[string]int // see pin
}

// Process is a started process.
type Process struct {
	Result
	Done <-chan unix.WaitStatus // delivers how it ended, once
}

// NewReaper returns a reaper that knows no process; Run makes it work.
func NewReaper() *Reaper {
	return &Reaper{running: map[int]chan<- unix.WaitStatus{}, pinned: map[string]int{}}
}

// Start starts a command.
func (r *Reaper) Start(c Command) (*Process, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c.Confine {
		r.pin(c)
	}
	result, err := forkExec(c)
	if err != nil {
		return nil, err
	}
	done := make(chan unix.WaitStatus, 1)
	r.running[result.PID] = done
	return &Process{Result: result, Done: done}, nil
}

// pin keeps a reference to every path of procfs that a rule of Landlock names. A rule holds an inode, and procfs makes
// a new inode for the same path once memory was short and the old name was dropped from the dentry cache
// (fs/proc/proc_sysctl.c proc_sys_lookup): a confined child would lose its sysctls in the very moment memory is short.
// An open descriptor keeps the name, and so the inode. Paths come from the children's specs, so there are few.
func (r *Reaper) pin(c Command) {
	for _, path := range slices.Concat(c.Read, c.Write) {
		if _, ok := r.pinned[path]; ok || !strings.HasPrefix(path, "/proc/") {
			continue
		}
		if fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0); err == nil {
			r.pinned[path] = fd
		}
	}
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
