package pid1

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"rempart/firstboot/boottime"
	"rempart/firstboot/child"
	"rempart/firstboot/contract"
	"rempart/firstboot/health"
)

// keepReport writes a new report at each change, and looks again now and then for what changes by itself.
func (g *guest) keepReport(ctx context.Context) {
	// Changes come in bursts while children start; one report shows a burst.
	const gather = 20 * time.Millisecond
	settle := time.After(max(0, g.Settling-time.Since(g.begun)))
	for {
		select {
		case <-g.changed:
			time.Sleep(gather)
		case <-settle:
			settle = nil
		case <-ctx.Done():
			return
		}
		select {
		case <-g.changed:
		default:
		}
		g.mu.Lock()
		stopping := g.facts.stopping
		g.mu.Unlock()
		if !stopping {
			g.publish(g.compose())
		}
	}
}

// compose states what is known and what it amounts to.
func (g *guest) compose() contract.Report {
	var states []contract.ChildState
	if g.sup != nil {
		states = g.sup.States()
	}
	afterReady := map[string]bool{}
	after := map[string][]string{}
	for _, spec := range g.Specs {
		afterReady[spec.Name] = spec.AfterReady
		after[spec.Name] = spec.After
	}
	g.mu.Lock()
	f, profile := g.facts, g.profile
	r := contract.Report{
		Name:     profile.Name,
		Version:  contract.Version,
		Warnings: slices.Collect(sortedValues(f.warnings)),
		Root: contract.RootReport{ReadOnlyDisk: g.boot.ReadOnly, Verified: g.boot.RootHash != "", Scrubbed: f.scrubbed,
			Hash: g.boot.RootHash},
		State:    f.state,
		Disks:    slices.Clone(f.disks),
		Policy:   f.policy,
		Links:    slices.Clone(f.links),
		Children: states,
		Times:    f.times,
		Memory:   g.memory(),
		Live:     f.live,
	}
	r.Times.BootStage = g.boot.Started
	told := health.Told{Failures: slices.Collect(sortedValues(f.failures)), StateError: f.stateErr,
		AfterReady: afterReady, After: after, Overdue: time.Since(g.begun) >= g.Settling}
	g.mu.Unlock()
	if r.State.Device != "" {
		r.State.Free = free(filepath.Join(g.Root, contract.StateDir))
	}
	for i := range r.Disks {
		if d := &r.Disks[i]; d.Device != "" {
			d.Free = free(filepath.Join(g.Root, d.Mount))
		}
	}
	health.Judge(&r, profile, told)
	g.mu.Lock()
	// While children follow a changed profile nothing is settled: what is not as the new one says yet is no news.
	g.facts.settled = g.facts.changing.IsZero() && (g.facts.settled || r.Settled)
	r.Settled = g.facts.settled
	if g.facts.times.Links == 0 && health.LinksUp(&r, profile) {
		g.facts.times.Links = boottime.Now().Seconds()
	}
	if g.facts.times.Ready == 0 && r.Ready {
		g.facts.times.Ready = boottime.Now().Seconds()
		go debug.FreeOSMemory() // what the start took
	}
	r.Times.Links, r.Times.Ready = g.facts.times.Links, g.facts.times.Ready
	g.mu.Unlock()
	if r.Ready && g.sup != nil {
		g.sup.Open()
	}
	return r
}

func sortedValues(m map[string]string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for _, k := range slices.Sorted(maps.Keys(m)) {
			if !yield(m[k]) {
				return
			}
		}
	}
}

func free(dir string) int64 {
	var fs unix.Statfs_t
	if unix.Statfs(dir, &fs) != nil {
		return 0
	}
	return int64(fs.Bavail) * fs.Bsize
}

// memory reads /proc/meminfo.
func (g *guest) memory() (m contract.Memory) {
	b, err := os.ReadFile(filepath.Join(g.Root, "proc/meminfo"))
	if err != nil {
		return m
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		kib, _ := strconv.ParseInt(f[1], 10, 64)
		switch f[0] {
		case "MemTotal:":
			m.Total = kib << 10
		case "MemAvailable:":
			m.Available = kib << 10
		}
	}
	return m
}

// publish gives a report to the children that want it and to contract.ReportPath, unless it says what the last one
// did.
func (g *guest) publish(r contract.Report) {
	b, err := json.Marshal(r)
	if err != nil || len(b)+1 > child.MaxReport {
		g.log.Error("report could not be written", "bytes", len(b), "error", err)
		return
	}
	b = append(b, '\n')
	g.mu.Lock()
	same := bytes.Equal(b, g.report)
	g.report = b
	for _, f := range g.feeds {
		if !same {
			f.offer(b)
		}
	}
	g.mu.Unlock()
	if same {
		return
	}
	if err := writeWhole(filepath.Join(g.Root, contract.ReportPath), b); err != nil {
		g.log.Warn("report file", "error", err)
	}
}

// writeWhole replaces a file at once.
func writeWhole(path string, b []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(path+".new", b, 0o644); err != nil {
		return err
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("replacing %s: %w", path, err)
	}
	return nil
}

// feed writes reports to one child, the newest only: a child that does not read costs nothing.
type feed struct {
	next chan []byte
	w    io.Closer
}

func (g *guest) addFeed(name string, w io.WriteCloser) *feed {
	f := &feed{next: make(chan []byte, 1), w: w}
	go g.forever("feed of "+name, func() {
		for b := range f.next {
			if _, err := w.Write(b); err != nil {
				return // the child is gone; its successor has a feed of its own
			}
		}
	})
	g.mu.Lock()
	defer g.mu.Unlock()
	g.feeds[name] = f
	if g.report != nil {
		f.offer(g.report)
	}
	return f
}

// offer replaces what waits to be written. The caller holds g.mu.
func (f *feed) offer(b []byte) {
	select {
	case <-f.next:
	default:
	}
	f.next <- b
}

func (g *guest) removeFeed(name string, f *feed) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.feeds[name] == f {
		delete(g.feeds, name)
	}
	close(f.next)
	f.w.Close()
}
