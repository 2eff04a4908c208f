package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"rempart/builder/guest"
	"rempart/builder/guest/home"
	"rempart/builder/guest/running"
	"rempart/builder/hypervisor/xen"
	"rempart/builder/master/store"
	"rempart/profiles"
)

// dataFindings are what is to be said of the data disks of a guest on a master with a profile.
func dataFindings(ctx context.Context, g *home.Guest, p *profiles.Profile) ([]home.DataFinding, error) {
	if g.Image != nil {
		p = nil // another system's master has none that says anything of disks
	}
	_, err := g.Running()
	if err != nil && !errors.Is(err, running.ErrAbsent) {
		return nil, err
	}
	return g.DataFindings(ctx, p, err == nil)
}

// sayData warns of what a guest will not make use of, and goes on: it does all that needs no data disk.
func sayData(ctx context.Context, c *console, g *home.Guest, p *profiles.Profile) error {
	all, err := dataFindings(ctx, g, p)
	for _, f := range all {
		fmt.Fprintf(c.err, "rempart: WARNING: %s\n", printable(f.String()))
	}
	return err
}

// sayDataOf does so for the master that the guest boots next.
func sayDataOf(ctx context.Context, c *console, g *home.Guest) error {
	m, _, err := masterOf(g)
	if err != nil {
		return err
	}
	return sayData(ctx, c, g, m.Profile)
}

// dataFits says what becomes of the data disks of a guest on another master, and whether it can be READY with them
// there: nothing else must be changed for a guest that would be put back.
func dataFits(ctx context.Context, c *console, g *home.Guest, m *store.Master) error {
	opened, err := guest.OpenMaster(m.Dir)
	if err != nil {
		return err
	}
	all, err := dataFindings(ctx, g, opened.Profile)
	if err != nil {
		return err
	}
	var fatal []string
	for _, f := range all {
		if f.Fatal {
			fatal = append(fatal, printable(f.String()))
		} else {
			fmt.Fprintf(c.err, "rempart: WARNING: %s\n", printable(f.String()))
		}
	}
	if len(fatal) > 0 {
		return fmt.Errorf("guest %s would not be READY on master %.12s: %s; nothing was changed, and --no-start does it all "+
			"the same", g.Name, m.Digest, strings.Join(fatal, "; "))
	}
	return nil
}

// dataOnXen are the data disks of a guest that its profile declares, by which alone a guest of Xen knows them.
func dataOnXen(g *home.Guest, p *profiles.Profile) (all []xen.DataDisk) {
	for _, d := range g.Data {
		if number := p.DiskNumber(d.Name); number >= 0 {
			all = append(all, xen.DataDisk{Name: d.Name, Number: number, Path: d.Path,
				ReadOnly: d.ReadOnly || p.Disks[number].ReadOnly})
		}
	}
	return all
}
