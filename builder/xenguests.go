package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/pflag"

	"rempart/builder/hypervisor/xen"
	"rempart/firstboot/contract"
)

// xenCommand is `rempart xen`.
func xenCommand() *command {
	return &command{
		name:     "xen",
		synopsis: "VERB [GUEST]",
		summary:  "start, list, await and stop guests of Xen on this host, through xl",
		help: `
For the dom0 that has xl, as root. ` + "`rempart export --to xl`" + ` writes what create takes.

  create FILE    start a guest and wait until it says READY in xenstore
  list           the guests that run, ours and others
  report GUEST   what a guest last said of itself, as JSON: the claim of a guest that may be compromised
  stop GUEST     have one end in order; when it takes longer than --patience it is destroyed
  destroy GUEST  end one as pulling the plug ends a machine
  console GUEST  its console on this terminal; Ctrl-] leaves it

Exit status: 0 done, 1 failed, or stop had to destroy, 2 wrong usage.`,
		words: func() []string { return xenVerbs },
		files: true,
		setup: func(flags *pflag.FlagSet) func(context.Context, *console, []string) error {
			var x xenGuests
			flags.DurationVar(&x.patience, "patience", 2*time.Minute, "how long create waits for READY and stop for the end")
			flags.BoolVar(&x.json, "json", false, "list: print as JSON")
			return x.run
		},
	}
}

var xenVerbs = []string{"create", "list", "report", "stop", "destroy", "console"}

// xenGuests is one call of `rempart xen`.
type xenGuests struct {
	patience time.Duration
	json     bool
	tools    xen.Toolstack
}

func (x *xenGuests) run(ctx context.Context, c *console, args []string) error {
	if len(args) == 0 || !slices.Contains(xenVerbs, args[0]) {
		return usageError{"want one of " + strings.Join(xenVerbs, ", ")}
	}
	verb, rest := args[0], args[1:]
	if want := map[bool]int{true: 0, false: 1}[verb == "list"]; len(rest) != want {
		return usageError{fmt.Sprintf("xen %s: want %d words after it, got %d", verb, want, len(rest))}
	}
	if x.patience <= 0 {
		return usageError{fmt.Sprintf("--patience %v: want more than none", x.patience)}
	}
	if _, err := exec.LookPath("xl"); err != nil {
		return fmt.Errorf("xl is not on this machine; this is for the dom0 of a Xen host: %w", err)
	}
	switch verb {
	case "list":
		return x.list(ctx, c)
	case "create":
		return x.create(ctx, c, rest[0])
	case "report":
		return x.report(ctx, c, rest[0])
	case "stop":
		return x.tools.Shutdown(ctx, rest[0], x.patience)
	case "destroy":
		return x.tools.Destroy(ctx, rest[0])
	}
	return xenConsole(ctx, rest[0])
}

// xenConsole puts the console of a guest of Xen on this terminal.
func xenConsole(ctx context.Context, name string) error {
	cmd := exec.CommandContext(ctx, "xl", "console", name)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	return cmd.Run()
}

// create starts a guest by the name its configuration gives it.
func (x *xenGuests) create(ctx context.Context, c *console, file string) error {
	dry, err := x.tools.Dry(ctx, file)
	if err != nil {
		return err
	}
	name, err := nameOf(dry)
	if err != nil {
		return fmt.Errorf("xl create --dryrun %s: %w", file, err)
	}
	if err := x.tools.Create(ctx, file); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, x.patience)
	defer cancel()
	r, err := x.tools.Await(ctx, name)
	if err != nil {
		return fmt.Errorf("guest %s runs and is not %s; `rempart xen console %s` shows why: %w", name, contract.ReadyPrefix,
			name, err)
	}
	fmt.Fprintf(c.out, "%s %s in %.1f s\n", name, contract.ReadyPrefix, r.Times.Ready)
	return nil
}

// nameOf reads the name out of what `xl create --dryrun` prints: JSON, after lines for people.
func nameOf(dry []byte) (string, error) {
	var config struct {
		Info struct {
			Name string `json:"name"`
		} `json:"c_info"`
	}
	_, text, found := strings.Cut("\n"+string(dry), "\n{") // those lines name the file, which may have a brace
	if !found {
		return "", fmt.Errorf("%.80q holds no configuration", dry)
	}
	if err := json.NewDecoder(strings.NewReader("{" + text)).Decode(&config); err != nil {
		return "", fmt.Errorf("its answer: %w", err)
	}
	if config.Info.Name == "" {
		return "", fmt.Errorf("%.80q names no guest", dry)
	}
	return config.Info.Name, nil
}

func (x *xenGuests) list(ctx context.Context, c *console) error {
	domains, err := x.tools.List(ctx)
	if err != nil {
		return err
	}
	if x.json {
		return printJSON(c.out, domains)
	}
	w := tabwriter.NewWriter(c.out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tID\tTYPE\tMEMORY\tNICS\tSTATUS")
	for _, d := range domains {
		status, err := x.tools.Status(ctx, d.ID)
		if err != nil {
			status = "-" // somebody else's guest, or one that has said nothing yet
		}
		fmt.Fprintf(w, "%s\t%d\t%s\t%dM\t%d\t%s\n", d.Name, d.ID, d.Mode, d.Memory>>20, len(d.VIFs), status)
	}
	return w.Flush()
}

func (x *xenGuests) report(ctx context.Context, c *console, name string) error {
	id, err := x.tools.ID(ctx, name)
	if err != nil {
		return err
	}
	r, err := x.tools.Report(ctx, id)
	if err != nil {
		return err
	}
	return printJSON(c.out, r)
}
