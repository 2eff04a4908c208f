// Package health says how the guest is: Judge turns facts into a verdict, and the health child prints it on the
// console, in words, each time it changes. The last line begins with READY or FAILED, for people and programs alike.
//
// What it deliberately does not do: repair anything, or believe a service is well because its process lives; what
// children tell of their work is what is judged.
package health

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"rempart/firstboot/child"
	"rempart/firstboot/contract"
)

// Spec is the child.
func Spec() child.Spec {
	return child.Spec{
		Name:        "health",
		Run:         func(ctx context.Context, env *child.Env) error { return run(ctx, env, os.Stdout) },
		UID:         contract.UIDHealth,
		Console:     true,
		Feed:        true,
		OOMScore:    500,
		MemoryLimit: 8 << 20,
	}
}

func run(ctx context.Context, env *child.Env, w io.Writer) error {
	env.Ready()
	var last contract.Report
	for {
		select {
		case r, ok := <-env.Reports:
			if !ok {
				return nil
			}
			if text := Words(last, r); text != "" {
				if _, err := io.WriteString(w, text); err != nil {
					return fmt.Errorf("console: %w", err)
				}
				last = r
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// Words are the lines for the console when a report follows the last one printed; empty when there is nothing new to
// say: while the guest is starting, or when the verdict is the same for the same reasons.
func Words(last, r contract.Report) string {
	if !r.Settled {
		return ""
	}
	if last.Settled && last.Ready == r.Ready && slices.Equal(last.Failures, r.Failures) &&
		slices.Equal(last.Warnings, r.Warnings) && last.Root.Scrubbed == r.Root.Scrubbed {
		return ""
	}
	var b strings.Builder
	if last.Settled && last.Ready && r.Ready && slices.Equal(last.Warnings, r.Warnings) {
		fmt.Fprintf(&b, "%sroot: every block read, all as its hash says\n", contract.ConsolePrefix)
		return b.String()
	}
	if !last.Settled {
		banner(&b, r)
	}
	for _, w := range r.Warnings {
		fmt.Fprintf(&b, "%swarning: %s\n", contract.ConsolePrefix, w)
	}
	if r.Ready {
		fmt.Fprintf(&b, "%s %s in %.1f s\n", contract.ReadyPrefix, r.Name, r.Times.Ready)
		return b.String()
	}
	fmt.Fprintf(&b, "%s %s: %s\n", contract.FailedPrefix, r.Name, strings.Join(r.Failures, "; "))
	return b.String()
}

// banner says once what this guest is.
func banner(b *strings.Builder, r contract.Report) {
	line := func(format string, args ...any) {
		fmt.Fprintf(b, contract.ConsolePrefix+format+"\n", args...)
	}
	line("%s, rempart %s", r.Name, r.Version)
	root := "root: "
	if r.Root.ReadOnlyDisk {
		root += "read-only"
	} else {
		root += "WRITABLE disk"
	}
	if r.Root.Verified {
		root += ", verified " + r.Root.Hash[:min(16, len(r.Root.Hash))]
	} else {
		root += ", NOT verified"
	}
	line("%s", root)
	switch r.State.Action {
	case "":
		line("state: not ready")
	case "mounted", "formatted", "reformatted", "grown":
		line("state: %s, %s, %d MiB, %d MiB free", r.State.Device, r.State.Action, r.State.Bytes>>20, r.State.Free>>20)
	default:
		line("state: %s; /var is in memory", r.State.Action)
	}
	for _, d := range r.Disks {
		if d.Device == "" {
			line("disk: %s, %s; nothing is on %s", d.Name, d.Action, d.Mount)
		} else {
			line("disk: %s, %s on %s, %s, %d MiB, %d MiB free", d.Name, d.Device, d.Mount, d.Action, d.Bytes>>20, d.Free>>20)
		}
	}
	line("policy: %s", r.Policy)
	for _, l := range r.Links {
		up := "down"
		if l.Up {
			up = "up"
		}
		line("link: %s %s %s %s", l.Name, l.MAC, up, strings.Join(l.Addresses, " "))
	}
}
