package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"rempart/firstboot/boottime"
	"rempart/firstboot/contract"
	"rempart/firstboot/contract/ctl"
)

// Files that top reads, from the root; the child may read no others of their filesystems.
const (
	groupsDir      = "/sys/fs/cgroup/children" // a control group for each child: package cgroup
	memoryFile     = "/proc/meminfo"
	loadFile       = "/proc/loadavg"
	conntrackCount = "/proc/sys/net/netfilter/nf_conntrack_count"
	conntrackMax   = "/proc/sys/net/netfilter/nf_conntrack_max"
)

// Bounds of top.
const (
	topEvery    = 2 * time.Second
	mostEvery   = 3600    // seconds
	maxStatFile = 8 << 10 // bytes
)

// topReport is one look at the guest.
type topReport struct {
	Uptime float64 `json:"uptime"` // seconds
	// Load are the averages of 1, 5 and 15 minutes: processes that run or wait for a disk.
	Load      [3]float64      `json:"load"`
	Memory    contract.Memory `json:"memory"`
	Conntrack fill            `json:"conntrack"`
	Children  []topChild      `json:"children"`
}

// fill is how much of the table of connections is taken.
type fill struct {
	Count int64 `json:"count"`
	Max   int64 `json:"max"` // 0: the kernel tracks none
}

// topChild is a child with all it started.
type topChild struct {
	Name     string  `json:"name"`
	State    string  `json:"state"`
	PID      int     `json:"pid,omitempty"`
	Restarts int     `json:"restarts"`
	CPU      float64 `json:"cpu"`     // part of one processor since the look before, 1: all of it
	Seconds  float64 `json:"seconds"` // of a processor since the guest's start, predecessors' included
	RSS      int64   `json:"rss"`     // bytes it has for itself and maps of files
	Charged  int64   `json:"charged"` // bytes with what the kernel and files in memory take for it
	Peak     int64   `json:"peak"`    // most of Charged since the guest's start; 0: the kernel does not tell
	Limit    int64   `json:"limit"`   // bytes of Charged at which it is ended
}

// runTop shows what takes processor and memory: once, or with -f again and again until the client goes.
func runTop(ctx context.Context, d *desk, r ctl.Request) error {
	flags := flag.NewFlagSet(r.Args[0], flag.ContinueOnError)
	asJSON := flags.Bool("json", false, "answer as JSON; with -f one object a line")
	follow := flags.Bool("f", false, "go on until interrupted")
	every := flags.Uint("every", uint(topEvery/time.Second), "seconds between looks")
	if err := parse(r, flags); err != nil {
		return err
	}
	if *every < 1 || *every > mostEvery {
		return usageError{fmt.Errorf("--every %d: want 1 to %d seconds", *every, mostEvery)}
	}
	wait := time.Duration(*every) * time.Second
	if !*follow {
		wait = time.Second // two looks tell what the processor does now
	}
	tick := time.NewTicker(wait)
	defer tick.Stop()
	before := map[string]used{}
	if _, err := d.look(before); err != nil {
		return err
	}
	for first := true; ; first = false {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil // nobody looks any more
		}
		t, err := d.look(before)
		if err != nil {
			return err
		}
		switch {
		case *asJSON && *follow:
			err = json.NewEncoder(r.Stdout).Encode(t)
		case *asJSON:
			err = printJSON(r.Stdout, t)
		default:
			if !first {
				fmt.Fprintln(r.Stdout)
			}
			err = t.print(r.Stdout)
		}
		if err != nil || !*follow {
			return err
		}
	}
}

// used is the processor time of a group at some time.
type used struct {
	at      time.Time
	seconds float64
}

// look reads everything once, and compares with the look before, which it replaces.
func (d *desk) look(before map[string]used) (topReport, error) {
	report, _ := d.news.newest()
	t := topReport{Children: []topChild{}}
	var err error
	if t.Memory, err = d.readMemory(); err != nil {
		return t, err
	}
	load, err := d.stat(loadFile)
	if err != nil {
		return t, err
	}
	fields := strings.Fields(load)
	for i := range min(len(fields), len(t.Load)) {
		if t.Load[i], err = strconv.ParseFloat(fields[i], 64); err != nil {
			return t, fmt.Errorf("%s: %w", loadFile, err)
		}
	}
	t.Uptime = time.Duration(uint64(boottime.Now())).Seconds()
	// Missing where the kernel tracks no connections.
	if t.Conntrack.Count, err = d.statNumber(conntrackCount); err == nil {
		t.Conntrack.Max, err = d.statNumber(conntrackMax)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return t, err
	}
	for _, c := range report.Children {
		row := topChild{Name: c.Name, State: c.State, PID: c.PID, Restarts: c.Restarts}
		// One that was never needed has no group.
		if err := d.measure(&row, before); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return t, err
		}
		t.Children = append(t.Children, row)
	}
	return t, nil
}

// measure fills in what the control group of a child says (Documentation/admin-guide/cgroup-v2.rst).
func (d *desk) measure(c *topChild, before map[string]used) error {
	dir := filepath.Join(groupsDir, c.Name)
	cpu, err := d.stat(filepath.Join(dir, "cpu.stat"))
	if err != nil {
		return err
	}
	now := used{time.Now(), float64(keyed(cpu, "usage_usec")) / 1e6}
	if last, ok := before[c.Name]; ok && now.at.After(last.at) {
		c.CPU = max(0, now.seconds-last.seconds) / now.at.Sub(last.at).Seconds()
	}
	before[c.Name] = now
	c.Seconds = now.seconds
	memory, err := d.stat(filepath.Join(dir, "memory.stat"))
	if err != nil {
		return err
	}
	c.RSS = keyed(memory, "anon") + keyed(memory, "file_mapped")
	if c.Charged, err = d.statNumber(filepath.Join(dir, "memory.current")); err != nil {
		return err
	}
	// Since Linux 5.19 (Documentation/admin-guide/cgroup-v2.rst).
	if c.Peak, err = d.statNumber(filepath.Join(dir, "memory.peak")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	c.Limit, err = d.statNumber(filepath.Join(dir, "memory.max"))
	return err
}

// readMemory is what is in all and what is left (Documentation/filesystems/proc.rst).
func (d *desk) readMemory() (m contract.Memory, err error) {
	text, err := d.stat(memoryFile)
	if err != nil {
		return m, err
	}
	const unit = 1 << 10 // the file's, whatever it calls them
	return contract.Memory{Total: keyed(text, "MemTotal:") * unit, Available: keyed(text, "MemAvailable:") * unit}, nil
}

// stat reads a small file of the kernel's.
func (d *desk) stat(path string) (string, error) {
	f, err := os.Open(filepath.Join(d.root, path))
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxStatFile))
	return string(b), err
}

// statNumber reads a file with one number; "max" is none, 0.
func (d *desk) statNumber(path string) (int64, error) {
	text, err := d.stat(path)
	if err != nil {
		return 0, err
	}
	if text = strings.TrimSpace(text); text == "max" {
		return 0, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", path, err)
	}
	return n, nil
}

// keyed is the number after a key that begins a line; 0: there is none.
func keyed(text, key string) int64 {
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) >= 2 && f[0] == key {
			n, _ := strconv.ParseInt(f[1], 10, 64)
			return n
		}
	}
	return 0
}

// print is a look in words.
func (t topReport) print(w io.Writer) error {
	var b bytes.Buffer
	fmt.Fprintf(&b, "up %v, load %.2f %.2f %.2f, memory %d of %d MiB free", time.Duration(t.Uptime)*time.Second,
		t.Load[0], t.Load[1], t.Load[2], t.Memory.Available>>20, t.Memory.Total>>20)
	if t.Conntrack.Max > 0 {
		fmt.Fprintf(&b, ", connections %d of %d (%d %%)", t.Conntrack.Count, t.Conntrack.Max,
			100*t.Conntrack.Count/t.Conntrack.Max)
	}
	b.WriteByte('\n')
	err := table(&b, t.Children, "CHILD\tSTATE\tPID\tRESTARTS\tCPU %\tSECONDS\tRSS KIB\tCHARGED KIB\tPEAK KIB\tLIMIT KIB",
		func(c topChild) string {
			return fmt.Sprintf("%s\t%s\t%d\t%d\t%.1f\t%.2f\t%d\t%d\t%d\t%d", c.Name, c.State, c.PID, c.Restarts,
				100*c.CPU, c.Seconds, c.RSS>>10, c.Charged>>10, c.Peak>>10, c.Limit>>10)
		})
	if err != nil {
		return err
	}
	_, err = w.Write(b.Bytes())
	return err
}
