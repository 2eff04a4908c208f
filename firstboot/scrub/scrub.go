// Package scrub reads the whole root once after the guest is READY, so that corruption in files nobody reads is found
// as well: dm-verity checks what is read, and panics the kernel on the first block that is not what its hash says.
//
// What it deliberately does not do: compare anything itself, or take memory or disk time from who works.
package scrub

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"rempart/firstboot/child"
	"rempart/firstboot/contract"
)

// Spec is the child.
func Spec() child.Spec {
	return child.Spec{
		Name:        "scrub",
		Run:         run,
		Task:        true,
		AfterReady:  true,
		UID:         contract.UIDScrub,
		Read:        []string{contract.BootPath},
		Devices:     devices,
		OOMScore:    900, // the first to go: it can be done again
		MemoryLimit: 8 << 20,
	}
}

func devices(root string) []string {
	if node, err := device(root); err == nil {
		return []string{node}
	}
	return nil
}

// device is the node of the verified root, as the boot stage recorded it.
func device(root string) (string, error) {
	b, err := os.ReadFile(filepath.Join(root, contract.BootPath))
	if err != nil {
		return "", fmt.Errorf("what the boot stage found: %w", err)
	}
	var boot contract.Boot
	if err := json.Unmarshal(b, &boot); err != nil {
		return "", fmt.Errorf("what the boot stage found: %w", err)
	}
	if boot.RootDevice == "" || strings.ContainsAny(boot.RootDevice, "/\x00") {
		return "", fmt.Errorf("what the boot stage found: root device %q", boot.RootDevice)
	}
	return filepath.Join(root, "dev", boot.RootDevice), nil
}

// ioprio_set(2): who, class and its place; <linux/ioprio.h>.
const (
	ioprioWhoProcess = 1
	ioprioIdle       = 3 << 13
	lowest           = 19 // nice(2)
)

func run(ctx context.Context, env *child.Env) error {
	node, err := device(env.Root)
	if err != nil {
		return err
	}
	// Best effort: they make the scrub polite, not possible.
	_, _, _ = unix.Syscall(unix.SYS_IOPRIO_SET, ioprioWhoProcess, 0, ioprioIdle)
	_ = unix.Setpriority(unix.PRIO_PROCESS, 0, lowest)
	f, err := os.Open(node)
	if err != nil {
		return err
	}
	defer f.Close()
	began := time.Now()
	n, err := Read(ctx, f, pause)
	if err != nil {
		return fmt.Errorf("reading %s: %w", node, err)
	}
	env.Log.Info("every block of the root read", "bytes", n, "took", time.Since(began).Round(time.Millisecond))
	env.Tell(child.KeyScrubbed, true)
	return nil
}

// chunk is read at once and given back at once, in bytes: it bounds the memory the scrub holds.
const chunk = 256 << 10

// pause between chunks leaves the processor and the disk to others on a machine with one of each.
const pause = 2 * time.Millisecond

// Read reads f to its end, past the page cache's memory: what it read, or found there, is dropped again. Dropping
// comes first too, so that the blocks come from the disk and through verity, not from a cache that was filled when
// they were still good.
func Read(ctx context.Context, f *os.File, pause time.Duration) (int64, error) {
	buf := make([]byte, chunk)
	var at int64
	for {
		if err := ctx.Err(); err != nil {
			return at, err
		}
		_ = unix.Fadvise(int(f.Fd()), at, chunk, unix.FADV_DONTNEED)
		n, err := f.ReadAt(buf, at)
		_ = unix.Fadvise(int(f.Fd()), at, int64(n), unix.FADV_DONTNEED)
		at += int64(n)
		if errors.Is(err, io.EOF) {
			return at, nil
		}
		if err != nil {
			return at, err
		}
		time.Sleep(pause)
	}
}
