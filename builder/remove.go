package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/pflag"

	"rempart/builder/guest/home"
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
			return guestCommand(func(ctx context.Context, c *console, name string) error {
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
				if err := notRunning(g); err != nil {
					return err
				}
				if err := notPending(g); err != nil && !*data {
					return err
				}
				if err := g.Remove(ctx, *data); err != nil {
					return err
				}
				if *data {
					fmt.Fprintf(c.out, "%s and its disks are gone\n", name)
				} else {
					fmt.Fprintf(c.out, "%s is no guest any more; its disks stay in %s\n", name, whereDisks(g))
				}
				return nil
			})(flags)
		},
	}
}

// whereDisks says where the disks of a guest are.
func whereDisks(g *home.Guest) string {
	if g.Volumes == "" {
		return g.Dir
	}
	return g.Dir + " and in " + g.Volumes
}
