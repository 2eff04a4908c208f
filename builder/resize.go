package main

import (
	"context"
	"fmt"

	"github.com/spf13/pflag"
)

// resizeCommand is `rempart resize`.
func resizeCommand() *command {
	return &command{
		name:     "resize",
		synopsis: "GUEST SIZE",
		summary:  "make the state disk of a guest larger",
		help: `
SIZE is that of the whole disk, such as 4G; a volume of LVM gets whole extents. The guest must not run; at its next
start it grows the filesystem itself. A state disk only grows: for a smaller one make another guest.`,
		words: createdNames,
		setup: func(*pflag.FlagSet) func(context.Context, *console, []string) error {
			return func(ctx context.Context, c *console, args []string) error {
				if len(args) != 2 {
					return usageError{"want a guest and the size of its state disk"}
				}
				size, err := parseSize("SIZE", args[1])
				if err != nil {
					return err
				}
				return resize(ctx, c, args[0], size)
			}
		},
	}
}

func resize(ctx context.Context, c *console, name string, size int64) error {
	g, err := lockUnchanged(name, "rempart resize")
	if err != nil {
		return err
	}
	defer g.Unlock()
	if err := notRunning(g); err != nil {
		return err
	}
	before := g.State
	if err := g.Resize(ctx, size); err != nil {
		return err
	}
	fmt.Fprintf(c.out, "%s: its state disk has %d bytes, %d before; it grows the filesystem at its next start\n", name,
		g.State, before)
	return nil
}
