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
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/pflag"
	"golang.org/x/term"

	"rempart/builder/boot"
	"rempart/builder/debian"
	"rempart/builder/guest/reprovision"
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
	terminal bool // err is a terminal: progress may be shown
	colour   bool // out is a terminal whose owner wants colours
}

// command is one subcommand.
type command struct {
	name     string
	synopsis string // arguments, after the name
	summary  string // one line, lower case, no full stop
	help     string // the rest of `rempart help NAME`
	// What its arguments can be, for completion: words, files, or both.
	words func() []string
	files bool
	// setup declares the options and returns what runs once they are parsed.
	setup func(flags *pflag.FlagSet) func(ctx context.Context, c *console, args []string) error
}

// commands are all subcommands, in the order of the help.
func commands() []*command {
	return slices.Concat([]*command{newCommand(), checkCommand(), schemaCommand(), policyCommand(), buildCommand(),
		masterCommand(), lockCommand(), runCommand(), createCommand(), listCommand(), statusCommand(), watchCommand(),
		startCommand(),
		stopCommand(), removeCommand(), verifyCommand(), diskCommand(), consoleCommand(), sshCommand(), ctlCommand(),
		exportCommand(), xenCommand(), hostCommand()},
		changeCommands(), liveCommands(),
		[]*command{convertCommand(), testCommand(), versionCommand(), completionCommand()})
}

// usageError is a mistake in how rempart was called.
type usageError struct{ what string }

func (e usageError) Error() string { return e.what }

// errDifferent is returned by a verification that ran well and found a difference.
var errDifferent = errors.New("a difference was found")

// errInterrupted is what the person who pressed Ctrl-C is told.
var errInterrupted = errors.New("interrupted")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	c := &console{in: os.Stdin, out: os.Stdout, err: os.Stderr, terminal: isTerminal(os.Stderr),
		// https://no-color.org: set to anything but the empty string, it forbids colours
		colour: isTerminal(os.Stdout) && os.Getenv("NO_COLOR") == ""}
	code := run(ctx, c, os.Args[1:])
	stop()
	os.Exit(code)
}

func isTerminal(f *os.File) bool {
	return term.IsTerminal(int(f.Fd())) && os.Getenv("TERM") != "dumb"
}

// run carries out one call and returns its exit code.
func run(ctx context.Context, c *console, args []string) int {
	// What cannot be printed is a failure of every subcommand: a script must not take half a profile for a whole one.
	out := &checkedWriter{w: c.out}
	checked := *c
	checked.out = out
	code := dispatch(ctx, &checked, args)
	if out.err != nil && code != exitFailed {
		fmt.Fprintf(c.err, "rempart: standard output: %v\n", out.err)
		return exitFailed
	}
	return code
}

// checkedWriter remembers the first error and writes nothing after it.
type checkedWriter struct {
	w   io.Writer
	err error
}

func (c *checkedWriter) Write(b []byte) (int, error) {
	if c.err != nil {
		return 0, c.err
	}
	var n int
	n, c.err = c.w.Write(b)
	return n, c.err
}

func dispatch(ctx context.Context, c *console, args []string) int {
	if len(args) == 0 {
		printHelp(c.err)
		return exitUsage
	}
	name := args[0]
	switch name {
	case "help", "-h", "--help":
		return help(c, args[1:])
	case "--version":
		name = "version"
	}
	cmd := find(name)
	if cmd == nil {
		return unknownCommand(c, name)
	}
	flags := pflag.NewFlagSet(name, pflag.ContinueOnError)
	flags.SetOutput(io.Discard)
	do := cmd.setup(flags)
	if err := flags.Parse(args[1:]); err != nil {
		if errors.Is(err, pflag.ErrHelp) {
			printCommandHelp(c.out, cmd)
			return exitDone
		}
		fmt.Fprintf(c.err, "rempart %s: %v%s; see `rempart help %s`\n", name, err, likeOption(flags, err), name)
		return exitUsage
	}
	err := do(ctx, c, flags.Args())
	if err != nil && errors.Is(err, context.Canceled) && ctx.Err() != nil {
		err = interrupted(err)
	}
	return report(c, name, err)
}

// interrupted is what is told of a command that Ctrl-C ended: of a change of a guest also what there is to do about it.
func interrupted(err error) error {
	if errors.Is(err, reprovision.ErrPending) {
		return fmt.Errorf("%w: %w", errInterrupted, err)
	}
	return errInterrupted
}

func help(c *console, args []string) int {
	switch len(args) {
	case 0:
		printHelp(c.out)
		return exitDone
	case 1:
		if cmd := find(args[0]); cmd != nil {
			printCommandHelp(c.out, cmd)
			return exitDone
		}
		return unknownCommand(c, args[0])
	}
	fmt.Fprintln(c.err, "rempart help: expected one command; `rempart help` lists them")
	return exitUsage
}

func unknownCommand(c *console, name string) int {
	if strings.HasPrefix(name, "-") {
		fmt.Fprintf(c.err, "rempart: expected a command before the option %q; `rempart help` lists them\n", name)
		return exitUsage
	}
	list := []string{"help"}
	for _, cmd := range commands() {
		list = append(list, cmd.name)
	}
	hint := profiles.Suggest(name, list)
	if !strings.HasPrefix(hint, "did") {
		hint = "`rempart help` lists them"
	}
	fmt.Fprintf(c.err, "rempart: there is no command %q; %s\n", name, hint)
	return exitUsage
}

// likeOption is a hint at the option that may have been meant.
func likeOption(flags *pflag.FlagSet, err error) string {
	var unknown *pflag.NotExistError
	if !errors.As(err, &unknown) {
		return ""
	}
	var list []string
	flags.VisitAll(func(f *pflag.Flag) { list = append(list, "--"+f.Name) })
	if hint := profiles.Suggest("--"+unknown.GetSpecifiedName(), list); strings.HasPrefix(hint, "did") {
		return "; " + hint
	}
	return ""
}

// codeOf is the exit code that an error of a subcommand stands for.
func codeOf(err error) int {
	var usage usageError
	var invalid profiles.Invalid
	var status exitStatus
	switch {
	case err == nil:
		return exitDone
	case errors.As(err, &invalid), errors.As(err, &usage), errors.Is(err, boot.ErrArch), errors.Is(err, debian.ErrUnknown):
		return exitUsage
	case errors.Is(err, errDifferent):
		return exitDifferent
	case errors.As(err, &status):
		return int(status)
	}
	return exitFailed
}

// report prints an error the way every subcommand does and returns the exit code it stands for.
func report(c *console, name string, err error) int {
	code := codeOf(err)
	var invalid profiles.Invalid
	var status exitStatus
	switch {
	case errors.As(err, &status):
	case errors.As(err, &invalid):
		fmt.Fprintln(c.err, invalid.Error())
	case code == exitUsage:
		fmt.Fprintf(c.err, "rempart %s: %v; see `rempart help %s`\n", name, err, name)
	case code == exitFailed:
		// An error may quote what a guest wrote: no terminal obeys it.
		fmt.Fprintf(c.err, "rempart %s: %s\n", name, printable(err.Error()))
	}
	return code
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
	fmt.Fprint(w, "rempart turns a YAML profile into a read-only, byte-identical firewall image and runs it.\n\n"+
		"Usage: rempart COMMAND [OPTIONS] [ARGUMENTS]\n\nCommands:\n")
	for _, cmd := range commands() {
		fmt.Fprintf(w, "  %-10s %s\n", cmd.name, cmd.summary)
	}
	fmt.Fprint(w, "\n`rempart help COMMAND` tells the rest, `rempart completion` teaches it to your shell.\n\n"+
		"Exit status: 0 done, 1 failed, 2 wrong usage or invalid profile, 3 a verification found a difference.\n")
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
