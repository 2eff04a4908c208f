package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/pflag"

	"rempart/builder/guest/home"
	"rempart/builder/guest/keeper"
	"rempart/builder/guest/progress"
	"rempart/builder/guest/reprovision"
	"rempart/builder/guest/running"
	"rempart/builder/guest/storage"
)

// guestStatus is what is known of a guest from outside, and what it says of itself.
type guestStatus struct {
	Name     string     `json:"name"`
	Phase    string     `json:"phase"` // "stopped", "starting", "ready", "failed", "ended", "unknown"
	Why      string     `json:"why,omitempty"`
	Since    *time.Time `json:"since,omitempty"` // of a guest that runs
	Master   string     `json:"master"`          // digest of the master it boots next
	Runs     string     `json:"runs,omitempty"`  // folder of the master it runs from
	Previous string     `json:"previous,omitempty"`
	Title    string     `json:"title,omitempty"` // the master's name
	Tags     []string   `json:"tags,omitempty"`
	Image    bool       `json:"image,omitempty"` // it is another system's, and its state is an overlay
	State    int64      `json:"state"`           // size of the state disk in bytes
	Used     int64      `json:"state_used"`      // bytes of it that take room on this machine
	SSH      string     `json:"ssh,omitempty"`
	PID      int        `json:"pid,omitempty"`
	Accel    string     `json:"accel,omitempty"`
	Domain   int        `json:"domain,omitempty"` // its number, of a guest of Xen that runs
	Dir      string     `json:"dir"`
	Pending  string     `json:"pending,omitempty"` // the change that is not over, and how far it is
	// AtWork is the command that is at work on the guest and that can be watched.
	AtWork *progress.Work `json:"at_work,omitempty"`
	// LastEnd tells how the last run ended, of a guest that does not run.
	LastEnd *home.Ended `json:"last_end,omitempty"`
	Problem []string    `json:"problems,omitempty"`
}

const (
	phaseStopped = "stopped"
	phaseUnknown = "unknown"
)

// statusTime bounds asking the process that keeps a guest.
const statusTime = 10 * time.Second

// statusOf finds out how a guest is. What cannot be found out is told, and does not hide the rest.
func statusOf(ctx context.Context, g *home.Guest) guestStatus {
	s := guestStatus{Name: g.Name, Phase: phaseStopped, Master: g.Master, Previous: g.Previous, State: g.State, Dir: g.Dir,
		Image: g.Image != nil}
	problem := func(err error) { s.Problem = append(s.Problem, printable(err.Error())) }
	if m, kept, err := masterOf(g); err != nil {
		problem(err)
	} else {
		s.Title, s.Tags = printable(m.Manifest.Master.Name), kept.Tags
	}
	if used, err := g.Disks().Used(ctx, storage.Disk{Kind: storage.State}); err == nil {
		s.Used = used[0]
	}
	if p, last, err := reprovision.Pending(g); err == nil {
		s.Pending = fmt.Sprintf("%s %s to master %.12s, last step: %s", p.Kind, p.ID, p.To, printable(last))
	} else if !errors.Is(err, reprovision.ErrNone) {
		problem(err)
	}
	var err error
	if s.AtWork, err = progress.Now(g.Dir); err != nil {
		problem(err)
	}
	r, err := g.Running()
	if errors.Is(err, running.ErrAbsent) {
		if err := g.Missing(ctx); err != nil && s.Pending == "" {
			problem(err)
		}
		var killed bool
		if s.LastEnd, killed = g.LastEnd(); killed && g.Xen != nil {
			s.Why = "it ended by itself; see " + xlLog(g.Name)
		} else if killed {
			s.Why = "the process that kept it was killed"
		} else if s.LastEnd != nil {
			s.Why = strings.TrimSpace(s.LastEnd.Cause + " " + printable(s.LastEnd.Detail))
		}
		return s
	}
	if err != nil {
		s.Phase = phaseUnknown
		problem(err)
		return s
	}
	s.SSH, s.PID, s.Runs = r.SSH, r.PID, r.Master
	if r.Xen {
		if err := xenStatus(ctx, &s); err != nil {
			problem(err)
		}
		return s
	}
	ctx, cancel := context.WithTimeout(ctx, statusTime)
	defer cancel()
	a, err := keeper.Ask(ctx, r.Keeper(), keeper.Request{Do: keeper.DoStatus})
	if err != nil {
		s.Phase = phaseUnknown
		problem(err)
		return s
	}
	s.Phase, s.Why, s.Accel, s.Since = a.Phase, printable(a.Why), a.Accel, &a.Since
	return s
}

// statusCommand is `rempart status`.
func statusCommand() *command {
	return &command{
		name:     "status",
		synopsis: "GUEST",
		summary:  "how a guest is that was created, seen from outside",
		help: `
What the guest says of itself in detail, ` + "`rempart ctl GUEST status`" + ` tells.

Exit status: 0 when it is READY or stopped, 1 when it failed or something of it is missing.`,
		words: createdNames,
		setup: func(flags *pflag.FlagSet) func(context.Context, *console, []string) error {
			asJSON := flags.Bool("json", false, "print as JSON")
			return guestCommand(func(ctx context.Context, c *console, name string) error {
				g, err := openCreated(name)
				if err != nil {
					return err
				}
				s := statusOf(ctx, g)
				if *asJSON {
					err = printJSON(c.out, s)
				} else {
					err = printStatus(c.out, s)
				}
				if err == nil && (s.Phase == keeper.Failed || s.Phase == phaseUnknown || len(s.Problem) > 0) {
					return exitStatus(exitFailed)
				}
				return err
			})(flags)
		},
	}
}

func printStatus(out io.Writer, s guestStatus) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	line := func(what, format string, args ...any) {
		fmt.Fprintf(w, "%s\t%s\n", what, oneLine(fmt.Sprintf(format, args...)))
	}
	phase := s.Phase
	if s.Since != nil {
		phase += fmt.Sprintf(", runs for %v", time.Since(*s.Since).Round(time.Second))
	}
	if s.Why != "" {
		phase += ": " + s.Why
	}
	line(s.Name, "%s", phase)
	line("master", "%s %.12s %s", s.Title, s.Master, strings.Join(s.Tags, " "))
	if s.Previous != "" {
		line("previous", "%.12s", s.Previous)
	}
	switch {
	case s.AtWork != nil:
		line("AT WORK", "%s, process %d, for %v; rempart watch %s", printable(s.AtWork.Command), s.AtWork.PID,
			time.Since(s.AtWork.Began).Round(time.Second), s.Name)
		if s.Pending != "" {
			line("", "%s", s.Pending)
		}
	case s.Pending != "":
		line("PENDING", "%s; rempart resume %s, or rempart rollback %[2]s", s.Pending, s.Name)
	}
	if s.State > 0 {
		what := "state"
		if s.Image {
			what = "overlay"
		}
		line(what, "%d MiB, of which %.1f MiB used", s.State>>20, float64(s.Used)/(1<<20))
	}
	if s.SSH != "" {
		line("ssh", "%s (rempart ssh %s)", s.SSH, s.Name)
	}
	if s.PID != 0 {
		line("kept by", "process %d, %s", s.PID, s.Accel)
	}
	if s.Domain != 0 {
		line("run by", "Xen, as number %d", s.Domain)
	}
	line("folder", "%s", s.Dir)
	for _, p := range s.Problem {
		line("PROBLEM", "%s", p)
	}
	return w.Flush()
}

// listCommand is `rempart list`.
func listCommand() *command {
	return &command{
		name:    "list",
		summary: "the guests that were created",
		setup: func(flags *pflag.FlagSet) func(context.Context, *console, []string) error {
			asJSON := flags.Bool("json", false, "print as JSON")
			return func(ctx context.Context, c *console, args []string) error {
				if len(args) != 0 {
					return usageError{"expected no arguments"}
				}
				return listGuests(ctx, c, *asJSON)
			}
		},
	}
}

func listGuests(ctx context.Context, c *console, asJSON bool) error {
	h, err := home.Default()
	if err != nil {
		return err
	}
	names, err := h.Names()
	if err != nil {
		return err
	}
	all, failed := []guestStatus{}, []error{}
	for _, name := range names {
		g, err := h.Open(name)
		if err != nil {
			failed = append(failed, err) // one that cannot be read does not hide the others
			continue
		}
		all = append(all, statusOf(ctx, g))
	}
	if asJSON {
		return errors.Join(append(failed, printJSON(c.out, all))...)
	}
	w := tabwriter.NewWriter(c.out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tHOW\tMASTER\tSTATE MIB\tSSH")
	for _, s := range all {
		how := s.Phase
		if len(s.Problem) > 0 {
			how += " !"
		}
		fmt.Fprintf(w, "%s\t%s\t%s %.12s\t%d\t%s\n", s.Name, how, s.Title, s.Master, s.State>>20, s.SSH)
	}
	return errors.Join(append(failed, w.Flush())...)
}
