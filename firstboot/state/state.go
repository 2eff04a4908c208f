// Package state prepares the state disk: it finds the disk by the name the hypervisor gave it, formats it when it is
// blank, formats it again when a format was cut short, has it checked when it has errors, and leaves anything else
// alone. It runs as a child without any privilege but that one device node, since mke2fs and e2fsck read what a guest
// broken into may have written.
//
// What it deliberately does not do: mount or grow (PID 1's), guess which disk is meant, repair what e2fsck -p refuses.
package state

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"rempart/firstboot/block"
	"rempart/firstboot/child"
	"rempart/firstboot/contract"
)

// Actions; see contract.StateReport.
const (
	Mounted     = "mounted"
	Formatted   = "formatted"
	Reformatted = "reformatted"
	Grown       = "grown"
	ForeignDisk = "foreign"
	Absent      = "absent"
	FailedDisk  = "failed"
)

// Spec is the child. It is a task: done once it has told PID 1 what to mount.
func Spec() child.Spec {
	read, exec := ToolPaths()
	return child.Spec{
		Name: "state",
		Run:  run,
		Task: true,
		UID:  contract.UIDState,
		Read: read,
		Exec: exec,
		Devices: func(root string) []string {
			if d, err := find(root); err == nil {
				return []string{filepath.Join(root, "dev", d.Name)}
			}
			return nil
		},
		OOMScore: 300, // no MemoryLimit: what e2fsck takes grows with the disk
	}
}

// ToolPaths are the paths that a child needs to find disks and to run Tools.
func ToolPaths() (read, exec []string) {
	return []string{"/sys", "/proc", "/dev/null", "/etc/mke2fs.conf", "/etc/mtab", "/etc/ld.so.cache"},
		[]string{"/sbin", "/bin", "/lib", "/lib64", "/usr/sbin", "/usr/lib", "/usr/lib64"}
}

func find(root string) (block.Disk, error) {
	disks, err := block.Disks(filepath.Join(root, "sys"))
	if err != nil {
		return block.Disk{}, err
	}
	return block.Find(disks, contract.StateSerial, contract.StateXenVdevs()...)
}

// run prepares the disk and tells PID 1. Whatever is wrong with the disk is told, not returned: starting again would
// find the same.
func run(ctx context.Context, env *child.Env) error {
	d, err := find(env.Root)
	if err != nil {
		env.Tell(child.KeyState, child.StateResult{Action: Unfound(err), Error: err.Error()})
		return nil
	}
	if d.ReadOnly {
		env.Tell(child.KeyState, child.StateResult{Device: d.Name, Action: FailedDisk,
			Error: fmt.Sprintf("state disk %s is attached read-only; attach it writable", d.Name)})
		return nil
	}
	t := NewTools(Role{}, env.Log)
	result := t.Prepare(ctx, filepath.Join(env.Root, "dev", d.Name), d.Size)
	result.Device = d.Name
	env.Tell(child.KeyState, result)
	return nil
}

// Unfound is the action that says that block.Find failed.
func Unfound(err error) string {
	if errors.Is(err, block.ErrAbsent) {
		return Absent
	}
	return FailedDisk
}

// Tools are the programs of e2fsprogs, what the disk is for, and where to log.
type Tools struct {
	Mke2fs, E2fsck string
	Disk           Role
	Log            *slog.Logger
}

// NewTools are the programs where a guest has them.
func NewTools(disk Role, log *slog.Logger) Tools {
	return Tools{Mke2fs: "/sbin/mke2fs", E2fsck: "/sbin/e2fsck", Disk: disk, Log: log}
}

// Prepare makes the disk at node, of size bytes, ready to be mounted. The result's Device is left to the caller.
func (t Tools) Prepare(ctx context.Context, node string, size int64) child.StateResult {
	action, bytes, err := t.prepare(ctx, node, size)
	r := child.StateResult{Action: action, Bytes: bytes}
	if err != nil {
		r.Error = err.Error()
		if action == "" {
			r.Action = FailedDisk
		}
	}
	return r
}

func (t Tools) prepare(ctx context.Context, node string, size int64) (action string, bytes int64, err error) {
	what, access := t.Disk.what(), os.O_RDWR
	if t.Disk.Keep {
		access = os.O_RDONLY
	}
	f, err := os.OpenFile(node, access, 0)
	if err != nil {
		return "", 0, fmt.Errorf("%s: %w", what, err)
	}
	defer f.Close()
	found, err := t.Disk.Probe(f, size)
	if err != nil {
		return "", 0, fmt.Errorf("%s %s: %w", what, node, err)
	}
	switch {
	case found.Kind == Foreign:
		return ForeignDisk, 0, fmt.Errorf("%s %s carries %s and was left alone; %s", what, node, found.What,
			cmp.Or(found.Way, "attach a blank disk, or clear the first and last MiB of this one"))
	case t.Disk.Keep && found.Kind == Ours:
		return Mounted, 0, nil
	case t.Disk.Keep:
		return "", 0, fmt.Errorf("%s %s is %s, and read-only: there is nothing to mount, and nothing may be made", what, node,
			found.Kind)
	case found.Kind == Ours:
		if found.Errors {
			if err := t.check(ctx, node); err != nil {
				return "", 0, err
			}
		}
		if want := target(size, found.BlockSize); want-found.Blocks*found.BlockSize >= worthGrowing {
			return Mounted, want, nil
		}
		return Mounted, 0, nil
	}
	if size < MinSize {
		return "", 0, fmt.Errorf("%s %s is %d bytes; at least %d are needed", what, node, size, int64(MinSize))
	}
	if err := t.format(ctx, f, node, size); err != nil {
		return "", 0, err
	}
	action = Formatted
	if found.Kind == Interrupted {
		action = Reformatted
	}
	return action, 0, nil
}

// worthGrowing is the least gain, in bytes, for which a filesystem is grown: ext4 leaves out a last block group that is
// too small to hold its own tables, so a few MiB may never be had.
const worthGrowing = 8 << 20

// blockSize is the filesystem's, whatever the disk's size: the kernel's page.
const blockSize = 4096

// target is the size a filesystem on a disk should have: all but the tail, in whole blocks.
func target(size, block int64) int64 { return (size - tail) / block * block }

// format makes the filesystem. Cut short at any point it leaves a disk that Probe calls Blank or Interrupted.
func (t Tools) format(ctx context.Context, f *os.File, node string, size int64) error {
	t.Log.Info("formatting the "+t.Disk.what(), "disk", node, "bytes", size)
	end := size - window
	var id [16]byte
	// Not for secrets: a start without randomness must not wait for it.
	if _, err := unix.Getrandom(id[:], unix.GRND_INSECURE); err != nil {
		return fmt.Errorf("formatting %s: a UUID: %w", node, err)
	}
	id[6], id[8] = id[6]&0x0f|0x40, id[8]&0x3f|0x80 // a random UUID, RFC 9562 section 5.4
	mark := newMarker(id)
	// The end first, with a whole block: it is read back so.
	if err := put(f, end, append(mark, make([]byte, markerSize-len(mark))...)); err != nil {
		return fmt.Errorf("formatting %s: marking its end: %w", node, err)
	}
	if err := put(f, 0, mark); err != nil {
		return fmt.Errorf("formatting %s: marking its beginning: %w", node, err)
	}
	began := time.Now()
	out, code, err := t.tool(ctx, t.Mke2fs, "-q", "-F", "-t", "ext4", "-L", t.Disk.label(),
		"-U", fmt.Sprintf("%x-%x-%x-%x-%x", id[:4], id[4:6], id[6:8], id[8:10], id[10:]),
		"-b", strconv.Itoa(blockSize), "-m", "1",
		"-E", initialisation(size)+",nodiscard",
		node, strconv.FormatInt(target(size, blockSize)/blockSize, 10))
	if err != nil || code != 0 {
		return fmt.Errorf("formatting %s: mke2fs ended with status %d: %s: %w", node, code, out, orFailed(err))
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("formatting %s: %w", node, err)
	}
	if err := put(f, end, make([]byte, markerSize)); err != nil {
		return fmt.Errorf("formatting %s: taking the mark from its end: %w", node, err)
	}
	if err := put(f, 0, make([]byte, bootBlock)); err != nil {
		return fmt.Errorf("formatting %s: taking the mark from its beginning: %w", node, err)
	}
	// Only what can be read back as ours may be mounted: a mark that stayed would cost the next boot all data.
	found, err := t.Disk.Probe(f, size)
	if err != nil {
		return fmt.Errorf("formatting %s: reading it back: %w", node, err)
	}
	if found.Kind != Ours {
		return fmt.Errorf("formatting %s: read back it is %s %s", node, found.Kind, found.What)
	}
	t.Log.Info(t.Disk.what()+" formatted", "disk", node, "took", time.Since(began).Round(time.Millisecond))
	return nil
}

// lazyFrom is the size in bytes from which the kernel is left to write the tables of inodes, which are 1/64 of a disk.
const lazyFrom = 8 << 30

// initialisation has all written at once: what is left to the kernel goes on for minutes under the first minutes of
// work. Of a large disk that would keep the guest from its start for minutes instead.
func initialisation(size int64) string {
	if size < lazyFrom {
		return "lazy_itable_init=0,lazy_journal_init=0"
	}
	return "lazy_itable_init=1,lazy_journal_init=1"
}

// put writes and waits until it is on the disk.
func put(f *os.File, at int64, b []byte) error {
	if _, err := f.WriteAt(b, at); err != nil {
		return err
	}
	return f.Sync()
}

// Exit status bits of e2fsck(8).
const (
	fsckCorrected = 1
	fsckReboot    = 2 // only meant for a root that is mounted
)

// check has a filesystem with errors repaired where that is safe.
func (t Tools) check(ctx context.Context, node string) error {
	out, code, err := t.tool(ctx, t.E2fsck, "-p", node)
	if err != nil || code&^(fsckCorrected|fsckReboot) != 0 {
		return fmt.Errorf("checking %s: e2fsck -p ended with status %d: %s: %w; "+
			"stop the guest and run e2fsck on the disk from the host",
			node, code, out, orFailed(err))
	}
	t.Log.Warn(t.Disk.what()+" had errors, which e2fsck corrected", "disk", node, "said", out)
	return nil
}

var errFailed = errors.New("it failed")

func orFailed(err error) error {
	if err == nil {
		return errFailed
	}
	return err
}

// maxOutput bounds what is kept of a tool's words.
const maxOutput = 2 << 10

// tool runs a program of e2fsprogs and returns the end of what it said, on one line, and its exit status.
func (t Tools) tool(ctx context.Context, path string, args ...string) (out string, code int, err error) {
	cmd := exec.CommandContext(ctx, path, args...)
	var b tailBuffer
	cmd.Stdout, cmd.Stderr = &b, &b
	cmd.Env = []string{"PATH=/sbin:/bin", "LC_ALL=C"}
	err = cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Exited() {
		err = nil
	}
	if cmd.ProcessState != nil {
		code = cmd.ProcessState.ExitCode()
	}
	return strings.Join(strings.Fields(string(b)), " "), code, err
}

type tailBuffer []byte

func (b *tailBuffer) Write(p []byte) (int, error) {
	*b = append(*b, p...)
	if extra := len(*b) - maxOutput; extra > 0 {
		*b = (*b)[extra:]
	}
	return len(p), nil
}

var _ io.Writer = (*tailBuffer)(nil)
