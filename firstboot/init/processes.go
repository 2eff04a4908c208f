package pid1

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"rempart/firstboot/child"
	"rempart/firstboot/contract"
	"rempart/firstboot/contract/identity"
	"rempart/firstboot/init/launch"
	"rempart/firstboot/init/supervise"
)

// startChild starts one child's process; supervise calls it.
func (g *guest) startChild(spec child.Spec, starts int) (*supervise.Process, error) {
	if spec.Needed != nil && !spec.Needed(g.Root) {
		return nil, supervise.ErrNotNeeded
	}
	devices, err := g.give(spec)
	if err != nil {
		return nil, err
	}
	pipes, err := openPipes(spec)
	if err != nil {
		g.takeBack(devices)
		return nil, fmt.Errorf("pipes for child %s: %w", spec.Name, err)
	}
	defer pipes.closeTheirs()
	stdout := pipes.logW
	if spec.Console {
		if console, err := os.OpenFile(filepath.Join(g.Root, "dev/console"), os.O_WRONLY|syscall.O_NOCTTY, 0); err == nil {
			defer console.Close()
			stdout = console
		}
	}
	files := []*os.File{pipes.null, stdout, pipes.logW, pipes.tellW}
	if spec.Feed {
		files = append(files, pipes.feedR)
	}
	if spec.Lines {
		files = append(files, pipes.lineR)
	}
	group, most := g.group(spec)
	killed := kills(group)
	write, exec := slices.Concat([]string{"/dev/null"}, spec.Write, spec.Own, devices), spec.Exec
	if spec.Places != nil {
		more, run := spec.Places(g.Root)
		write, exec = slices.Concat(write, folders(more)), slices.Concat(exec, folders(run))
	}
	p, err := g.reaper.Start(launch.Command{
		Path: g.Program, Args: []string{"firstboot", "child", spec.Name}, Files: files,
		Env:     g.environment(spec, starts, most),
		Confine: g.Confine, UID: spec.UID, Caps: spec.Caps,
		Read: slices.Concat([]string{filepath.Join(g.Root, contract.ProfilePath), filepath.Join(g.Root, contract.LiveDir),
			filepath.Join(g.Root, identity.FactsPath)}, spec.Read),
		Write: write, Exec: exec, Group: group,
	})
	if err != nil {
		pipes.closeOurs()
		g.takeBack(devices)
		return nil, err
	}
	if g.Confine {
		score := filepath.Join(g.Root, "proc", strconv.Itoa(p.PID), "oom_score_adj")
		if err := os.WriteFile(score, []byte(strconv.Itoa(spec.OOMScore)), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
			g.log.Warn("child keeps PID 1's protection from running out of memory", "child", spec.Name, "error", err)
		}
		g.mu.Lock()
		g.landlock[spec.Name] = p.Landlock
		g.mu.Unlock()
		if p.Landlock == 0 {
			g.fact(func(f *facts) {
				f.warnings["init: landlock"] = "the kernel has no Landlock: children are confined by user id and capabilities only"
			})
		}
	}
	ready := make(chan struct{}, 1)
	go g.guardedReader(spec, "log", func() { g.readLog(spec, pipes.logR) })
	heard := make(chan struct{})
	go func() {
		defer close(heard)
		g.guardedReader(spec, "messages", func() { g.readTold(spec, pipes.tellR, ready) })
	}()
	var fd *feed
	if spec.Feed {
		fd = g.addFeed(spec.Name, pipes.feedW)
	}
	over := make(chan struct{})
	if spec.Lines {
		go g.guardedReader(spec, "lines", func() { defer pipes.lineW.Close(); g.console.book.copyTo(pipes.lineW, over) })
	}
	return &supervise.Process{PID: p.PID, Done: p.Done, Ready: ready,
		Signal: func(sig syscall.Signal, group bool) error { return g.reaper.Signal(p.PID, sig, group) },
		Why: func(err error) error {
			if err == nil || kills(group) == killed {
				return err
			}
			return fmt.Errorf("%w: memory ran out, of which it may take %d MiB", err, most>>20)
		},
		Ended: func() {
			_ = syscall.Kill(-p.PID, syscall.SIGKILL) // whatever it started ends with it
			if group != nil {
				_ = group.Kill() // and what left its process group
			}
			// Its last words may still be in the pipe; nobody else can hold that open for long.
			select {
			case <-heard:
			case <-time.After(lastWords):
			}
			if fd != nil {
				g.removeFeed(spec.Name, fd)
			}
			close(over)
			g.takeBack(devices)
		}}, nil
}

// maxProcs is how many processors a child uses at most: each costs memory, and none of them has work for more.
const maxProcs = 2

// environment holds no secret: it can be read by whoever takes the child over.
func (g *guest) environment(spec child.Spec, starts int, most int64) []string {
	env := []string{"PATH=/sbin:/bin", "HOME=/", "GOMAXPROCS=" + strconv.Itoa(min(maxProcs, runtime.NumCPU())),
		"GOGC=" + strconv.Itoa(gcPercent),
		"GOTRACEBACK=single", child.EnvRoot + "=" + g.Root}
	env = append(env, g.Env...)
	if limit := heapLimit(spec, most); limit != "" {
		env = append(env, "GOMEMLIMIT="+limit)
	}
	in := g.inject[spec.Name]
	in.Panic, in.Hog = in.Panic && starts == 0, in.Hog && starts == 0
	if word := in.String(spec.Name); word != "" {
		env = append(env, child.EnvInject+"="+word)
	}
	return env
}

// give makes a child's own directories and gives it its devices. It returns the device nodes.
func (g *guest) give(spec child.Spec) (devices []string, err error) {
	for _, dir := range spec.Own {
		dir = filepath.Join(g.Root, dir)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, fmt.Errorf("directory of child %s: %w", spec.Name, err)
		}
		if g.Confine {
			if err := os.Lchown(dir, int(spec.UID), int(spec.UID)); err != nil {
				return nil, fmt.Errorf("directory of child %s: %w", spec.Name, err)
			}
		}
	}
	for _, d := range spec.Shared {
		if err := g.share(spec, d); err != nil {
			return nil, fmt.Errorf("directory of child %s: %w", spec.Name, err)
		}
	}
	if spec.Devices == nil {
		return nil, nil
	}
	for _, node := range spec.Devices(g.Root) {
		if g.Confine {
			if err := os.Lchown(node, int(spec.UID), int(spec.UID)); err != nil {
				g.log.Warn("device not given to child", "child", spec.Name, "error", err)
				continue
			}
		}
		devices = append(devices, node)
	}
	return devices, nil
}

// share makes one directory of Spec.Shared.
func (g *guest) share(spec child.Spec, d child.GroupDir) error {
	dir := filepath.Join(g.Root, d.Path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if g.Confine {
		if err := os.Lchown(dir, int(spec.UID), int(d.Group)); err != nil {
			return err
		}
	}
	return os.Chmod(dir, os.ModeSetgid|0o750) // after the owner: changing that clears the bit
}

func (g *guest) takeBack(devices []string) {
	for _, node := range devices {
		if g.Confine {
			_ = os.Lchown(node, 0, 0) // a device that is gone needs no owner
		}
	}
}

// pipes connect a child: the R and W ends that are its own are closed here once it runs.
type pipes struct {
	null, logR, logW, tellR, tellW, feedR, feedW, lineR, lineW *os.File
}

func openPipes(spec child.Spec) (p pipes, err error) {
	defer func() {
		if err != nil {
			p.closeOurs()
			p.closeTheirs()
		}
	}()
	if p.null, err = os.Open(os.DevNull); err != nil {
		return p, err
	}
	if p.logR, p.logW, err = os.Pipe(); err != nil {
		return p, err
	}
	if p.tellR, p.tellW, err = os.Pipe(); err != nil {
		return p, err
	}
	if spec.Feed {
		if p.feedR, p.feedW, err = os.Pipe(); err != nil {
			return p, err
		}
	}
	if spec.Lines {
		if p.lineR, p.lineW, err = os.Pipe(); err == nil {
			// One page: what is in the pipe when the child dies is lost, what waits in PID 1 is not.
			_, err = unix.FcntlInt(p.lineW.Fd(), unix.F_SETPIPE_SZ, os.Getpagesize())
		}
	}
	return p, err
}

func (p *pipes) closeTheirs() { closeAll(p.null, p.logW, p.tellW, p.feedR, p.lineR) }
func (p *pipes) closeOurs()   { closeAll(p.logR, p.tellR, p.feedW, p.lineW) }

func closeAll(files ...*os.File) {
	for _, f := range files {
		if f != nil {
			f.Close()
		}
	}
}

// guardedReader runs a reader of a pipe; a fault in it is reported and costs the child its connection, not PID 1.
func (g *guest) guardedReader(spec child.Spec, what string, read func()) {
	_ = g.guarded(what+" of "+spec.Name, func() error { read(); return nil })
}

// Rates a child may write lines at; beyond, PID 1 reads slower and the child waits in its own write.
const (
	burst  = 200
	window = time.Second
)

// readLines calls f for each line, cut at most bytes, until the pipe ends, no faster than the rate.
func readLines(r io.ReadCloser, most int, f func(line []byte, cut bool)) {
	defer r.Close()
	in := bufio.NewReaderSize(r, most)
	count, since := 0, time.Now()
	for {
		line, cut, err := in.ReadLine()
		if err != nil {
			return
		}
		f(line, cut)
		for cut && err == nil {
			_, cut, err = in.ReadLine()
		}
		if count++; count >= burst {
			if rest := window - time.Since(since); rest > 0 {
				time.Sleep(rest)
			}
			count, since = 0, time.Now()
		}
	}
}

// logBuffer bounds one line of a log as read; printable cuts further.
const logBuffer = 4096

func (g *guest) readLog(spec child.Spec, r io.ReadCloser) {
	readLines(r, logBuffer, func(line []byte, _ bool) { g.console.tell(spec.Name, printable(line)) })
}

func (g *guest) readTold(spec child.Spec, r io.ReadCloser, ready chan<- struct{}) {
	said := map[string]bool{} // by this process, not by its predecessor
	readLines(r, child.MaxLine, func(line []byte, cut bool) {
		m, err := child.DecodeMessage(line)
		if cut || err != nil {
			g.log.Warn("child told something PID 1 does not take", "child", spec.Name, "error", err, "cut", cut)
			return
		}
		if m.Ready {
			for _, key := range []string{child.KeyFailure, child.KeyWarning} {
				if !said[key] {
					g.forget(spec.Name, key)
				}
			}
			g.hear(spec.Name, m.Profile)
			select {
			case ready <- struct{}{}:
			default:
			}
			return
		}
		if err := g.told(spec.Name, m); err != nil {
			g.log.Warn("child told something PID 1 does not take", "child", spec.Name, "error", err)
			return
		}
		if m.Key == child.KeyFailure || m.Key == child.KeyWarning {
			said[m.Key] = true
		}
	})
}
