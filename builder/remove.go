package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/pflag"

	"rempart/builder/guest/home"
	"rempart/builder/guest/running"
)

// removeCommand is `rempart rm`.
func removeCommand() *command {
	return &command{
		name:     "rm",
		synopsis: "GUEST",
		summary:  "take a guest off; its disks stay unless --data says so",
		help: `
The guest must not run. Its state disk, its identity disk and its quarantine stay in its folder, for
` + "`rempart create --adopt`" + ` or for looking at; with --data they go too. The files of --data disks, which are
yours, and the master stay in any case.`,
		words: createdNames,
		setup: func(flags *pflag.FlagSet) func(context.Context, *console, []string) error {
			data := flags.Bool("data", false, "remove its disks and its quarantine too, for good")
			return guestCommand(func(_ context.Context, c *console, name string) error {
				h, err := home.Default()
				if err != nil {
					return err
				}
				g, err := h.Lock(name, "rempart rm")
				if errors.Is(err, home.ErrUnknown) && *data {
					g, err = h.Left(name)
				}
				if err != nil {
					return err
				}
				defer g.Unlock()
				if r, err := g.Running(); err == nil {
					return fmt.Errorf("%w: %s, kept by process %d; stop it first: rempart stop %[2]s", home.ErrRuns, name, r.PID)
				} else if !errors.Is(err, running.ErrAbsent) {
					return err
				}
				if err := notPending(g); err != nil && !*data {
					return err
				}
				if err := g.Remove(*data); err != nil {
					return err
				}
				if *data {
					fmt.Fprintf(c.out, "%s and its disks are gone\n", name)
				} else {
					fmt.Fprintf(c.out, "%s is no guest any more; its disks stay in %s\n", name, g.Dir)
				}
				return nil
			})(flags)
		},
	}
}
