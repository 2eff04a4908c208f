package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"rempart/firstboot/child"
	"rempart/firstboot/contract"
	"rempart/firstboot/contract/ctl"
)

// Actions of syslog(2).
const (
	syslogReadAll    = 3
	syslogSizeBuffer = 10
)

func runDmesg(_ context.Context, _ *desk, r ctl.Request) error {
	size, err := unix.Klogctl(syslogSizeBuffer, nil)
	if err != nil {
		return fmt.Errorf("kernel log: %w", err)
	}
	b := make([]byte, size)
	n, err := unix.Klogctl(syslogReadAll, b)
	if err != nil {
		return fmt.Errorf("kernel log: %w", err)
	}
	lines := strings.Split(strings.TrimRight(string(b[:n]), "\n"), "\n")
	flags, asJSON := options(r)
	if err := parse(r, flags); err != nil {
		return err
	}
	for i, line := range lines {
		// <LEVEL>[SECONDS] TEXT; the level is for programs.
		if end := strings.IndexByte(line, '>'); strings.HasPrefix(line, "<") && end > 0 {
			lines[i] = line[end+1:]
		}
	}
	if *asJSON {
		return printJSON(r.Stdout, lines)
	}
	_, err = fmt.Fprintln(r.Stdout, strings.Join(lines, "\n"))
	return err
}

// diskRow is a filesystem.
type diskRow struct {
	Mount string `json:"mount"`
	Type  string `json:"type"`
	Bytes int64  `json:"bytes"`
	Used  int64  `json:"used"`
	Free  int64  `json:"free"`
}

// fileSystems names what a guest mounts; statfs(2).
var fileSystems = map[int64]string{unix.EXT4_SUPER_MAGIC: "ext4", unix.TMPFS_MAGIC: "tmpfs",
	unix.EROFS_SUPER_MAGIC_V1: "erofs"}

func runDisks(_ context.Context, d *desk, r ctl.Request) error {
	var rows []diskRow
	for _, mount := range []string{"/", contract.StateDir, "/run", "/tmp"} {
		var fs unix.Statfs_t
		if err := unix.Statfs(filepath.Join(d.root, mount), &fs); err != nil {
			return fmt.Errorf("%s: %w", mount, err)
		}
		rows = append(rows, diskRow{Mount: mount, Type: dash(fileSystems[int64(fs.Type)]), Bytes: int64(fs.Blocks) * fs.Bsize,
			Used: int64(fs.Blocks-fs.Bfree) * fs.Bsize, Free: int64(fs.Bavail) * fs.Bsize})
	}
	return show(r, rows, "MOUNT\tTYPE\tKIB\tUSED\tFREE", func(f diskRow) string {
		return fmt.Sprintf("%s\t%s\t%d\t%d\t%d", f.Mount, f.Type, f.Bytes>>10, f.Used>>10, f.Free>>10)
	})
}

// leaseRow is what a DHCP server gave a link.
type leaseRow struct {
	Link string `json:"link"`
	// Lease is what the link child keeps of it.
	Lease json.RawMessage `json:"lease"`
}

func runLeases(_ context.Context, d *desk, r ctl.Request) error {
	files, err := filepath.Glob(filepath.Join(d.root, contract.LinkDir, "*.lease"))
	if err != nil {
		return err
	}
	var rows []leaseRow
	for _, file := range files {
		b, err := os.ReadFile(file)
		if errors.Is(err, os.ErrNotExist) {
			continue // given back meanwhile
		}
		if err != nil {
			return fmt.Errorf("leases: %w", err)
		}
		if !json.Valid(b) {
			return fmt.Errorf("leases: %s is not whole", file)
		}
		rows = append(rows, leaseRow{strings.TrimSuffix(filepath.Base(file), ".lease"), b})
	}
	return show(r, rows, "LINK\tLEASE", func(l leaseRow) string {
		var b bytes.Buffer
		_ = json.Compact(&b, l.Lease) // it is valid
		return l.Link + "\t" + b.String()
	})
}

// askEnd has PID 1 end the guest. The answer goes out first: nothing may come after.
func askEnd(verb, words string) func(context.Context, *desk, ctl.Request) error {
	return func(_ context.Context, d *desk, r ctl.Request) error {
		flags, _ := options(r)
		if err := parse(r, flags); err != nil {
			return err
		}
		if _, err := fmt.Fprintln(r.Stdout, words); err != nil {
			return err
		}
		d.tell(child.KeyRequest, child.Request{Verb: verb})
		return nil
	}
}
