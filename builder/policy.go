package main

import (
	"context"
	"fmt"

	"github.com/spf13/pflag"

	"rempart/firstboot/filter"
	"rempart/profiles"
)

// policyCommand is `rempart policy`.
func policyCommand() *command {
	return &command{
		name:     "policy",
		synopsis: "show FILE|NAME|-",
		summary:  "show the packet filter rules a profile becomes",
		help: `
Prints the rules as a script for nft(8): what a guest loads, made from the same form. Loading it by hand replaces the
table inet rempart in one transaction and touches no other. Each rule's comment names the line and column of the
profile it comes from.

With --closed it prints the rules that hold until the policy is loaded, and when it cannot be.`,
		words: func() []string { return append([]string{"show"}, profiles.Builtin()...) },
		files: true,
		setup: func(flags *pflag.FlagSet) func(ctx context.Context, c *console, args []string) error {
			closed := flags.Bool("closed", false, "print the closed rules instead")
			return func(_ context.Context, c *console, args []string) error {
				if len(args) != 2 || args[0] != "show" {
					return usageError{"expected show and one profile"}
				}
				return showPolicy(c, args[1], *closed)
			}
		},
	}
}

func showPolicy(c *console, name string, closed bool) error {
	p, err := profiles.Load(name)
	if err != nil {
		return err
	}
	compile := filter.Compile
	if closed {
		compile = filter.Closed
	}
	rules, err := compile(p)
	if err != nil {
		return fmt.Errorf("profile %s: %w", p.Name, err)
	}
	_, err = fmt.Fprint(c.out, rules.Text())
	return err
}
