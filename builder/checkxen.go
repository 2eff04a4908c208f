package main

import (
	"errors"

	"github.com/spf13/pflag"

	"rempart/builder/hypervisor"
	"rempart/builder/hypervisor/xen"
	"rempart/profiles"
)

// onXenWay are the options by which `rempart check` is asked whether Xen can start a guest of a profile some way.
type onXenWay struct {
	flags                *pflag.FlagSet
	mode, loader, layout string
}

func onXenWayFlags(flags *pflag.FlagSet) *onXenWay {
	w := &onXenWay{flags: flags}
	choice(flags, &w.mode, "xen", xen.Modes(), "", "tell what keeps Xen from running it, virtualised this way")
	choice(flags, &w.loader, "loader", xen.Loaders(), xen.Direct, "with --xen, where its kernel comes from")
	choice(flags, &w.layout, "layout", xen.Layouts(), xen.Whole, "with --xen, what its system volume holds")
	return w
}

// misused tells that an option is without the one it is for.
func (w *onXenWay) misused() error {
	if w.mode == "" && (w.flags.Changed("loader") || w.flags.Changed("layout")) {
		return usageError{"--loader and --layout say how Xen starts a guest: want --xen too"}
	}
	return nil
}

// findings are what keeps Xen from running a guest of a profile on any host. They are of no line of it: the way is none
// of a profile's.
func (w *onXenWay) findings(file string, p *profiles.Profile) profiles.Invalid {
	if w.mode == "" {
		return nil
	}
	g := xen.Planned(p.Name, xen.Mode(w.mode), xen.Loader(w.loader), xen.Layout(w.layout))
	g.Memory = p.Memory
	if p.State.Size == 0 {
		g.State = ""
	}
	for i, d := range p.Disks {
		if !d.Optional { // it may be without
			g.Data = append(g.Data, xen.DataDisk{Name: d.Name, Number: i, Path: "/" + d.Name})
		}
	}
	var links []string
	for _, l := range p.NICs() {
		links = append(links, l.Name)
	}
	for i, mac := range hypervisor.MACs(p.Name, links) {
		g.VIFs = append(g.VIFs, xen.VIF{NIC: hypervisor.NIC{Link: links[i], MAC: mac}})
	}
	var all profiles.Invalid
	var several interface{ Unwrap() []error }
	if errors.As(g.Validate(), &several) {
		for _, err := range several.Unwrap() {
			all = append(all, profiles.Finding{File: file, Pos: profiles.Pos{Line: 1, Column: 1},
				What: "under Xen: " + err.Error()})
		}
	}
	return all
}
