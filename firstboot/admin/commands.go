package admin

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"rempart/firstboot/contract"
	"rempart/firstboot/contract/ctl"
	"rempart/firstboot/health"
)

// command is one thing an administrator may ask for.
type command struct {
	name, synopsis, summary string
	run                     func(ctx context.Context, d *desk, r ctl.Request) error
}

// commands are all commands, in the order of the help.
func commands() []command {
	return []command{
		{"status", "[--json]", "what the guest is, and whether it does its job", runStatus},
		{"log", "[-f] [-n LINES] [--from NAME] [--json]", "what happened; -f goes on with what comes", runLog},
		{"links", "[--json]", "interfaces: state, addresses, what went through them", runLinks},
		{"routes", "[--json]", "routes of all tables", runRoutes},
		{"neigh", "[--json]", "hosts the guest has seen on its links", runNeighbours},
		{"leases", "[--json]", "what DHCP servers gave the guest", runLeases},
		{"served", "[--json]", "which addresses the guest gave to whom", runServed},
		{"release", "ADDRESS|PREFIX", "end a lease that the guest gave", runRelease},
		{"policy", "[--json]", "the rules of the profile in force, as nft text", runPolicy},
		{"sets", "[--json]", "sets of addresses, and how the lists stand that some are taken from", runSets},
		{"counters", "[--json]", "what the rules have counted", runCounters},
		{"conntrack", "[--json]", "the connections that pass", runConntrack},
		{"time", "[--json]", "how the clock is kept", runTime},
		{"dns", "[--json]", "how the name service does", runDNS},
		{"ping", "ADDRESS [--count N]", "whether a host answers", runPing},
		{"resolve", "NAME|ADDRESS [--server ADDRESS]", "what the guest's name servers say", runResolve},
		{"capture", "LINK [--count N] [--seconds N] [--host ADDRESS] [--port N]",
			"what passes a link, in the format of tcpdump -w", runCapture},
		{"bans", "[--json]", "who is shut out, and for how long", runBans},
		{"ban", "ADDRESS [--for 1h]", "shut a source out: an IPv4 address, or the /64 of an IPv6 one", runBan},
		{"unban", "ADDRESS", "let a source in again", runUnban},
		{"dmesg", "[--json]", "what the kernel says", runDmesg},
		{"df", "[--json]", "filesystems and their room", runDisks},
		{"top", "[-f] [--every SECONDS] [--json]", "what takes processor and memory; -f goes on", runTop},
		{"profile", "[--stored DIGEST]", "the profile in force, as JSON; or what is stored beside it", runProfile},
		{"apply", "[--undo-after SECONDS]", "put the change on standard input in force; undone unless confirmed", runApply},
		{"confirm", "", "keep the change, until the guest starts anew", runConfirm},
		{"undo", "", "take the change back at once", runUndo},
		{"reboot", "", "start the guest anew", askEnd("reboot", "the guest starts anew")},
		{"poweroff", "", "switch the guest off, in order", askEnd("poweroff", "the guest switches itself off")},
		{"help", "", "this list", runHelp},
	}
}

// usageError says that a command was called wrongly.
type usageError struct{ error }

// parse reads the options of a command that takes no other words.
func parse(r ctl.Request, flags *flag.FlagSet) error {
	flags.SetOutput(io.Discard)
	if err := flags.Parse(r.Args[1:]); err != nil {
		return usageError{err}
	}
	if flags.NArg() > 0 {
		return usageError{fmt.Errorf("unexpected %.32q", flags.Arg(0))}
	}
	return nil
}

// parseWords reads the options of a command and its words, which may come before, between and after them.
func parseWords(r ctl.Request, flags *flag.FlagSet) (words []string, err error) {
	flags.SetOutput(io.Discard)
	for rest := r.Args[1:]; len(rest) > 0; {
		if err := flags.Parse(rest); err != nil {
			return nil, usageError{err}
		}
		if rest = flags.Args(); len(rest) > 0 {
			words, rest = append(words, rest[0]), rest[1:]
		}
	}
	return words, nil
}

// options begins the options of a command with the one nearly all have.
func options(r ctl.Request) (flags *flag.FlagSet, asJSON *bool) {
	flags = flag.NewFlagSet(r.Args[0], flag.ContinueOnError)
	return flags, flags.Bool("json", false, "answer as JSON")
}

func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

func runHelp(_ context.Context, _ *desk, r ctl.Request) error {
	w := tabwriter.NewWriter(r.Stdout, 0, 8, 2, ' ', 0)
	for _, c := range commands() {
		fmt.Fprintf(w, "%s\t%s\n", strings.TrimSpace(c.name+" "+c.synopsis), c.summary)
	}
	return w.Flush()
}

func runStatus(_ context.Context, d *desk, r ctl.Request) error {
	flags, asJSON := options(r)
	if err := parse(r, flags); err != nil {
		return err
	}
	report, _ := d.news.newest()
	if *asJSON {
		return printJSON(r.Stdout, report)
	}
	words := strings.ReplaceAll(health.Words(contract.Report{}, report), contract.ConsolePrefix, "")
	if words == "" {
		words = "starting\n"
	}
	_, err := io.WriteString(r.Stdout, words)
	return err
}
