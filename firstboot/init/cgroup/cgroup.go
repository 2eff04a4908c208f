// Package cgroup keeps what one child takes from what the others and the kernel need. Each child has a control group
// (Documentation/admin-guide/cgroup-v2.rst) with a limit of memory and of processes, all groups together have one of
// memory, and the processor is shared out among groups, whatever number of threads is in them.
//
// Why: a guest has no swap, so a child that takes all memory leaves the kernel nothing to reclaim but the pages of
// programs. It throws them out and reads and verifies them again, 20 MB/s of a disk of 56 MB, and because that succeeds
// it sees no reason to kill anybody: no program, PID 1 neither, comes to do anything for minutes. A group at its limit
// has nothing to reclaim but its own, so what outgrows it is killed at once, and nothing else is.
//
// A group outlives its processes and belongs to their successors: what they left in memory, files on a tmpfs and the
// sets of a policy, stays charged to it.
//
// What it deliberately does not do: move processes (they are born in their group), throttle (memory.high would keep a
// child that is out of bounds alive and useless), or guard PID 1, which is in the root group, outside all bounds.
package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Shares of memory, in bytes.
const (
	// reserve is what children together leave: to PID 1 (3 MiB), the part of the one program all run from that is used
	// all the time, and packets and what else the kernel charges to nobody. A sixteenth of larger memory comes on top.
	reserve      = 8 << 20
	reserveShare = 16
	// others is what the largest child leaves to the other children: eight that every guest has, of which each takes 2 to
	// 3 MiB. Were it less, the one that grows would reach the bound of all before its own, and another end for it.
	others = 24 << 20
	// beyondHeap is what a child needs besides the heap it limits itself to: its stacks, page tables, sockets and its
	// part of the program.
	beyondHeap = 8 << 20
	// least is less than no limit is ever set to: no child can start in it.
	least = 8 << 20
)

// childrenGroup is the group that holds the groups of all children.
const childrenGroup = "children"

// controllers that groups are given. Only memory is indispensable.
var controllers = []string{"memory", "pids", "cpu"}

// Tree holds the groups of children.
type Tree struct {
	dir   string
	limit int64
}

// Limit is what all children together may take, of what is available when there is none yet, in bytes.
func Limit(available int64) int64 {
	return max(available-reserve-available/reserveShare, 2*least)
}

// New makes the groups' common parent below root, where a cgroup2 filesystem is mounted, and bounds it, in bytes.
func New(root string, limit int64) (*Tree, error) {
	t := &Tree{dir: filepath.Join(root, childrenGroup), limit: limit}
	if err := enable(root); err != nil {
		return nil, err
	}
	if err := os.Mkdir(t.dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	if err := write(t.dir, "memory.max", strconv.FormatInt(limit, 10)); err != nil {
		return nil, err
	}
	return t, enable(t.dir)
}

// enable gives the controllers there are to the groups in dir.
func enable(dir string) error {
	b, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return fmt.Errorf("control groups: %w", err)
	}
	there := strings.Fields(string(b))
	for _, name := range controllers {
		switch {
		case slices.Contains(there, name):
			if err := write(dir, "cgroup.subtree_control", "+"+name); err != nil {
				return err
			}
		case name == "memory":
			return fmt.Errorf("control groups: %s: the kernel counts no memory (it has %q)", dir, there)
		}
	}
	return nil
}

func write(dir, file, value string) error {
	if err := os.WriteFile(filepath.Join(dir, file), []byte(value), 0); err != nil {
		return fmt.Errorf("control group: %q into %w", value, err)
	}
	return nil
}

// MemoryOf is the most that a child may take which limits its heap to so many bytes; 0: it does not.
func (t *Tree) MemoryOf(heap int64) int64 {
	most := max(t.limit-others, least)
	if heap <= 0 {
		return most
	}
	return min(heap+beyondHeap, most)
}

// Group is one child's.
type Group struct {
	dir    string
	Memory int64 // its limit in bytes
}

// Group makes the group of a child, or finds it, and sets its limits: bytes of memory and number of threads.
func (t *Tree) Group(name string, memory int64, threads int) (*Group, error) {
	g := &Group{dir: filepath.Join(t.dir, name), Memory: memory}
	if err := os.Mkdir(g.dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	if err := write(g.dir, "memory.max", strconv.FormatInt(memory, 10)); err != nil {
		return nil, err
	}
	// Whatever it started goes with it: half a child is of no use.
	if err := write(g.dir, "memory.oom.group", "1"); err != nil {
		return nil, err
	}
	if err := write(g.dir, "pids.max", strconv.Itoa(threads)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return g, nil
}

// Open returns the group as clone3(2) wants it.
func (g *Group) Open() (*os.File, error) { return os.Open(g.dir) }

// Kill ends every process in the group, also those that left their process group.
func (g *Group) Kill() error { return write(g.dir, "cgroup.kill", "1") }

// Usage is what a group takes.
type Usage struct {
	Memory, Peak int64 // bytes, now and at most since the start
	Kills        int64 // processes that were killed because memory ran out
}

// Usage reads it.
func (g *Group) Usage() (u Usage, err error) {
	if u.Memory, err = g.number("memory.current"); err != nil {
		return u, err
	}
	if u.Peak, err = g.number("memory.peak"); err != nil && !errors.Is(err, fs.ErrNotExist) { // since Linux 5.19
		return u, err
	}
	b, err := os.ReadFile(filepath.Join(g.dir, "memory.events"))
	if err != nil {
		return u, err
	}
	for line := range strings.Lines(string(b)) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), "oom_kill "); ok {
			u.Kills, err = strconv.ParseInt(value, 10, 64)
		}
	}
	return u, err
}

func (g *Group) number(file string) (int64, error) {
	b, err := os.ReadFile(filepath.Join(g.dir, file))
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
}
