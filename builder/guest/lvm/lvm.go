// Package lvm makes, renames, grows and removes logical volumes by the commands of lvm2, whose reports it reads back:
// what was made has the size that was asked for, in whole extents, or it is an error.
//
// A command that has begun is never ended early: one that is killed can leave a device suspended, and whoever reads
// from it waits for ever. It holds the lock it is given until it has ended, whatever became of the process that started
// it.
//
// What it deliberately does not do: know what the volumes are for, make volume groups and pools, or talk to
// device-mapper itself.
package lvm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"

	"rempart/builder/bounded"
)

// Errors, for errors.Is.
var (
	// ErrMissing: lvm2 is not on this machine.
	ErrMissing = errors.New("lvm2 is not on this machine; install the package lvm2")
	// ErrReport: lvm2 reported what cannot be read.
	ErrReport = errors.New("not a report of lvm2")
)

// Tools are the commands of lvm2.
type Tools struct {
	// Program is the path of lvm(8), which is all of its commands; empty: lvm, found by PATH.
	Program string
	// Lock is what each command holds open until its end, as its standard input, which none of them reads; nil: nothing.
	Lock *os.File
}

// maxSaid bounds what is kept of what a command says, in bytes: a report of some thousand volumes.
const maxSaid = 8 << 20

// run runs a command of lvm2 to its end and returns what it printed.
func (t Tools) run(ctx context.Context, args ...string) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	program := t.Program
	if program == "" {
		program = "lvm"
	}
	cmd := exec.Command(program, args...) // not by ctx, see the package's doc
	// Descriptors that this process leaves open are none of its business: it closes them, and would say so each time.
	cmd.Env = append(os.Environ(), "LC_ALL=C", "LVM_SUPPRESS_FD_WARNINGS=1")
	if t.Lock != nil {
		cmd.Stdin = t.Lock
	}
	// Ctrl-C on this terminal is for us.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	// It is not disturbed by how much it says, see the package's doc.
	out, complaints := &bounded.Buffer{Most: maxSaid, Drain: true}, &bounded.Buffer{Most: maxSaid, Drain: true}
	cmd.Stdout, cmd.Stderr = out, complaints
	err := cmd.Run()
	switch {
	case errors.Is(err, exec.ErrNotFound):
		return nil, fmt.Errorf("%w: %w", ErrMissing, err)
	case err != nil:
		return nil, fmt.Errorf("lvm %s: %w%s", strings.Join(args, " "), err, said(complaints.Bytes()))
	case out.Over():
		return nil, fmt.Errorf("lvm %s: %w: more than %d bytes", strings.Join(args, " "), ErrReport, maxSaid)
	}
	return out.Bytes(), nil
}

// said is what a command complained about, in a line behind what went wrong; empty: nothing.
func said(b []byte) string {
	words := strings.Fields(strings.ToValidUTF8(string(b), "?"))
	if len(words) == 0 {
		return ""
	}
	return ": " + strings.Join(words, " ")
}

// Create makes a thick volume of size bytes, which must be whole extents. What it holds is what others left there; only
// its beginning is zero.
func (t Tools) Create(ctx context.Context, group, name string, size int64) error {
	return t.make(ctx, group, name, size, "--yes", "--wipesignatures", "y", "--zero", "y", "--name", name, "--size",
		bytesOf(size), group)
}

// CreateThin makes a volume of a thin pool. It holds zeros where the pool says so, see Volume.Zero.
func (t Tools) CreateThin(ctx context.Context, group, pool, name string, size int64) error {
	return t.make(ctx, group, name, size, "--yes", "--type", "thin", "--thinpool", pool, "--name", name, "--virtualsize",
		bytesOf(size), group)
}

// Snapshot makes a thick snapshot of a volume, which takes up to room bytes of changes of either; beyond it, it is
// lost. With room for all of the origin it never is.
func (t Tools) Snapshot(ctx context.Context, group, origin, name string, room int64, readOnly bool) error {
	_, err := t.run(ctx, "lvcreate", "--yes", "--snapshot", "--permission", permission(readOnly), "--name", name, "--size",
		bytesOf(room), group+"/"+origin)
	return err
}

// SnapshotThin makes a thin snapshot of a thin volume, which is active whenever its origin would be.
func (t Tools) SnapshotThin(ctx context.Context, group, origin, name string, readOnly bool) error {
	_, err := t.run(ctx, "lvcreate", "--yes", "--snapshot", "--setactivationskip", "n", "--permission",
		permission(readOnly), "--name", name, group+"/"+origin)
	return err
}

func permission(readOnly bool) string {
	if readOnly {
		return "r"
	}
	return "rw"
}

// SetReadOnly has nobody write to a volume from now on.
func (t Tools) SetReadOnly(ctx context.Context, group, name string) error {
	_, err := t.run(ctx, "lvchange", "--permission", "r", group+"/"+name)
	return err
}

// make runs lvcreate and reads back what it made.
func (t Tools) make(ctx context.Context, group, name string, size int64, args ...string) error {
	if _, err := t.run(ctx, append([]string{"lvcreate"}, args...)...); err != nil {
		return err
	}
	return t.isOf(ctx, group, name, size)
}

// Rename gives a volume another name, which none may have.
func (t Tools) Rename(ctx context.Context, group, from, to string) error {
	_, err := t.run(ctx, "lvrename", group, from, to)
	return err
}

// Remove removes a volume for good. Its thick snapshots would go with it: see Volume.Origin.
func (t Tools) Remove(ctx context.Context, group, name string) error {
	_, err := t.run(ctx, "lvremove", "--force", "--yes", group+"/"+name)
	return err
}

// Extend grows a volume to size bytes, which must be whole extents.
func (t Tools) Extend(ctx context.Context, group, name string, size int64) error {
	if _, err := t.run(ctx, "lvextend", "--size", bytesOf(size), group+"/"+name); err != nil {
		return err
	}
	return t.isOf(ctx, group, name, size)
}

// isOf reads a volume's size back.
func (t Tools) isOf(ctx context.Context, group, name string, size int64) error {
	all, err := t.Volumes(ctx, group)
	if err != nil {
		return err
	}
	if v, ok := all[name]; !ok || v.Size != size {
		return fmt.Errorf("volume %s/%s has %d bytes (there: %v) after it was made one of %d", group, name, v.Size, ok, size)
	}
	return nil
}

// bytesOf is a size as lvm2 takes it (lvcreate(8), Size).
func bytesOf(n int64) string { return strconv.FormatInt(n, 10) + "b" }
