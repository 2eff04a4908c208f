package home

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"rempart/builder/disk/ext4"
	"rempart/builder/guest"
	"rempart/builder/guest/storage"
	"rempart/builder/hypervisor"
)

// Settings are how the guest runs, but for its network, its console and its log.
func (g *Guest) Settings() guest.Settings {
	s := guest.Settings{Name: g.Name, Firmware: g.Firmware, Format: g.DiskFormat, Memory: g.Memory, VCPUs: g.VCPUs,
		Accel: g.Accel, Identity: g.Identity()}
	switch {
	case g.Image != nil:
		s.Overlay, s.Health = g.StateDisk(), g.Image.Health
		s.Vars = storage.Vars(s.Overlay)
	case g.State > 0:
		s.State = g.StateDisk()
	}
	if g.Root {
		s.System = g.Disks().Path(storage.Disk{Kind: storage.System})
	}
	s.Data = Attached(g.Data)
	return s
}

// Attached are data disks as they are attached.
func Attached(given []Data) (all []hypervisor.DataDisk) {
	for _, d := range given {
		all = append(all, hypervisor.DataDisk{Name: d.Name, Disk: hypervisor.Disk{Path: d.Path, Format: d.Format},
			ReadOnly: d.ReadOnly})
	}
	return all
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
// whether all disks are there, and nobody else has one. The guest must be locked and not run.
func (g *Guest) Ensure(ctx context.Context) error {
	if err := cmp.Or(g.Missing(ctx), g.unusedData()); err != nil || g.State == 0 || g.Image != nil {
		return err
	}
	now, err := storage.Length(g.StateDisk())
	if err != nil {
		return fmt.Errorf("guest %s: state disk: %w", g.Name, err)
	}
	if g.Growing == 0 && now >= g.State {
		return nil
	}
	if g.Growing == 0 {
		if err := g.shrunk(now); err != nil {
			return fmt.Errorf("guest %s: %w", g.Name, err)
		}
		g.Growing = now
		if err := g.Save(); err != nil { // whatever ends this in between, what is new becomes zero before it is used
			return err
		}
	}
	if err := g.Disks().Grow(ctx, storage.Disk{Kind: storage.State}, g.Growing, g.State); err != nil {
		return fmt.Errorf("guest %s: growing its state disk to %d bytes: %w", g.Name, g.State, err)
	}
	g.Growing = 0
	return g.Save()
}

// shrunk tells of the state disk, of so many bytes, that it is smaller than the filesystem on it: somebody has cut it
// off, and zeros where the rest was would pass for what the guest has written.
func (g *Guest) shrunk(now int64) error {
	f, err := os.Open(g.StateDisk())
	if err != nil {
		return err
	}
	defer f.Close()
	size, err := ext4.Length(f)
	if errors.Is(err, ext4.ErrNotExt4) || errors.Is(err, ext4.ErrDamaged) || errors.Is(err, ext4.ErrFeature) {
		return nil // blank, or for the guest to tell
	}
	if err == nil && size > now {
		err = fmt.Errorf("state disk %s has %d bytes, and the filesystem on it %d: it was made smaller, and what lay behind "+
			"is gone; put it back, by `rempart restore` say, or start with a clean state: rempart reprovision %s --reset-state",
			f.Name(), now, size, g.Name)
	}
	return err
}

// Resize makes the state disk of a guest that does not run larger, in whole extents where it is a volume. The guest
// must be locked.
func (g *Guest) Resize(ctx context.Context, size int64) error {
	size, err := g.Disks().Size(ctx, size)
	if err != nil {
		return fmt.Errorf("guest %s: %w", g.Name, err)
	}
	switch {
	case g.Image != nil:
		return fmt.Errorf("guest %s: its overlay has the size it was made with; `rempart create` makes a guest with a "+
			"larger one: --state-size", g.Name)
	case g.State == 0:
		return fmt.Errorf("guest %s: its profile has no state disk", g.Name)
	case size < g.State:
		return fmt.Errorf("guest %s: its state disk has %d bytes, and %d are fewer; a state disk only grows", g.Name, g.State,
			size)
	}
	if err := g.Disks().Check(ctx, size-g.State, false); err != nil {
		return fmt.Errorf("guest %s: %w", g.Name, err)
	}
	before := g.Description
	g.State = size
	if err = g.Ensure(ctx); err == nil {
		return g.Save() // a disk that was larger already has Ensure write nothing
	}
	// A size that cannot be had would keep the guest from starting. Unless something has grown it is as it was.
	now, lengthErr := storage.Length(g.StateDisk())
	if lengthErr != nil || g.Growing == 0 || now != g.Growing {
		return err
	}
	g.Description = before
	return errors.Join(err, g.Save())
}

// Missing tells which of the guest's disks are not there: one that is gone is never replaced by a blank one in silence.
func (g *Guest) Missing(ctx context.Context) error {
	var errs []error
	look := func(what, path, remedy string) {
		switch _, err := os.Stat(path); {
		case errors.Is(err, fs.ErrNotExist):
			errs = append(errs, fmt.Errorf("guest %s: its %s %s is gone; %s", g.Name, what, path, remedy))
		case err != nil:
			errs = append(errs, fmt.Errorf("guest %s: its %s: %w", g.Name, what, err))
		}
	}
	switch {
	case g.Image != nil:
		look("overlay", g.StateDisk(), fmt.Sprintf("put it back, or have a new one by `rempart reprovision %s`", g.Name))
	case g.State > 0 && g.Volumes == "":
		look("state disk", g.StateDisk(), fmt.Sprintf("put it back, or a blank one: truncate --size %d FILE", g.State))
	case g.State > 0:
		group, _, _ := strings.Cut(g.Volumes, "/")
		look("state disk", g.StateDisk(), fmt.Sprintf("is volume group %s active (vgchange --activate y %[1]s), and is the "+
			"volume there (lvs %[1]s)?", group))
		if err := g.Disks().Check(ctx, 0, true); err != nil {
			errs = append(errs, fmt.Errorf("guest %s: %w", g.Name, err))
		}
	}
	if g.Root {
		look("system disk", g.Disks().Path(storage.Disk{Kind: storage.System}), "make it anew: rempart reprovision "+g.Name)
	}
	if on, ok := g.Disks().(storage.Volumes); ok {
		if err := on.Sealed(ctx); err != nil {
			errs = append(errs, fmt.Errorf("guest %s: %w", g.Name, err))
		}
	}
	look("identity disk", g.Identity(), "put it back, or make the guest anew")
	for _, d := range g.Data {
		look("data disk "+d.Name, d.Path, "put it back")
	}
	return errors.Join(errs...)
}
