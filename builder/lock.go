package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"

	"github.com/spf13/pflag"

	"rempart/builder/debian"
)

// lockCommand is `rempart lock`.
func lockCommand() *command {
	return &command{
		name:     "lock",
		synopsis: "[-o FILE] [OPTIONS]",
		summary:  "renew the list of Debian packages masters are made of, and show what changes",
		help: `
Reads the newest packages of a Debian release, security updates included, from a mirror: what Debian's archive keys
have signed, nothing else. Writes their names, versions and digests to the lock file (-o) and prints how it differs
from the one before: the file of --lock, else that of -o where it is there, else the one rempart carries. Without -o
nothing is written.

A build uses the lock it is given with --lock. Review the difference as you would review an update of a server.`,
		setup: func(flags *pflag.FlagSet) func(ctx context.Context, c *console, args []string) error {
			var o debian.Options
			output := flags.StringP("output", "o", "", "lock file to write")
			before := flags.String("lock", "", "lock file to compare with and start from")
			suite := flags.String("suite", "", "code name of the Debian release (default that of the lock before)")
			arch := flags.String("arch", "", "architecture, amd64 or arm64 (default that of the lock before)")
			oneOf(flags, "arch", guestArches)
			flags.StringVar(&o.Mirror, "mirror", os.Getenv(mirrorVar),
				"Debian mirror: http(s) address, file: or directory; default: $"+mirrorVar+", or from apt")
			flags.StringVar(&o.SecurityMirror, "security-mirror", "",
				"mirror of the security archive (default beside --mirror, or from apt), or none")
			verbose := flags.BoolP("verbose", "v", false, "tell which mirrors are used and why others are not")
			return func(ctx context.Context, c *console, args []string) error {
				if len(args) > 0 {
					return usageError{fmt.Sprintf("unexpected argument %q", args[0])}
				}
				old, err := lockBefore(*before, *output, *arch)
				if err != nil {
					return err
				}
				if *suite == "" {
					*suite = debian.DefaultSuite
					if old != nil {
						*suite = old.Suite
					}
				}
				if *arch == "" {
					*arch = "amd64"
					if old != nil {
						*arch = old.Arch
					}
				}
				if old != nil && old.Arch != *arch {
					if *before != "" || *output != "" {
						return usageError{fmt.Sprintf("the lock there is for %s, not %s: give another file", old.Arch, *arch)}
					}
					old = nil
				}
				level := slog.LevelWarn
				if *verbose {
					level = slog.LevelDebug
				}
				o.Log = slog.New(slog.NewTextHandler(c.err, &slog.HandlerOptions{Level: level}))
				if c.terminal {
					o.Progress = debian.ProgressLine(c.err)
				}
				store, err := debian.OpenStore(o)
				if err != nil {
					return err
				}
				renewed, err := store.Renew(ctx, *suite, *arch, old)
				if err != nil {
					return err
				}
				if *output != "" {
					if err := renewed.WriteFile(*output); err != nil {
						return err
					}
				}
				changes := renewed.Changes(old)
				for _, change := range changes {
					fmt.Fprintln(c.out, change)
				}
				if len(changes) == 0 {
					fmt.Fprintf(c.out, "no change: all %d packages are the newest\n", len(renewed.Packages))
				}
				return nil
			}
		},
	}
}

// lockBefore is the lock to compare with: nil where there is none for the architecture.
func lockBefore(given, output, arch string) (*debian.Lock, error) {
	if given != "" {
		return debian.ReadLock(given)
	}
	if output != "" {
		lock, err := debian.ReadLock(output)
		if err == nil || !errors.Is(err, fs.ErrNotExist) {
			return lock, err
		}
	}
	if arch == "" {
		arch = "amd64"
	}
	lock, err := debian.DefaultLock(arch)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return lock, err
}
