package logging

import (
	"context"
	"errors"
	"fmt"
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
)

// maxRecord is the longest record of /dev/kmsg (kernel: CONSOLE_EXT_LOG_MAX in include/linux/printk.h).
const maxRecord = 8192

// record is one message of the kernel.
type record struct {
	severity segment.Severity
	sequence uint64
	at       time.Duration // since the kernel started
	text     string
}

// parseRecord reads a record as /dev/kmsg gives it: "PRIORITY,SEQUENCE,MICROSECONDS,FLAGS[,...];TEXT", then lines that
// begin with a blank and are not ours (Documentation/ABI/testing/dev-kmsg).
func parseRecord(b string) (record, error) {
	head, text, ok := strings.Cut(b, ";")
	fields := strings.Split(head, ",")
	if !ok || len(fields) < 4 {
		return record{}, errors.New("kernel log: record without its four fields")
	}
	priority, err1 := strconv.ParseUint(fields[0], 10, 16)
	sequence, err2 := strconv.ParseUint(fields[1], 10, 64)
	at, err3 := strconv.ParseUint(fields[2], 10, 62)
	if err := errors.Join(err1, err2, err3); err != nil {
		return record{}, fmt.Errorf("kernel log: %w", err)
	}
	if at > uint64(1<<63-1)/uint64(time.Microsecond) {
		return record{}, errors.New("kernel log: time out of range")
	}
	text, _, _ = strings.Cut(text, "\n")
	const severities = 8 // the low three bits; the rest is the facility
	return record{segment.Severity(priority % severities), sequence, time.Duration(at) * time.Microsecond, text}, nil
}

// openKernel delivers what the kernel has said since it started, or since a predecessor of this process heard it last,
// and what it will say. A guest whose kernel log cannot be read has a log all the same.
func openKernel(ctx context.Context, env *child.Env) <-chan segment.Entry {
	out := make(chan segment.Entry, most)
	f, err := os.OpenFile(filepath.Join(env.Root, "dev/kmsg"), os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		env.Log.Warn("the kernel's messages are not logged", "error", err)
		env.Tell(child.KeyWarning, "the kernel's messages are not logged: "+err.Error())
		close(out)
		return out
	}
	context.AfterFunc(ctx, func() { f.Close() })
	go func() {
		defer close(out)
		defer f.Close()
		if err := readKernel(f, filepath.Join(env.Root, contract.LogRunDir, "kernel"), out); ctx.Err() == nil {
			env.Tell(child.KeyWarning, "the kernel's messages are not logged any more: "+err.Error())
		}
	}()
	return out
}

// readKernel reads records until it fails. The file at mark, in memory, holds the number of the next one.
func readKernel(f *os.File, mark string, out chan<- segment.Entry) error {
	keep, err := os.OpenFile(mark, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer keep.Close()
	var old [20]byte
	n, _ := keep.ReadAt(old[:], 0)
	next, _ := strconv.ParseUint(strings.TrimSpace(string(old[:n])), 10, 64) // a new file says 0: from the first on
	b := make([]byte, maxRecord)
	lost := uint64(0)
	for {
		n, err := f.Read(b)
		if errors.Is(err, unix.EPIPE) {
			continue // records were overwritten before they were read: the next one's number says how many
		}
		if err != nil {
			return err
		}
		r, err := parseRecord(string(b[:n]))
		if err != nil {
			return err
		}
		if r.sequence < next {
			continue
		}
		if next > 0 {
			lost = r.sequence - next
		}
		now := time.Now()
		if lost > 0 {
			out <- segment.Entry{Time: now, Uptime: r.at, Severity: segment.Warning, From: "kernel",
				Text: fmt.Sprintf("%d messages of the kernel were overwritten before they were read", lost)}
		}
		out <- segment.Entry{Time: now.Add(r.at - boottime.Now()), Uptime: r.at, Severity: r.severity,
			From: "kernel", Text: r.text}
		next = r.sequence + 1
		if _, err := keep.WriteAt(fmt.Appendf(nil, "%-20d", next), 0); err != nil {
			return err
		}
	}
}
