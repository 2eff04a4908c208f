// Package logging keeps the guest's log: what the children and PID 1 say, what the kernel says (with it what the policy
// logs), and when the guest became READY or FAILED. It is bounded on the state disk, or in memory where there is none,
// and other children follow it live through a socket.
//
// No source can fill it: each has a rate, and what is above is counted instead of kept. What it deliberately does not
// do: send anything anywhere (package syslog does), or decide who may read it beyond the user ids named here.
package logging

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"rempart/firstboot/boottime"
	"rempart/firstboot/child"
	"rempart/firstboot/contract"
	"rempart/firstboot/logging/segment"
	"rempart/profiles"
)

// How much log is kept in memory, in bytes; on a disk it is what profiles.LogRoom says.
const (
	mostInMemory = 512 << 10 // of a /var in memory
	inSpare      = 256 << 10 // in /run, when /var cannot be written
)

// Spec is the child.
func Spec() child.Spec {
	return child.Spec{
		Name:  "log",
		Run:   run,
		After: []string{"state", "disks"},
		UID:   contract.UIDLog,
		// Reading /dev/kmsg where dmesg is restricted (kernel.dmesg_restrict).
		Caps:        []uintptr{unix.CAP_SYSLOG},
		Own:         []string{contract.LogRunDir},
		Read:        []string{"/dev/kmsg"},
		Write:       []string{contract.LogDir},
		Places:      places,
		Feed:        true,
		Lines:       true,
		OOMScore:    300,
		MemoryLimit: 8 << 20,
	}
}

// Times of the child.
const (
	syncEvery = 10 * time.Second // what a power cut costs at most
	syncSoon  = time.Second      // after an error or worse
)

func run(ctx context.Context, env *child.Env) error {
	store, err := segment.Open(place(env.Root, env.Profile),
		segment.Place{Dir: filepath.Join(env.Root, contract.LogRunDir, "spare"), Bytes: inSpare})
	if store == nil {
		return err
	}
	defer store.Close()
	k := &keeper{env: env, store: store, meters: map[string]*meter{}, now: boottime.Now}
	if err != nil {
		k.moved(err)
	}
	listener, err := entrance(env.Log).Listen(filepath.Join(env.Root, contract.LogSocket))
	if err != nil {
		return err
	}
	first, err := firstOfStart(filepath.Join(env.Root, contract.LogRunDir, "first"), store.Next())
	if err != nil {
		return err
	}
	go serve(ctx, listener, store, first, env.Log)
	kernel := openKernel(ctx, env)
	env.Ready()
	return k.keep(ctx, kernel)
}

// places is where the log is kept on a data disk.
func places(root string) (write, exec []string) {
	if p, _, err := child.ReadProfile(root); err == nil {
		if dir := onDisk(root, p); dir != "" {
			write = []string{dir}
		}
	}
	return write, nil
}

// onDisk is the folder of the log on the data disk that a profile names; empty: it names none.
func onDisk(root string, p *profiles.Profile) string {
	if d := p.Disk(p.Logging.Disk); d != nil {
		return filepath.Join(root, d.Mount, contract.DataLog)
	}
	return ""
}

// place is where the log is kept: on the data disk that the profile names, else on the state disk. PID 1 makes the
// folder on a data disk when it has mounted it; without the disk there is none.
func place(root string, p *profiles.Profile) segment.Place {
	if dir := onDisk(root, p); dir != "" {
		if info, err := os.Lstat(dir); err == nil && info.IsDir() {
			return segment.Place{Dir: dir, Bytes: profiles.LogRoomOnDisk(sizeOf(dir))}
		}
	}
	return segment.Place{Dir: filepath.Join(root, contract.LogDir), Bytes: bound(filepath.Join(root, contract.StateDir))}
}

func sizeOf(dir string) int64 {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return 0
	}
	return int64(fs.Blocks) * fs.Bsize
}

// firstOfStart returns the number that the first entry had, or will have, since the guest started: the first process
// of this child in a guest leaves it in a file in memory.
func firstOfStart(file string, next uint64) (uint64, error) {
	b, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return next, os.WriteFile(file, strconv.AppendUint(nil, next, 10), 0o600)
	}
	if err != nil {
		return 0, err
	}
	return strconv.ParseUint(string(b), 10, 64)
}

// bound is how much log a filesystem is given.
func bound(dir string) int64 {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return mostInMemory
	}
	room := profiles.LogRoom(int64(fs.Blocks) * fs.Bsize)
	if fs.Type == unix.TMPFS_MAGIC {
		room = min(room, mostInMemory)
	}
	return room
}

// keeper puts what arrives into the store.
type keeper struct {
	env     *child.Env
	store   *segment.Store
	meters  map[string]*meter
	now     func() time.Duration
	pending []segment.Entry
	soon    bool // something bad waits to be synced
	ready   string
}

// most is how many entries are written at once.
const most = 64

// keep runs until ctx is done; what has been said by then is kept.
func (k *keeper) keep(ctx context.Context, kernel <-chan segment.Entry) error {
	lazy := time.NewTicker(syncEvery)
	defer lazy.Stop()
	soon := time.NewTicker(syncSoon)
	defer soon.Stop()
	lines, reports := k.env.Lines, k.env.Reports
	for {
		select {
		case l, ok := <-lines:
			if !ok {
				lines = nil // PID 1 is gone, or a test gave none
				break
			}
			k.line(l)
		case e, ok := <-kernel:
			if !ok {
				kernel = nil
				break
			}
			k.take(e)
		case r, ok := <-reports:
			if !ok {
				reports = nil
				break
			}
			k.report(r)
		case <-lazy.C:
			k.settle(true)
		case <-soon.C:
			k.settle(k.soon)
		case <-ctx.Done():
			k.gather(lines, kernel, math.MaxInt)
			k.settle(true)
			return k.store.Close()
		}
		// What else is there now is written with it.
		if len(k.pending) > 0 {
			k.gather(lines, kernel, most)
		}
		k.write()
	}
}

// gather takes what has been said already, until so much is pending.
func (k *keeper) gather(lines <-chan child.Line, kernel <-chan segment.Entry, most int) {
	for len(k.pending) < most {
		select {
		case l, ok := <-lines:
			if ok {
				k.line(l)
			} else {
				lines = nil
			}
		case e, ok := <-kernel:
			if ok {
				k.take(e)
			} else {
				kernel = nil
			}
		default:
			return
		}
	}
}

func (k *keeper) line(l child.Line) {
	if l.Lost > 0 {
		k.add(segment.Entry{Severity: segment.Warning, From: "log",
			Text: fmt.Sprintf("%d lines were dropped before the log could take them", l.Lost)})
	}
	if l.From != "" {
		k.take(segment.Entry{Time: time.UnixMicro(l.Time), Uptime: time.Duration(l.Uptime) * time.Microsecond,
			Severity: segment.Severity(min(max(l.Severity, 0), 7)), From: l.From, Text: l.Text})
	}
}

// take keeps an entry if its source's rate allows.
func (k *keeper) take(e segment.Entry) {
	m := k.meters[e.From]
	if m == nil {
		if len(k.meters) >= maxSources {
			return // PID 1 names its children, and there are not that many
		}
		m = newMeter(k.now())
		k.meters[e.From] = m
	}
	if !m.allow(k.now()) {
		return
	}
	k.confess(e.From, m)
	k.add(e)
}

// confess tells how many entries of a source were not kept.
func (k *keeper) confess(from string, m *meter) {
	if m.dropped > 0 {
		k.add(segment.Entry{Severity: segment.Warning, From: "log", Text: fmt.Sprintf(
			"%d lines of %s were not kept: more than %d a second", m.dropped, from, perSecond)})
		m.dropped = 0
	}
}

func (k *keeper) add(e segment.Entry) {
	if e.Time.IsZero() {
		e.Time, e.Uptime = time.Now(), k.now()
	}
	k.soon = k.soon || e.Severity <= segment.Error
	k.pending = append(k.pending, e)
}

// report notes when the guest became READY or FAILED, and why.
func (k *keeper) report(r contract.Report) {
	e := segment.Entry{From: "health", Severity: segment.Info, Text: contract.ReadyPrefix}
	switch {
	case r.Ready:
	case r.Settled || len(r.Failures) > 0 && k.ready != "":
		e.Severity, e.Text = segment.Error, contract.FailedPrefix+": "+strings.Join(r.Failures, "; ")
	default:
		return
	}
	if k.ready != e.Text {
		k.ready = e.Text
		k.add(e)
	}
}

// settle syncs, and tells what was not kept of sources that fell silent.
func (k *keeper) settle(sync bool) {
	for from, m := range k.meters {
		if m.dropped > 0 && m.rested(k.now()) {
			k.confess(from, m)
		}
	}
	k.write()
	if !sync {
		return
	}
	k.soon = false
	if err := k.store.Sync(); err != nil {
		k.env.Log.Warn("what was logged last may not survive a power cut", "error", err)
	}
}

func (k *keeper) write() {
	if len(k.pending) == 0 {
		return
	}
	err := k.store.Append(k.pending...)
	k.pending = k.pending[:0]
	switch {
	case errors.Is(err, segment.ErrSpare):
		k.moved(err)
	case err != nil:
		k.env.Tell(child.KeyWarning, err.Error()) // not to the log, which would be asked again and again
	}
}

// moved tells that the log is not on the state disk.
func (k *keeper) moved(err error) {
	k.env.Tell(child.KeyWarning, err.Error())
	k.add(segment.Entry{Severity: segment.Warning, From: "log", Text: err.Error()})
}
