package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/pflag"

	"rempart/profiles"
)

// newCommand is `rempart new`.
func newCommand() *command {
	return &command{
		name:     "new",
		synopsis: "[NAME]",
		summary:  "print a commented profile to start from",
		help: `
Prints the built-in profile NAME, with its comments, for you to change:

    rempart new home-firewall > fw.yaml

Without NAME it lists the built-in profiles, each with its first line.`,
		words: profiles.Builtin,
		setup: func(*pflag.FlagSet) func(ctx context.Context, c *console, args []string) error {
			return func(_ context.Context, c *console, args []string) error {
				switch len(args) {
				case 0:
					return listProfiles(c)
				case 1:
					src, err := profiles.BuiltinSource(args[0])
					if err != nil {
						return usageError{err.Error()}
					}
					_, err = c.out.Write(src)
					return err
				}
				return usageError{"expected at most one name"}
			}
		},
	}
}

func listProfiles(c *console) error {
	for _, name := range profiles.Builtin() {
		src, err := profiles.BuiltinSource(name)
		if err != nil {
			return err
		}
		title, _, _ := strings.Cut(string(src), "\n")
		if _, err := fmt.Fprintf(c.out, "%-16s %s\n", name, strings.TrimPrefix(title, "# ")); err != nil {
			return err
		}
	}
	return nil
}
