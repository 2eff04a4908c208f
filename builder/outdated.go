package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/pflag"

	"rempart/builder/debian"
	"rempart/builder/debian/control"
	"rempart/builder/guest/home"
	"rempart/builder/master"
)

// outdatedCommand is `rempart outdated`.
func outdatedCommand() *command {
	return &command{
		name:     "outdated",
		synopsis: "[GUEST...]",
		summary:  "which guests are made of packages that the lock has newer ones of",
		help: `
Without --lock the lock that is built in says what is new; ` + "`rempart lock`" + ` makes one of what Debian has today.

Exit status: 0 when all are up to date, 3 when one is not.`,
		words: createdNames,
		setup: func(flags *pflag.FlagSet) func(context.Context, *console, []string) error {
			path := flags.String("lock", "", "lock file to compare with; default: the one built in")
			asJSON := flags.Bool("json", false, "print as JSON")
			return func(_ context.Context, c *console, args []string) error {
				if len(args) == 0 {
					h, err := home.Default()
					if err == nil {
						args, err = h.Names()
					}
					if err != nil {
						return err
					}
				}
				return outdated(c, args, *path, *asJSON)
			}
		},
	}
}

// superseded is a package of a guest that there is a newer one of.
type superseded struct {
	Guest   string `json:"guest"`
	Package string `json:"package"`
	Has     string `json:"has"`
	New     string `json:"new"`
}

func outdated(c *console, names []string, path string, asJSON bool) error {
	all, failed := []superseded{}, []error{}
	for _, name := range names {
		g, err := openCreated(name)
		if err != nil {
			failed = append(failed, err)
			continue
		}
		if g.Image != nil {
			fmt.Fprintf(c.err, "rempart: %s is another system's: what packages it has only it knows itself\n", name)
			continue
		}
		found, err := outdatedIn(g, path)
		if err != nil {
			failed = append(failed, fmt.Errorf("guest %s: %w", name, err))
		}
		all = append(all, found...)
	}
	if asJSON {
		failed = append(failed, printJSON(c.out, all))
	} else {
		for _, s := range all {
			fmt.Fprintf(c.out, "%s: %s %s, there is %s\n", s.Guest, printable(s.Package), printable(s.Has), s.New)
		}
	}
	if err := errors.Join(failed...); err != nil {
		return err
	}
	if len(all) > 0 {
		if !asJSON {
			fmt.Fprintln(c.err, "rempart: build and publish a master with the new lock, then `rempart upgrade GUEST --to REF`")
		}
		return errDifferent
	}
	return nil
}

func outdatedIn(g *home.Guest, path string) ([]superseded, error) {
	m, _, err := masterOf(g)
	if err != nil {
		return nil, err
	}
	lock, err := debian.DefaultLock(m.Manifest.Master.Arch)
	if path != "" {
		lock, err = debian.ReadLock(path)
	}
	if err != nil {
		return nil, err
	}
	if lock.Arch != m.Manifest.Master.Arch {
		return nil, fmt.Errorf("its master is for %s, the lock for %s", m.Manifest.Master.Arch, lock.Arch)
	}
	return older(g.Name, m.Manifest.Packages, lock.Packages), nil
}

// older are the packages of a guest that a lock has newer ones of.
func older(guest string, has []master.Package, locked []debian.Locked) []superseded {
	fresh := map[string]control.Version{}
	for _, p := range locked {
		fresh[p.Name] = p.Version
	}
	var all []superseded
	for _, p := range has {
		if v, ok := fresh[p.Name]; ok && control.Compare(control.Version(p.Version), v) < 0 {
			all = append(all, superseded{guest, p.Name, p.Version, string(v)})
		}
	}
	return all
}
