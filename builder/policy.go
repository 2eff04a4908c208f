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
		synopsis: "show PROFILE | explain PROFILE | diff PROFILE PROFILE",
		summary:  "show, explain and compare the packet filter rules profiles become",
		help: `
A PROFILE is a file, - for standard input, or the name of a built-in one.

show prints the rules as a script for nft(8): what a guest loads, made from the same form. Loading it by hand replaces
the table inet rempart in one transaction and touches no other. Each rule's comment names the line and column of the
profile it comes from. Bans are a table of their own, inet rempart-bans, printed after it. With --closed it prints the
rules that hold until the policy is loaded, and when it cannot be.

explain tells what becomes of a flow and which words of the profile decide, with their place:

  rempart policy explain --from internet --to self --tcp 80 home-firewall

Without --src and --dst it answers for each kind of host the policy tells apart, with an example.

diff prints the rules that only one of two profiles has, without the places they come from, and the flows whose fate
differs.

Exit status: 0 done, or no difference, 1 failed, 2 wrong usage or invalid profile, 3 diff found a difference.`,
		words: func() []string { return append([]string{"show", "explain", "diff"}, profiles.Builtin()...) },
		files: true,
		setup: func(flags *pflag.FlagSet) func(ctx context.Context, c *console, args []string) error {
			closed := flags.Bool("closed", false, "show: print the closed rules instead")
			asJSON := flags.Bool("json", false, "explain: print the answers as JSON")
			var q question
			flags.StringVar(&q.from, "from", "", "explain: zone the flow comes from, or self")
			flags.StringVar(&q.to, "to", "", "explain: zone it goes to, or self")
			flags.StringVar(&q.src, "src", "", "explain: address it comes from")
			flags.StringVar(&q.dst, "dst", "", "explain: address it goes to")
			flags.Uint16Var(&q.tcp, "tcp", 0, "explain: TCP port it goes to")
			flags.Uint16Var(&q.udp, "udp", 0, "explain: UDP port it goes to")
			flags.BoolVar(&q.ping, "ping", false, "explain: an echo request")
			return func(_ context.Context, c *console, args []string) error {
				switch {
				case len(args) == 2 && args[0] == "show":
					return showPolicy(c, args[1], *closed)
				case len(args) == 2 && args[0] == "explain":
					return explainPolicy(c, args[1], q, *asJSON)
				case len(args) == 3 && args[0] == "diff":
					return diffPolicies(c, args[1], args[2])
				}
				return usageError{"expected show or explain and one profile, or diff and two"}
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
	text := rules.Text()
	if len(p.Bans) > 0 && !closed {
		bans, err := filter.Bans(p)
		if err != nil {
			return fmt.Errorf("profile %s: %w", p.Name, err)
		}
		text += bans.Text()
	}
	_, err = fmt.Fprint(c.out, text)
	return err
}
