// Package child is the contract between PID 1 and the programs it supervises. A child is a function in the firstboot
// binary that PID 1 runs in a process of its own, with its own user id, capabilities and Landlock rules; when it
// dies it is started again.
//
// What it deliberately does not do: start, confine or restart anything; that is package init's.
package child

import (
	"context"
	"log/slog"

	"rempart/firstboot/contract"
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
	// Needed tells whether there is anything for the child to do in this guest; nil: always. One that is not needed is
	// done without ever having been started. PID 1 asks before each start, and again when the profile has changed; root
	// is as in Env.
	Needed func(root string) bool
	// Own are directories that PID 1 makes (mode 0755, on tmpfs) and gives to UID before the child starts, so that
	// what it keeps there outlives its restarts. They are writable without being named in Write again.
	Own []string
	// Shared are directories that PID 1 makes after Own, for files of which each is for one other child to read.
	Shared []GroupDir
	// Landlock: the only paths the process may touch. Missing ones are left out.
	Read, Write []string
	// Exec are programs and libraries the process may read and execute, besides firstboot itself.
	Exec []string
	// Places returns further folders that the process may write to and execute, of which the profile decides; nil: none.
	// What is a link there, or no folder, is left out.
	Places func(root string) (write, exec []string)
	// Devices returns device nodes that PID 1 gives to UID before each start and takes back when the process has
	// ended; they may be read and written without being named again. root is as in Env; nil: none.
	Devices func(root string) []string
	// Console gives the process the console as standard output instead of the log.
	Console bool
	// Feed gives the process the guest's report, at the start and each time it changes: Env.Reports.
	Feed bool
	// Lines gives the process every line of the guest's log as it is said: Env.Lines. One child may have it.
	Lines bool
	// Follows is set for a child that does what the profile says: when the profile changes, the context of Run is
	// done, Run must return soon and with its work left as it is, and is called again in the same process with the
	// new one.
	Follows bool
	// AfterReady holds the start back until the guest was READY once. Such a child is no condition of READY.
	AfterReady bool
	// Files is how many files and sockets the process may have open; 0: 512.
	Files uint64
	// OOMScore is oom_score_adj, -1000 to 1000; higher dies first.
	OOMScore int
	// MemoryLimit is GOMEMLIMIT in bytes. All that the process, what it starts and the kernel for it take is bounded a
	// little above by its control group; 0: a share of the machine, for what grows with the profile or with a disk.
	MemoryLimit int64
	// GCPercent is GOGC: how much garbage, in per cent of what is in use, lies about before it is collected; 0: 100, which
	// is Go's choice. Less is for a child with a lot in use for a moment, in a machine that has little.
	GCPercent int
}

// GroupDir is a directory on tmpfs that belongs to the child's user and to another's group, mode 2750: what the child
// puts there gets that group (inode(7), S_ISGID), without the child having the right to give files away.
type GroupDir struct {
	Path  string
	Group uint32
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
	// "scrubbed" (bool), "state" (StateResult), "disks" ([]DiskResult), "request" (Request), "identity"
	// (identity.Facts), "warning" (string), "failure" (string). Values are encoded as JSON. A later value of
	// the same key from the same child replaces the earlier; an empty string takes a warning or failure back. PID 1 takes
	// a key only from the child whose business it is.
	Tell func(key string, value any)
	// Reports delivers the report to a child with Spec.Feed, the newest only; nil otherwise. It is closed when PID 1
	// is gone.
	Reports <-chan contract.Report
	// Lines delivers the guest's log to a child with Spec.Lines, nil otherwise. It is closed when PID 1 is gone.
	Lines <-chan Line
}

// Line is one line of the guest's log on its way from PID 1 to the child with Spec.Lines.
type Line struct {
	Time     int64  `json:"time"`     // microseconds of the wall clock since 1970
	Uptime   int64  `json:"uptime"`   // microseconds of CLOCK_BOOTTIME
	Severity int    `json:"severity"` // RFC 5424, 0 to 7
	From     string `json:"from"`     // child, or "init"; empty: there is no line, only Lost
	Text     string `json:"text"`
	Lost     int    `json:"lost,omitempty"` // lines before this one that PID 1 could not keep
}

// StateResult is what the state child tells under KeyState.
type StateResult struct {
	Device string `json:"device"` // kernel name of the disk; empty: none
	// Action is an action of contract.StateReport: after "mounted", "formatted" and "reformatted" PID 1 mounts.
	Action string `json:"action"`
	Bytes  int64  `json:"bytes"` // size the filesystem is to be grown to once it is mounted; 0: large enough
	Error  string `json:"error,omitempty"`
}

// DiskResult is what the disks child tells of one data disk, in a list under KeyDisks.
type DiskResult struct {
	Name string `json:"name"`
	StateResult
}

// Request is what the control and admin children tell under KeyRequest: what the host, the power button or an
// administrator asks for.
type Request struct {
	Verb   string `json:"verb"` // "poweroff", "reboot", "confinement", "kill", "apply", "confirm", "undo"
	Child  string `json:"child,omitempty"`
	Signal int    `json:"signal,omitempty"`
	// Of apply, which takes the profile at contract.ProposalPath: after how many seconds it is undone unless
	// confirmed.
	Seconds int `json:"seconds,omitempty"`
	// Of apply, confirm and undo: a number for contract.LiveReport's Answer, above that of every earlier request.
	Number uint64 `json:"number,omitempty"`
}

// Keys of Env.Tell.
const (
	KeyPolicy   = "policy"
	KeyLinks    = "links"
	KeyScrubbed = "scrubbed"
	KeyState    = "state"
	KeyDisks    = "disks"
	KeyRequest  = "request"
	KeyIdentity = "identity"
	KeyWarning  = "warning"
	KeyFailure  = "failure"
)
