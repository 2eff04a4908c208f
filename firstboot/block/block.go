// Package block lists the disks of a guest from sysfs and finds the ones that a hypervisor named.
//
// What it deliberately does not do: read a disk, or guess.
package block

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strconv"
	"strings"
)

// SectorSize is the unit of sysfs' size and start files, whatever the disk's own sector is
// (Documentation/ABI/stable/sysfs-block).
const SectorSize = 512

// Errors that callers decide on.
var (
	ErrAbsent    = errors.New("no such disk")
	ErrAmbiguous = errors.New("several disks carry that name")
)

// Disk is a whole block device.
type Disk struct {
	Name         string // kernel name: "vda"
	Serial       string // as the hypervisor gave it; empty: none
	Size         int64  // bytes
	LogicalBlock int    // bytes, at least 512
	ReadOnly     bool
	Partitions   []Partition // as the kernel sees them
}

// Partition is a part of a disk the kernel knows.
type Partition struct {
	Name        string
	Number      int
	Start, Size int64 // bytes
}

// without lists the prefixes of devices that are never a hypervisor's disk: memory, loops, our own device mapper
// nodes, and drives that take seconds to say they are empty.
var without = []string{"loop", "ram", "zram", "dm-", "md", "nbd", "fd", "sr"}

// Disks lists the disks with a size, by name. sys is the mount point of sysfs.
func Disks(sys string) ([]Disk, error) {
	dir := filepath.Join(sys, "block")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("listing disks: %w", err)
	}
	var disks []Disk
	for _, e := range entries {
		if skipped(e.Name()) {
			continue
		}
		if d, ok := read(filepath.Join(dir, e.Name()), e.Name()); ok {
			disks = append(disks, d)
		}
	}
	sort.Slice(disks, func(i, j int) bool { return disks[i].Name < disks[j].Name })
	return disks, nil
}

func skipped(name string) bool {
	for _, p := range without {
		if strings.HasPrefix(name, p) {
			return true
		}
	}
	return false
}

func read(dir, name string) (Disk, bool) {
	d := Disk{Name: name, LogicalBlock: int(number(filepath.Join(dir, "queue/logical_block_size")))}
	if sectors := number(filepath.Join(dir, "size")); sectors > 0 && sectors < 1<<54 {
		d.Size = sectors * SectorSize
	}
	d.LogicalBlock = max(d.LogicalBlock, SectorSize)
	d.ReadOnly = number(filepath.Join(dir, "ro")) == 1
	d.Serial = text(filepath.Join(dir, "serial"))
	if d.Serial == "" {
		d.Serial = text(filepath.Join(dir, "device", "serial")) // NVMe keeps it there
	}
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		sub := filepath.Join(dir, e.Name())
		n := number(filepath.Join(sub, "partition"))
		if n <= 0 {
			continue
		}
		d.Partitions = append(d.Partitions, Partition{Name: e.Name(), Number: int(n),
			Start: number(filepath.Join(sub, "start")) * SectorSize, Size: number(filepath.Join(sub, "size")) * SectorSize})
	}
	return d, d.Size > 0
}

func text(file string) string {
	b, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	return strings.Trim(string(b), " \t\n\x00")
}

// number reads a decimal file; 0 where there is none.
func number(file string) int64 {
	n, err := strconv.ParseInt(text(file), 10, 64)
	if err != nil || n < 0 {
		return 0
	}
	return n
}

// Find returns the one disk with the given serial, or the Xen virtual device of one of the given names. Two disks that
// match are ErrAmbiguous, none is ErrAbsent.
func Find(disks []Disk, serial string, xenNames ...string) (Disk, error) {
	var found []Disk
	for _, d := range disks {
		if d.Serial == serial || slices.Contains(xenNames, d.Name) {
			found = append(found, d)
		}
	}
	switch len(found) {
	case 0:
		return Disk{}, fmt.Errorf("%w: none with serial %q and no Xen device %s among %s", ErrAbsent, serial,
			strings.Join(xenNames, " or "), Describe(disks))
	case 1:
		return found[0], nil
	}
	return Disk{}, fmt.Errorf("%w: serial %q is on %s", ErrAmbiguous, serial, Describe(found))
}

// Describe lists disks for a message: name, size in MiB, serial, ro.
func Describe(disks []Disk) string {
	if len(disks) == 0 {
		return "no disk at all"
	}
	var b strings.Builder
	for i, d := range disks {
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "%s (%d MiB", d.Name, d.Size>>20)
		if d.Serial != "" {
			fmt.Fprintf(&b, ", serial %.32q", d.Serial)
		}
		if d.ReadOnly {
			b.WriteString(", read-only")
		}
		fmt.Fprintf(&b, ", %d partitions)", len(d.Partitions))
	}
	return b.String()
}
