package ssh

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"sync"

	"rempart/firstboot/contract"
	"rempart/firstboot/health"
	"rempart/firstboot/logging"
	"rempart/firstboot/logging/segment"
)

// status is the guest's newest report.
type status struct {
	mu     sync.Mutex
	report contract.Report
}

// keep takes reports until there are no more.
func (s *status) keep(reports <-chan contract.Report) {
	for r := range reports {
		s.mu.Lock()
		s.report = r
		s.mu.Unlock()
	}
}

func (s *status) newest() contract.Report {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.report
}

// commands are those that need no rights beyond this child's.
type commands struct {
	root   string
	status *status
}

// Prompt is the guest's name, and whether its root can be written.
func (c *commands) Prompt() string {
	r := c.status.newest()
	word := "read-only"
	if !r.Root.ReadOnlyDisk {
		word = "WRITABLE"
	}
	return r.Name + " [" + word + "]"
}

const help = `status [--json]            what the guest is and whether it does its job
log [-f] [-n LINES]        what happened; -f follows
help                       this
`

// Run implements Commands.
func (c *commands) Run(ctx context.Context, call Call) int {
	var err error
	switch name := call.Args[0]; name {
	case "help", "?":
		_, err = io.WriteString(call.Stdout, help)
	case "status":
		err = c.runStatus(call)
	case "log":
		err = c.runLog(ctx, call)
	default:
		fmt.Fprintf(call.Stderr, "there is no command %.32q; help lists those there are\n", name)
		return exitUsage
	}
	var usage usageError
	switch {
	case errors.As(err, &usage):
		fmt.Fprintln(call.Stderr, err)
		return exitUsage
	case err != nil && ctx.Err() == nil:
		fmt.Fprintln(call.Stderr, err)
		return exitFailed
	}
	return 0
}

// usageError says that a command was called wrongly.
type usageError struct{ error }

// parse reads the options of a command that takes no other arguments.
func parse(flags *flag.FlagSet, call Call) error {
	var words strings.Builder
	flags.SetOutput(&words)
	flags.Usage = func() {}
	err := flags.Parse(call.Args[1:])
	if err == nil && flags.NArg() > 0 {
		err = fmt.Errorf("unexpected %.32q", flags.Arg(0))
	}
	if err != nil {
		words.Reset()
		flags.PrintDefaults()
		return usageError{fmt.Errorf("%s: %w; options are\n%s", call.Args[0], err, strings.TrimRight(words.String(), "\n"))}
	}
	return nil
}

func (c *commands) runStatus(call Call) error {
	flags := flag.NewFlagSet("status", flag.ContinueOnError)
	asJSON := flags.Bool("json", false, "as JSON")
	if err := parse(flags, call); err != nil {
		return err
	}
	r := c.status.newest()
	if *asJSON {
		e := json.NewEncoder(call.Stdout)
		e.SetIndent("", "  ")
		return e.Encode(r)
	}
	words := strings.ReplaceAll(health.Words(contract.Report{}, r), contract.ConsolePrefix, "")
	if words == "" {
		words = "starting\n"
	}
	_, err := io.WriteString(call.Stdout, words)
	return err
}

// defaultLines is how many entries log shows without -n.
const defaultLines = 50

func (c *commands) runLog(ctx context.Context, call Call) error {
	flags := flag.NewFlagSet("log", flag.ContinueOnError)
	follow := flags.Bool("f", false, "go on with what comes")
	lines := flags.Uint64("n", defaultLines, "begin with so many")
	if err := parse(flags, call); err != nil {
		return err
	}
	return logging.Follow(ctx, filepath.Join(c.root, contract.LogSocket), logging.Request{Last: *lines, Follow: *follow},
		func(e segment.Entry) error {
			_, err := fmt.Fprintln(call.Stdout, e)
			return err
		})
}
