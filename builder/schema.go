package main

import (
	"context"

	"github.com/spf13/pflag"

	"rempart/profiles"
)

// schemaCommand is `rempart schema`.
func schemaCommand() *command {
	return &command{
		name:    "schema",
		summary: "print the JSON Schema of profiles, for editors",
		help: `
Prints a JSON Schema (draft 2020-12). With it an editor completes and checks keys and values as you type; what needs
a look at the whole profile only ` + "`rempart check`" + ` finds. For editors that use yaml-language-server:

    rempart schema > rempart.schema.json

and at the top of a profile:

    # yaml-language-server: $schema=./rempart.schema.json`,
		setup: func(*pflag.FlagSet) func(ctx context.Context, c *console, args []string) error {
			return func(_ context.Context, c *console, args []string) error {
				if len(args) != 0 {
					return usageError{"expected no arguments"}
				}
				_, err := c.out.Write(profiles.Schema())
				return err
			}
		},
	}
}
