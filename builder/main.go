// Command rempart turns a profile into a master, the read-only disk image of a firewall or service guest, and drives
// the guests made from it.
//
// This package holds the command line and nothing else: one file per subcommand, each a thin caller of the packages
// beside it.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/pflag"

	"rempart/profiles"
)

// Exit codes of every subcommand.
const (
	exitDone      = 0
	exitFailed    = 1
	exitUsage     = 2 // wrong usage, or an invalid profile
	exitDifferent = 3 // a verification found a difference
)

// console is what a subcommand talks to.
type console struct {
	in       io.Reader
	out, err io.Writer
	terminal bool // err is a terminal: progress and colour may be shown
}

// command is one subcommand.
type command struct {
	name     string
	synopsis string // arguments, after the name
	summary  string // one line, lower case, no full stop
	help     string // the rest of `rempart help NAME`
	// setup declares the options and returns what runs once they are parsed.
	setup func(flags *pflag.FlagSet) func(ctx context.Context, c *console, args []string) error
}

// commands are all subcommands, in the order of the help.
func commands() []*command {
	return []*command{newCommand(), checkCommand(), schemaCommand(), buildCommand(), lockCommand(), runCommand(), testCommand(), policyCommand()}
}

// usageError is a mistake in how rempart was called.
type usageError struct{ what string }

func (e usageError) Error() string { return e.what }

// errDifferent is returned by a verification that ran well and found a difference.
var errDifferent = errors.New("a difference was found")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	c := &console{in: os.Stdin, out: os.Stdout, err: os.Stderr, terminal: isTerminal(os.Stderr)}
	code := run(ctx, c, os.Args[1:])
	stop()
	os.Exit(code)
}

func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0 && os.Getenv("TERM") != "dumb"
}

// run carries out one call and returns its exit code.
func run(ctx context.Context, c *console, args []string) int {
	if len(args) == 0 {
		printHelp(c.err)
		return exitUsage
	}
	name := args[0]
	switch name {
	case "help", "-h", "--help":
		if len(args) > 1 {
			if cmd := find(args[1]); cmd != nil {
				printCommandHelp(c.out, cmd)
				return exitDone
			}
			fmt.Fprintf(c.err, "rempart: there is no command %q; `rempart help` lists them\n", args[1])
			return exitUsage
		}
		printHelp(c.out)
		return exitDone
	}
	cmd := find(name)
	if cmd == nil {
		fmt.Fprintf(c.err, "rempart: there is no command %q; `rempart help` lists them\n", name)
		return exitUsage
	}
	flags := pflag.NewFlagSet(name, pflag.ContinueOnError)
	flags.SetOutput(io.Discard)
	do := cmd.setup(flags)
	if err := flags.Parse(args[1:]); err != nil {
		if errors.Is(err, pflag.ErrHelp) {
			printCommandHelp(c.out, cmd)
			return exitDone
		}
		fmt.Fprintf(c.err, "rempart %s: %v; see `rempart help %s`\n", name, err, name)
		return exitUsage
	}
	err := do(ctx, c, flags.Args())
	return report(c, name, err)
}

// report prints an error the way every subcommand does and returns the exit code it stands for.
func report(c *console, name string, err error) int {
	var usage usageError
	var invalid profiles.Invalid
	switch {
	case err == nil:
		return exitDone
	case errors.As(err, &invalid):
		fmt.Fprintln(c.err, invalid.Error())
		return exitUsage
	case errors.As(err, &usage):
		fmt.Fprintf(c.err, "rempart %s: %s; see `rempart help %s`\n", name, usage.what, name)
		return exitUsage
	case errors.Is(err, errDifferent):
		return exitDifferent
	}
	fmt.Fprintf(c.err, "rempart %s: %v\n", name, err)
	return exitFailed
}

func find(name string) *command {
	for _, cmd := range commands() {
		if cmd.name == name {
			return cmd
		}
	}
	return nil
}

func printHelp(w io.Writer) {
	fmt.Fprint(w, "rempart turns a YAML profile into a read-only, byte-identical firewall image and runs it.\n\nUsage: rempart COMMAND [OPTIONS] [ARGUMENTS]\n\nCommands:\n")
	for _, cmd := range commands() {
		fmt.Fprintf(w, "  %-9s %s\n", cmd.name, cmd.summary)
	}
	fmt.Fprint(w, "\n`rempart help COMMAND` tells the rest.\n\nExit status: 0 done, 1 failed, 2 wrong usage or invalid profile, 3 a verification found a difference.\n")
}

func printCommandHelp(w io.Writer, cmd *command) {
	flags := pflag.NewFlagSet(cmd.name, pflag.ContinueOnError)
	cmd.setup(flags)
	fmt.Fprintf(w, "%s\n\nUsage: rempart %s\n", cmd.summary, strings.TrimSpace(cmd.name+" "+cmd.synopsis))
	if cmd.help != "" {
		fmt.Fprintf(w, "\n%s\n", strings.TrimSpace(cmd.help))
	}
	if usages := flags.FlagUsages(); usages != "" {
		fmt.Fprintf(w, "\nOptions:\n%s", usages)
	}
}
