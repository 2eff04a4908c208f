package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/pflag"

	"rempart/builder/guest/home"
	"rempart/builder/guest/quarantine"
	"rempart/builder/guest/reprovision"
)

// rollbackCommand is `rempart rollback`.
func rollbackCommand() *command {
	return &command{
		name:     "rollback",
		synopsis: "GUEST",
		summary:  "take back the last change of a guest: its master and the state it had then",
		help: `
While a change is under way, that is taken back. Else the guest gets the master it had before, and the state that was
set aside then; what it has now goes to quarantine in its turn.
` + transactionHelp,
		words: createdNames,
		setup: func(flags *pflag.FlagSet) func(context.Context, *console, []string) error {
			o := changeFlags(flags, reprovision.Rollback)
			return guestCommand(func(ctx context.Context, c *console, name string) error {
				return rollback(ctx, c, name, o)
			})(flags)
		},
	}
}

func rollback(ctx context.Context, c *console, name string, o changeOptions) error {
	g, err := openCreated(name)
	if err != nil {
		return err
	}
	if _, _, err := reprovision.Pending(g); err == nil {
		return goOn(ctx, c, name, ending{stop: *o.stop, back: true, dry: *o.dry, noStart: *o.noStart})
	} else if !errors.Is(err, reprovision.ErrNone) {
		return err
	}
	return changing(c, name, reprovision.Rollback, o, func(c *console, g *home.Guest) error {
		return rollbackLast(ctx, c, g, o)
	})
}

// rollbackLast takes back the last change of a guest, which is over.
func rollbackLast(ctx context.Context, c *console, g *home.Guest, o changeOptions) error {
	last, err := lastChange(g)
	if err != nil {
		return err
	}
	if err := o.signing.absolute(); err != nil {
		return err
	}
	options, err := transactionOptions(c, g, *o.stop, *o.signing)
	if err != nil {
		return err
	}
	m, err := options.Store.Find(last.From)
	if err != nil {
		return err
	}
	p := reprovision.Plan{Kind: reprovision.Rollback, At: time.Now().UTC(), To: last.From, State: reprovision.Restore,
		Source: last.ID, Size: max(g.State, leastSize(g, m)), Start: !*o.noStart, Patience: *o.timeout,
		Key: o.signing.file, Password: o.signing.password}
	have, err := last.HasState(ctx, g.Disks())
	if err != nil {
		return err
	}
	switch {
	case g.State == 0:
		p.State, p.Size = reprovision.None, 0
	case !have:
		p.State, p.Source = reprovision.Keep, ""
	}
	if *o.dry {
		return sayPlan(ctx, c, g, p, m)
	}
	t, err := reprovision.Begin(ctx, g, p, options)
	if err != nil {
		return err
	}
	return finish(ctx, c, t)
}

// lastChange is what a rollback takes back: the last change of a guest that stayed, or what `rempart commit` made of
// its master since, which no state was set aside for.
func lastChange(g *home.Guest) (*quarantine.Entry, error) {
	last, err := lastCommitted(g)
	if err != nil && !errors.Is(err, quarantine.ErrUnknown) {
		return nil, err // else it would take back another change, and leave the state
	}
	if err == nil && last.To == g.Master {
		return last, nil
	}
	if g.Previous != "" {
		return &quarantine.Entry{From: g.Previous, To: g.Master}, nil
	}
	return nil, fmt.Errorf("guest %s: there is no change of it that could be taken back", g.Name)
}

// lastCommitted is the last change of a guest that stayed.
func lastCommitted(g *home.Guest) (*quarantine.Entry, error) {
	all, err := quarantine.List(g.Dir)
	if err != nil {
		return nil, err
	}
	for i := len(all) - 1; i >= 0; i-- {
		if all[i].Outcome == quarantine.Committed {
			return all[i], nil
		}
	}
	return nil, fmt.Errorf("guest %s: %w", g.Name, quarantine.ErrUnknown)
}
