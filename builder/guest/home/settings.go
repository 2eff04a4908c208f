package home

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"rempart/builder/guest"
	"rempart/builder/hypervisor"
)

// Settings are how the guest runs, but for its network, its console and its log.
func (g *Guest) Settings() guest.Settings {
	s := guest.Settings{Name: g.Name, Firmware: g.Firmware, Format: g.DiskFormat, Memory: g.Memory, Accel: g.Accel,
		Identity: g.Identity()}
	if g.State > 0 {
		s.State = g.StateDisk()
	}
	for _, d := range g.Data {
		s.Data = append(s.Data, hypervisor.DataDisk{Name: d.Name, Disk: hypervisor.Disk{Path: d.Path, Format: d.Format},
			ReadOnly: d.ReadOnly})
	}
	return s
}

// NetOptions are what the links are plugged into, as `rempart run --net` takes it.
func (g *Guest) NetOptions() []string {
	var all []string
	for link, what := range g.Nets {
		all = append(all, link+"="+what)
	}
	slices.Sort(all)
	return all
}

// Ensure makes the state disk as large as the description says, whose filesystem the guest then grows itself, and looks
// whether all disks are there.
func (g *Guest) Ensure() error {
	if err := g.Missing(); err != nil {
		return err
	}
	info, err := os.Stat(g.StateDisk())
	if g.State == 0 || err == nil && info.Size() >= g.State {
		return nil
	}
	return errors.Join(err, os.Truncate(g.StateDisk(), g.State))
}

// Missing tells which of the guest's disks are not there: one that is gone is never replaced by a blank one in silence.
func (g *Guest) Missing() error {
	var errs []error
	look := func(what, path, remedy string) {
		switch _, err := os.Stat(path); {
		case errors.Is(err, fs.ErrNotExist):
			errs = append(errs, fmt.Errorf("guest %s: its %s %s is gone; %s", g.Name, what, path, remedy))
		case err != nil:
			errs = append(errs, fmt.Errorf("guest %s: its %s: %w", g.Name, what, err))
		}
	}
	if g.State > 0 {
		look("state disk", g.StateDisk(), fmt.Sprintf("put it back, or a blank one: truncate --size %d FILE", g.State))
	}
	look("identity disk", g.Identity(), "put it back, or make the guest anew")
	for _, d := range g.Data {
		look("data disk "+d.Name, d.Path, "put it back")
	}
	return errors.Join(errs...)
}
