// Package pid1 is firstboot as PID 1: it mounts, loads modules, starts the children, keeps them running, reaps what
// ends and stops everything in order. It reads no byte that comes from outside the guest: what children tell is
// bounded and checked, and the children do the rest.
//
// Nothing that fails makes it exit or panic. Each step that fails is a line of the report; what depends on it stays
// closed; the console says what and why.
//
// What it deliberately does not do: touch the network, decode anybody's protocol, or answer an error by a reboot.
package pid1

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"rempart/firstboot/boottime"
	"rempart/firstboot/child"
	"rempart/firstboot/cmdline"
	"rempart/firstboot/contract"
	"rempart/firstboot/init/cgroup"
	"rempart/firstboot/init/launch"
	"rempart/firstboot/init/supervise"
	"rempart/firstboot/state"
	"rempart/profiles"
)

// memoryLimit is the Go heap PID 1 tries to live in, in bytes: it holds a few reports and pipes.
const memoryLimit = 10 << 20

// gcPercent is GOGC of PID 1 and of children. They do little and there are many: at Go's own 100 each would let four
// MiB of garbage gather before it looks for any.
const gcPercent = 50

// Options are what a guest is made of; Run fills none in.
type Options struct {
	Root     string       // "/"; in tests a temporary directory
	Program  string       // the firstboot binary, started as "PROGRAM child NAME"
	Specs    []child.Spec // the children
	Env      []string     // more of what children find in their environment; for tests
	Console  io.Writer    // may block; lines are dropped rather than waited for
	Confine  bool         // lay uid, capabilities and Landlock on the children; unset only in tests without root
	Timing   supervise.Timing
	System   System
	Settling time.Duration // after this long a guest that is not READY has FAILED
}

// System is what PID 1 does to the machine, replaced in tests.
type System struct {
	Mount  func(source, target, fstype string, flags uintptr, data string) error
	Reboot func(cmd int) error
	// Share has the kernel hold users to their part of the filesystem mounted at dir from node; Reshare changes that.
	Share   func(dir, node string, limits []state.Limit) error
	Reshare func(node string, limits []state.Limit) error
}

// DefaultSettling allows for a slow emulated machine and a DHCP server that needs a few tries.
const DefaultSettling = 45 * time.Second

// guest is a running guest.
type guest struct {
	Options
	log     *slog.Logger
	console *console
	reaper  *launch.Reaper
	sup     *supervise.Supervisor
	boot    contract.Boot
	inject  map[string]child.Injection
	groups  *cgroup.Tree // nil: the kernel has none, or a test's guest
	begun   time.Time

	changed  chan struct{}      // something the report tells of has changed
	requests chan child.Request // from the control child
	// liveRequests are those that change the profile, for keepLive.
	liveRequests chan child.Request

	seedMutex sync.Mutex // held while a seed is written to /var, and while /var is taken off
	stateLeft bool       // /var is, or is about to be, off
	shared    bool       // the kernel holds children to their shares of /var

	mu       sync.Mutex
	profile  *profiles.Profile // replaced as a whole, once the identity is known
	facts    facts
	landlock map[string]int    // version laid on each child when it was last started; 0: none
	feeds    map[string]*feed  // of children that want reports
	holds    map[string]string // for which profile each child says its job holds, by digest
	heard    chan struct{}     // closed and replaced when a child said so, or that it failed
	report   []byte            // the newest report, encoded
}

// Run is PID 1. It returns only when the machine could not even be switched off.
func Run(o Options) {
	runtime.LockOSThread() // the first thread of PID 1 must stay what /proc/1 shows
	debug.SetMemoryLimit(memoryLimit)
	debug.SetGCPercent(gcPercent)
	signals := make(chan os.Signal, 8)
	// SIGINT is what Ctrl-Alt-Del becomes; the others are what /sbin/poweroff, reboot and halt send.
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGPWR)
	signal.Ignore(syscall.SIGHUP, syscall.SIGPIPE)
	g := newGuest(o)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	g.run(ctx)
	g.stop(g.waitForStop(signals))
}

func newGuest(o Options) *guest {
	c := newConsole(o.Console)
	return &guest{Options: o, console: c, log: slog.New(c.handler("init")), reaper: launch.NewReaper(), begun: time.Now(),
		changed: make(chan struct{}, 1), requests: make(chan child.Request, 4), feeds: map[string]*feed{},
		liveRequests: make(chan child.Request, 1), holds: map[string]string{}, heard: make(chan struct{}),
		landlock: map[string]int{}, profile: &profiles.Profile{},
		facts: newFacts()}
}

// run makes the guest: every step is tried, whatever became of the ones before.
func (g *guest) run(ctx context.Context) {
	g.facts.times.Init = boottime.Now().Seconds()
	g.guarded("init", func() error { return unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0) })
	go g.forever("reaper", func() { g.reaper.Run(ctx) })
	g.step("mounts", g.mountAll)
	g.step("memory", g.protect)
	g.warn("control groups", g.makeGroups)
	g.step("profile", g.readProfile)
	g.step("name", g.setName)
	g.step("boot stage", g.readBoot)
	g.step("command line", g.readInjections)
	g.warn("devices", func() error { return g.listenPlugged(ctx) }) // first: none may come between the two
	g.warn("modules", func() error { return loadModules(g.Root) })
	g.warn("sysctl", func() error { return setSysctls(g.Root) })
	g.step("directories of children", g.makeDirs)
	g.step("children", g.startChildren)
	pending := &change{}
	go g.forever("live changes", func() { g.keepLive(ctx, pending) })
	go g.forever("report", func() { g.keepReport(ctx) })
}

// makeDirs makes what children may read that start before the one that writes there: Landlock lets them see nothing
// that is not there when they start.
func (g *guest) makeDirs() error {
	var failed []error
	for _, dir := range []string{contract.LiveDir, contract.LinkDir, contract.ListsDir, contract.TimeDir,
		contract.DownstreamDir} {
		failed = append(failed, os.MkdirAll(filepath.Join(g.Root, dir), 0o755))
	}
	return errors.Join(failed...)
}

// step does one thing and keeps its failure for the report.
func (g *guest) step(name string, do func() error) {
	if err := g.guarded(name, do); err != nil {
		g.log.Error(name+" failed", "error", err)
		g.fact(func(f *facts) { f.failures["init: "+name] = oneLine(err.Error()) })
	}
}

// warn does one thing the guest can be READY without.
func (g *guest) warn(name string, do func() error) {
	if err := g.guarded(name, do); err != nil {
		g.log.Warn(name, "error", err)
		g.fact(func(f *facts) { f.warnings["init: "+name] = oneLine(err.Error()) })
	}
}

// guarded turns a panic into an error.
func (g *guest) guarded(name string, do func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			g.log.Error("fault in PID 1", "in", name, "panic", p, "stack", string(debug.Stack()))
			err = fmt.Errorf("a fault in PID 1 itself: %v", p)
		}
	}()
	return do()
}

// forever runs something that should not end before its context; a panic in it is reported and it is run again.
func (g *guest) forever(name string, do func()) {
	for g.guarded(name, func() error { do(); return nil }) != nil {
		time.Sleep(time.Second)
	}
}

func (g *guest) mountAll() error {
	if g.Root != "/" {
		return nil // a test's root is not ours to mount over
	}
	return mountAll(g.Root)
}

func (g *guest) readProfile() error {
	p, digest, err := child.ReadProfile(g.Root)
	if err != nil {
		return err
	}
	g.mu.Lock()
	g.profile = p
	g.facts.live.Profile, g.facts.live.Master = digest, digest
	g.mu.Unlock()
	return nil
}

func (g *guest) setName() error {
	g.mu.Lock()
	name := g.profile.Name
	g.mu.Unlock()
	if g.Root != "/" || name == "" {
		return nil
	}
	if err := unix.Sethostname([]byte(name)); err != nil {
		return fmt.Errorf("host name %q: %w", name, err)
	}
	return nil
}

func (g *guest) readBoot() error {
	b, err := os.ReadFile(filepath.Join(g.Root, contract.BootPath))
	if err != nil {
		return fmt.Errorf("what the boot stage found: %w", err)
	}
	if err := json.Unmarshal(b, &g.boot); err != nil {
		return fmt.Errorf("what the boot stage found: %s: %w", contract.BootPath, err)
	}
	return nil
}

func (g *guest) readInjections() error {
	b, err := os.ReadFile(filepath.Join(g.Root, "proc/cmdline"))
	if err != nil {
		return err
	}
	spec, _, err := cmdline.Parse(string(b)).One(contract.KeyInject)
	if err != nil {
		return err
	}
	if g.inject, err = child.ParseInjections(spec); err != nil {
		g.log.Warn("kernel command line", "error", err)
	}
	return nil
}

func (g *guest) startChildren() error {
	sup, err := supervise.New(g.Specs, g.Timing, g.log, g.startChild, g.childEnded, g.poke)
	if err != nil {
		return err
	}
	g.mu.Lock()
	g.sup = sup
	g.mu.Unlock()
	sup.Start()
	return nil
}

// poke asks for a new report. It never blocks: the supervisor calls it under its lock.
func (g *guest) poke() {
	select {
	case g.changed <- struct{}{}:
	default:
	}
}

// fact changes what is known.
func (g *guest) fact(change func(f *facts)) {
	g.mu.Lock()
	change(&g.facts)
	g.mu.Unlock()
	g.poke()
}
