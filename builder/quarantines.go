package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/spf13/pflag"

	"rempart/builder/disk/ext4"
	"rempart/builder/files"
	"rempart/builder/guest/home"
	"rempart/builder/guest/quarantine"
	"rempart/builder/guest/reprovision"
	"rempart/builder/guest/storage"
)

// quarantineCommand is `rempart quarantine`.
func quarantineCommand() *command {
	return &command{
		name:     "quarantine",
		synopsis: "VERB GUEST [ID] [FOLDER]",
		summary:  "what was set aside of a guest: list, show, export, prune",
		help: `
  list GUEST              what there is, the oldest first
  show GUEST ID           one entry, with the files of the state that was set aside
  export GUEST ID FOLDER  copy its disks and reports into a new folder
  prune GUEST             remove what is older than --older-than; the last, which rollback needs, only with --all`,
		words: func() []string { return append(slices.Clone(quarantineVerbs), createdNames()...) },
		setup: func(flags *pflag.FlagSet) func(context.Context, *console, []string) error {
			asJSON := flags.Bool("json", false, "list, show: print as JSON")
			older := flags.Duration("older-than", 30*24*time.Hour, "prune: the age of what goes, such as 720h")
			all := flags.Bool("all", false, "prune: the last one too")
			return func(ctx context.Context, c *console, args []string) error {
				words := map[string]int{"list": 2, "show": 3, "export": 4, "prune": 2}
				if len(args) == 0 || words[args[0]] == 0 || len(args) != words[args[0]] {
					return usageError{"want list GUEST, show GUEST ID, export GUEST ID FOLDER or prune GUEST"}
				}
				if args[0] == "prune" {
					return pruneQuarantine(ctx, c, args[1], *older, *all)
				}
				g, err := openCreated(args[1])
				if err != nil {
					return err
				}
				if args[0] == "list" {
					return listQuarantine(ctx, c, g, *asJSON)
				}
				e, err := quarantine.Open(g.Dir, args[2])
				if err != nil {
					return err
				}
				if args[0] == "show" {
					return showQuarantine(ctx, c, g, e, *asJSON)
				}
				return exportQuarantine(ctx, g, e, args[3])
			}
		},
	}
}

var quarantineVerbs = []string{"list", "show", "export", "prune"}

func listQuarantine(ctx context.Context, c *console, g *home.Guest, asJSON bool) error {
	all, err := quarantine.List(g.Dir)
	if asJSON {
		return errors.Join(printJSON(c.out, append([]*quarantine.Entry{}, all...)), err)
	}
	w := tabwriter.NewWriter(c.out, 0, 8, 2, ' ', 0)
	used, usedErr := quarantine.Used(ctx, all, g.Disks())
	fmt.Fprintln(w, "ID\tWHEN\tWHAT\tOUTCOME\tFROM\tTO\tFOUND\tMIB")
	for i, e := range all {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%.12s\t%.12s\t%d\t%.1f\n", e.ID, e.At.Format(time.DateTime), e.Kind, e.Outcome,
			e.From, e.To, len(e.Found), float64(used[i])/(1<<20))
	}
	return errors.Join(w.Flush(), err, usedErr)
}

func showQuarantine(ctx context.Context, c *console, g *home.Guest, e *quarantine.Entry, asJSON bool) error {
	if asJSON {
		return printJSON(c.out, e)
	}
	fmt.Fprintf(c.out, "%s %s of %s, %s: %.12s -> %.12s\n", e.ID, e.Kind, e.At.Format(time.DateTime), e.Outcome, e.From,
		e.To)
	if e.Why != "" {
		fmt.Fprintf(c.out, "put back: %s\n", oneLine(e.Why))
	}
	if e.Proven != "" {
		fmt.Fprintf(c.out, "policy: %s\n", oneLine(e.Proven))
	}
	if e.Signed != "" {
		fmt.Fprintf(c.out, "evidence: %s, %s\n", filepath.Join(e.Dir, quarantine.Evidence), oneLine(e.Signed))
	}
	for _, f := range e.Found {
		fmt.Fprintf(c.out, "found: %s\n", oneLine(f))
	}
	for _, failed := range []bool{false, true} {
		have, err := g.Disks().There(ctx, e.Disk(failed))
		if err != nil {
			return err
		}
		if !have {
			continue
		}
		path := g.Disks().Path(e.Disk(failed))
		fmt.Fprintf(c.out, "%s:\n", path)
		list := listState
		if g.Image != nil {
			on := map[bool]string{false: e.From, true: e.To}[failed]
			list = func(c *console, path string) error { return listOverlay(ctx, c, g, on, path) }
		}
		if err := list(c, path); err != nil {
			fmt.Fprintf(c.out, "  it cannot be read: %s\n", oneLine(err.Error()))
		}
	}
	return nil
}

// maxListed bounds the files that are shown of a state disk.
const maxListed = 10000

// listState shows the files of a state disk, which may be hostile.
func listState(c *console, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	size, err := storage.Length(path)
	if err != nil {
		return err
	}
	tree, err := ext4.Open(f, size)
	if errors.Is(err, ext4.ErrNotExt4) {
		fmt.Fprintln(c.out, "  no filesystem is on it (yet)")
		return nil
	}
	if err != nil {
		return err
	}
	n := 0
	err = tree.Walk(func(name string, i *ext4.Inode, err error) error {
		if n++; n > maxListed {
			return fs.SkipAll
		}
		if err != nil {
			fmt.Fprintf(c.out, "  %s: %s\n", oneLine(name), oneLine(err.Error()))
			return nil
		}
		fmt.Fprintf(c.out, "  %v %5d:%-5d %10d %s\n", i.FileMode(), i.UID, i.GID, i.Size,
			oneLine(name))
		return nil
	})
	if errors.Is(err, fs.SkipAll) || n > maxListed {
		fmt.Fprintf(c.out, "  and more than these %d\n", maxListed)
		return nil
	}
	return err
}

// exportQuarantine copies an entry into a new folder, which appears whole.
func exportQuarantine(ctx context.Context, g *home.Guest, e *quarantine.Entry, to string) error {
	to = filepath.Clean(to)
	if _, err := os.Lstat(to); err == nil {
		return fmt.Errorf("%s is there already; want the name of a new folder", to)
	}
	work, err := os.MkdirTemp(filepath.Dir(to), "."+filepath.Base(to)+"-*")
	if err != nil {
		return err
	}
	entries, err := os.ReadDir(e.Dir)
	for _, f := range entries {
		if err == nil {
			err = files.Clone(ctx, filepath.Join(e.Dir, f.Name()), filepath.Join(work, f.Name()))
		}
	}
	if err == nil && g.Volumes != "" {
		err = exportVolumes(ctx, g, e, work)
	}
	if err == nil {
		err = files.Move(work, to)
	}
	if err != nil {
		return errors.Join(err, os.RemoveAll(work))
	}
	return nil
}

// exportVolumes copies the state disks of an entry that are volumes into a folder, as files.
func exportVolumes(ctx context.Context, g *home.Guest, e *quarantine.Entry, to string) error {
	for failed, name := range map[bool]string{false: quarantine.State, true: quarantine.FailedState} {
		have, err := g.Disks().There(ctx, e.Disk(failed))
		if err != nil {
			return err
		}
		if !have {
			continue
		}
		in, err := os.Open(g.Disks().Path(e.Disk(failed)))
		if err != nil {
			return err
		}
		defer in.Close()
		if err := files.WriteFrom(filepath.Join(to, name), 0o600, func(out *os.File) error {
			size, err := files.CopySparse(ctx, in, out)
			return errors.Join(err, out.Truncate(size))
		}); err != nil {
			return err
		}
	}
	return nil
}

func pruneQuarantine(ctx context.Context, c *console, name string, older time.Duration, all bool) error {
	g, err := lockCreated(name, "rempart quarantine prune")
	if err != nil {
		return err
	}
	defer g.Unlock()
	entries, err := quarantine.List(g.Dir)
	if err != nil {
		return err
	}
	pending, _, err := reprovision.Pending(g)
	if err != nil && !errors.Is(err, reprovision.ErrNone) {
		return err
	}
	keep := ""
	if last, err := lastCommitted(g); err == nil && !all {
		keep = last.ID
	}
	used, err := quarantine.Used(ctx, entries, g.Disks())
	if err != nil {
		return err
	}
	n, free := 0, int64(0)
	for i, e := range entries {
		if e.ID == keep || e.ID == pending.ID || e.ID == pending.Source || time.Since(e.At) < older {
			continue
		}
		if err := e.Remove(ctx, g.Disks()); err != nil {
			return err
		}
		n, free = n+1, free+used[i]
		fmt.Fprintf(c.out, "%s %s of %s\n", e.ID, e.Kind, e.At.Format(time.DateTime))
	}
	fmt.Fprintf(c.out, "%d entries gone, %.1f MiB free\n", n, float64(free)/(1<<20))
	return nil
}
