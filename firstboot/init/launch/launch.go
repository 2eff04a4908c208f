// Package launch starts the processes of PID 1 with the rights each needs and no more, and reaps them: user id,
// capabilities, no_new_privs, Landlock. Everything is laid on a thread of its own before the fork, so the new program
// never runs a single instruction unconfined, and the thread is thrown away.
//
// What it deliberately does not do: decide when to start what, or what it may do.
package launch

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"

	"rempart/firstboot/init/cgroup"
)

// Command is a program to start.
type Command struct {
	Path  string
	Args  []string // with the name the program sees first
	Env   []string
	Files []*os.File // file descriptors from 0 on; each must be open
	// Confine lays on what follows; unset, the program keeps the rights of who starts it, which tests without root need.
	Confine bool
	UID     uint32    // user and group id; no supplementary groups
	Caps    []uintptr // the only capabilities, in every set
	// Group is the control group it is born in; nil: that of who starts it.
	Group *cgroup.Group
	// Paths the program may use at all, when Landlock is there. Missing ones are left out.
	Read, Write, Exec []string
}

// Result tells what of the confinement could be had.
type Result struct {
	PID      int
	Landlock int // ABI version; 0: the kernel has none, paths are held by user ids only
}

// lastCap bounds the walk over capabilities: the kernel knows at most 63.
const lastCap = 63

// forkExec starts the command on a thread of its own and returns the process id.
func forkExec(c Command) (Result, error) {
	type answer struct {
		Result
		error
	}
	done := make(chan answer, 1)
	go func() {
		// Never unlocked: the runtime ends a thread whose goroutine ends locked, and with it all it was made unable to do.
		runtime.LockOSThread()
		var a answer
		if unix.Gettid() == unix.Getpid() {
			// Not the main thread, which the runtime cannot end: held here, it leaves the work to another.
			a.Result, a.error = forkExec(c)
			runtime.UnlockOSThread()
		} else {
			a.Result, a.error = forkHere(c)
		}
		done <- a
	}()
	a := <-done
	return a.Result, a.error
}

func forkHere(c Command) (r Result, err error) {
	attr := &syscall.ProcAttr{Env: c.Env, Dir: "/", Files: make([]uintptr, len(c.Files)),
		Sys: &syscall.SysProcAttr{Setpgid: true}}
	for i, f := range c.Files {
		attr.Files[i] = f.Fd()
	}
	if c.Group != nil {
		dir, err := c.Group.Open()
		if err != nil {
			return r, fmt.Errorf("starting %s in its control group: %w", c.Path, err)
		}
		defer dir.Close()
		attr.Sys.UseCgroupFD, attr.Sys.CgroupFD = true, int(dir.Fd())
	}
	if c.Confine {
		if r.Landlock, err = confineThread(c); err != nil {
			return r, fmt.Errorf("confining %s: %w", c.Args, err)
		}
		attr.Sys.Credential = &syscall.Credential{Uid: c.UID, Gid: c.UID}
		attr.Sys.AmbientCaps = c.Caps
	}
	if r.PID, err = syscall.ForkExec(c.Path, c.Args, attr); err != nil {
		return r, fmt.Errorf("starting %s: %w", c.Path, err)
	}
	runtime.KeepAlive(c.Files)
	return r, nil
}

// Bits of PR_SET_SECUREBITS (<linux/securebits.h>): user id 0 gains nothing by itself, for ever.
const (
	secbitNoRoot       = 1 << 0
	secbitNoRootLocked = 1 << 1
)

// confineThread takes from this thread what the program must not have. Only the calls that need privilege the child
// is still to use (setgid, setuid, raising ambient capabilities) are left to the fork.
func confineThread(c Command) (landlock int, err error) {
	keep := map[uintptr]bool{}
	for _, n := range c.Caps {
		keep[n] = true
	}
	if err := unix.Prctl(unix.PR_SET_SECUREBITS, secbitNoRoot|secbitNoRootLocked, 0, 0, 0); err != nil {
		return 0, fmt.Errorf("setting the secure bits: %w", err)
	}
	for n := uintptr(0); n <= lastCap; n++ {
		if keep[n] {
			continue
		}
		err := unix.Prctl(unix.PR_CAPBSET_DROP, n, 0, 0, 0)
		if errors.Is(err, unix.EINVAL) {
			break // beyond the last capability of this kernel
		}
		if err != nil {
			return 0, fmt.Errorf("dropping capability %d: %w", n, err)
		}
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return 0, fmt.Errorf("forbidding new privileges: %w", err)
	}
	return restrict(c)
}
