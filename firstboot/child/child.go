// Package child is the contract between PID 1 and the programs it supervises. A child is a function in the firstboot
// binary that PID 1 runs in a process of its own, with its own user id, capabilities and Landlock rules; when it
// dies it is started again.
//
// What it deliberately does not do: start, confine or restart anything; that is package init's.
package child

import (
	"context"
	"log/slog"

	"rempart/profiles"
)

// Spec describes one child.
type Spec struct {
	Name string
	// Run does the work. It calls Env.Ready once its job holds, returns nil when it is done for good (a task), and
	// blocks until ctx is done when it is a daemon. An error or a panic ends the process; PID 1 restarts it.
	Run func(ctx context.Context, env *Env) error
	// Task is set for a child that ends by itself; ending well is not a reason to start it again.
	Task bool
	// After names children that must be ready (daemons) or done (tasks) before this one starts. When one of them
	// fails this child waits, and what it would have opened stays closed.
	After []string
	UID   uint32    // user and group id of the process; 0 only where the kernel demands it
	Caps  []uintptr // unix.CAP_*; all others are dropped from every set
	// Own are directories that PID 1 makes (mode 0755, on tmpfs) and gives to UID before the child starts, so that
	// what it keeps there outlives its restarts. They are writable without being named in Write again.
	Own []string
	// Landlock: the only paths the process may touch. Missing ones are left out.
	Read, Write []string
	// OOMScore is oom_score_adj, -1000 to 1000; higher dies first.
	OOMScore int
	// MemoryLimit is GOMEMLIMIT in bytes; 0: none.
	MemoryLimit int64
}

// Env is what a child is given.
type Env struct {
	Profile *profiles.Profile
	Log     *slog.Logger // to the console and the log, prefixed with the child's name
	// Root is "/" in a guest and a temporary directory in tests: every path of files is below it.
	Root string
	// Ready tells PID 1 that the job holds (again). Calling it more than once is harmless.
	Ready func()
	// Tell sends PID 1 a value for the report: keys are "policy" (string), "links" ([]contract.LinkReport),
	// "scrubbed" (bool), "warning" (string), "failure" (string). Values are encoded as JSON. A later value of the
	// same key from the same child replaces the earlier.
	Tell func(key string, value any)
}
