package home

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"rempart/builder/disk"
	"rempart/builder/disk/ext4"
	"rempart/builder/disk/imagefile"
	"rempart/builder/guest"
	"rempart/builder/guest/running"
	"rempart/builder/hypervisor"
	"rempart/builder/hypervisor/qemu"
	"rempart/firstboot/contract"
	"rempart/profiles"
)

// DataFinding is what is to be said of a data disk before a guest starts with it.
type DataFinding struct {
	Disk string
	What string
	// Fatal: the guest will not be READY so, or must not run.
	Fatal bool
}

func (f DataFinding) String() string { return "data disk " + f.Disk + ": " + f.What }

// DataFindings looks at the data disks of a guest from outside and says what the guest would make of them on a master
// with a profile: which it will not find or not use, and why. A profile is nil for another system's master, which says
// nothing of them. What is on them is not read while the guest runs. Nothing is changed, and nothing on a disk is
// believed. A disk that cannot be read is a finding, too: the error is that of ctx.
func (g *Guest) DataFindings(ctx context.Context, p *profiles.Profile, runs bool) ([]DataFinding, error) {
	var all []DataFinding
	for i := range g.Data {
		d := &g.Data[i]
		say := func(fatal bool, format string, args ...any) {
			all = append(all, DataFinding{d.Name, fmt.Sprintf(format, args...), fatal})
		}
		info, err := os.Stat(d.Path)
		if err != nil {
			say(true, "%v; put it back, or detach it: rempart set %s --no-data %s", err, g.Name, d.Name)
			continue
		}
		for _, other := range g.Data[:i] {
			if have, err := os.Stat(other.Path); err == nil && sameDisk(have, info) {
				say(true, "%s is data disk %s too: detach one of the two", d.Path, other.Name)
			}
		}
		if p == nil {
			continue
		}
		declared := p.Disk(d.Name)
		if declared == nil {
			say(false, "the master's profile declares no such disk, and the guest does not look at it; declare it, such as "+
				"disks: {%s: %s/%[1]s}", d.Name, profiles.DisksDir)
			continue
		}
		if d.ReadOnly && !declared.ReadOnly {
			say(!declared.Optional, "it is attached read-only, and the profile wants to write to it: attach it writable by "+
				"rempart set %s --data %s=%s, or declare it read-only", g.Name, d.Name, d.Path)
			continue
		}
		if runs {
			continue
		}
		what, err := carries(ctx, d, declared, p)
		if ctx.Err() != nil {
			return all, ctx.Err()
		}
		if err != nil { // of a disk that has gone bad, say: the guest does without
			what = fmt.Sprintf("%s cannot be read: %v", d.Path, err)
		}
		if what != "" {
			say(!declared.Optional, "%s", what)
		}
	}
	if p == nil {
		return all, nil
	}
	for _, declared := range guest.Unattached(p, Attached(g.Data)) {
		all = append(all, DataFinding{declared.Name, fmt.Sprintf("it is not attached; do that by rempart set %s --data "+
			"%s=FILE", g.Name, declared.Name), !declared.Optional})
	}
	return all, nil
}

// carries says why the guest would not mount a data disk; empty: it would.
func carries(ctx context.Context, d *Data, declared *profiles.Disk, p *profiles.Profile) (string, error) {
	image, err := d.Open(ctx)
	if errors.Is(err, imagefile.ErrFormat) || errors.Is(err, fs.ErrPermission) {
		return err.Error(), nil
	}
	if err != nil {
		return "", err
	}
	defer image.Close()
	blank, err := isBlank(image)
	switch {
	case err != nil:
		return "", err
	case blank && declared.ReadOnly:
		return "it is blank, and declared read-only: there is nothing to mount, and nothing may be made", nil
	case blank && image.Size() < contract.LeastDisk:
		return fmt.Sprintf("%s has %d bytes; at least %d are needed", d.Path, image.Size(), int64(contract.LeastDisk)), nil
	case blank:
		return "", nil
	}
	switch size, err := ext4.Length(image); {
	case errors.Is(err, ext4.ErrNotExt4):
		if interrupted(image) {
			return "", nil // the guest does it again
		}
		return d.Path + " carries something that is no ext4: the guest leaves it alone; attach a blank disk, or clear the " +
			"first and last MiB of this one", nil
	case errors.Is(err, ext4.ErrFeature):
		return "", nil // the guest's kernel may know it
	case errors.Is(err, ext4.ErrDamaged):
		return fmt.Sprintf("%s: %v; run e2fsck on it", d.Path, err), nil
	case err != nil:
		return "", err
	case size > image.Size():
		return fmt.Sprintf("%s has %d bytes, and the filesystem on it %d: it was made smaller, and what lay behind is gone; "+
			"put it back from a copy", d.Path, image.Size(), size), nil
	}
	f, err := ext4.Open(image, image.Size())
	switch {
	case errors.Is(err, ext4.ErrFeature):
		return "", nil
	case errors.Is(err, ext4.ErrDamaged):
		return fmt.Sprintf("%s: %v; run e2fsck on it", d.Path, err), nil
	case err != nil:
		return "", err
	}
	if why := p.Mistaken(declared, f.Info().Label, contract.StateLabel); why != "" {
		return fmt.Sprintf("%s carries ext4 with the label %q, %s: the guest leaves it alone", d.Path, f.Info().Label, why),
			nil
	}
	return "", nil
}

// Open opens the disk, in the format that its description has and in no other, whatever a guest has written there.
func (d *Data) Open(ctx context.Context) (*imagefile.Image, error) {
	return imagefile.Open(ctx, d.Path, imagefile.Options{Format: map[hypervisor.Format]imagefile.Format{
		hypervisor.Raw: imagefile.Raw, hypervisor.QCOW2: imagefile.Qcow2}[d.Format]})
}

// isBlank tells whether the guest would take a disk for blank: its beginning and its end are zero.
func isBlank(image *imagefile.Image) (bool, error) {
	size := min(image.Size(), contract.BlankWindow)
	for _, at := range []int64{0, image.Size() - size} {
		b := make([]byte, size)
		if err := disk.ReadFull(image, b, at); err != nil {
			return false, err
		}
		if slices.ContainsFunc(b, func(c byte) bool { return c != 0 }) {
			return false, nil
		}
	}
	return true, nil
}

// interrupted tells whether a disk looks like one whose format by a guest was cut short. The guest looks closer.
func interrupted(image *imagefile.Image) bool {
	for _, at := range []int64{0, image.Size() - contract.BlankWindow} {
		b := make([]byte, len(contract.FormatMark))
		if at >= 0 && disk.ReadFull(image, b, at) == nil && string(b) == contract.FormatMark {
			return true
		}
	}
	return false
}

// unusedData tells of data disks that something else has while it runs: two that write to one filesystem ruin it. Other
// guests of the home may have one that neither writes to.
func (g *Guest) unusedData() error {
	if len(g.Data) == 0 {
		return nil
	}
	h := Home{Dir: filepath.Dir(g.Dir)}
	names, err := h.Names()
	if err != nil {
		return err
	}
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	for _, name := range names {
		other, err := h.Open(name)
		if name == g.Name || err != nil {
			continue // whatever is wrong with another must not stop this one
		}
		for _, disk := range sharedData(g, other) {
			switch _, err := other.Running(); {
			case errors.Is(err, running.ErrAbsent):
			case err != nil && !errors.Is(err, ErrElsewhere):
				errs = append(errs, err)
			default:
				bad("guest %s: data disk %s is in use by guest %s, which runs: stop that first, or attach it to both read-only",
					g.Name, disk, name)
			}
		}
	}
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	for _, d := range g.Data {
		if writes, err := qemu.Writes(d.Path); err != nil {
			bad("guest %s: data disk %s: %w", g.Name, d.Name, err)
		} else if writes {
			bad("guest %s: data disk %s: another program has %s open for writing; stop that first", g.Name, d.Name, d.Path)
		}
	}
	return errors.Join(errs...)
}

// sharedData are the names of the data disks that are also another guest's, and that one of the two writes to.
func sharedData(g, other *Guest) (names []string) {
	for _, d := range g.Data {
		mine, err := os.Stat(d.Path)
		if err != nil {
			continue // told elsewhere
		}
		for _, o := range other.Data {
			theirs, err := os.Stat(o.Path)
			if err == nil && sameDisk(mine, theirs) && !(d.ReadOnly && o.ReadOnly) {
				names = append(names, d.Name)
			}
		}
	}
	return names
}

// sameDisk tells whether two paths lead to one file, or to nodes of one device.
func sameDisk(a, b fs.FileInfo) bool {
	one, ok := a.Sys().(*syscall.Stat_t)
	other, too := b.Sys().(*syscall.Stat_t)
	if device := a.Mode() & b.Mode() & fs.ModeDevice; ok && too && device != 0 {
		return one.Rdev == other.Rdev
	}
	return os.SameFile(a, b)
}
