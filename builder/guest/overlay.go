package guest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"rempart/builder/disk"
	"rempart/builder/disk/imagefile"
	"rempart/builder/disk/qcow2"
	"rempart/builder/hypervisor"
	"rempart/profiles"
)

// Foreign tells whether the master is the disk of another system, which a guest writes to on an overlay of its own.
func (m *Master) Foreign() bool { return m.Manifest.Image != nil }

// foreignProfile is as much of a profile as such a master has: a name, and nobody who may log in.
func (m *Master) foreignProfile() *profiles.Profile {
	return &profiles.Profile{Name: m.Manifest.Master.Name, Admin: profiles.Admin{None: true}}
}

// Plugged gives a master of another system the NICs that a guest of it has, by their names in bus order.
func (m *Master) Plugged(links []string) {
	m.Profile = m.foreignProfile()
	for _, l := range links {
		m.Profile.Links = append(m.Profile.Links, profiles.Link{Name: l})
	}
}

// ErrOverlay is returned for an overlay that is not one of the master it is to be used with.
var ErrOverlay = errors.New("no overlay of this master")

// MakeOverlay makes a file a new overlay on the disk of a master, of size bytes or that of the disk if it is larger,
// with nothing written to it yet. It is whole and on this machine's disk when it returns.
func MakeOverlay(ctx context.Context, path string, m *Master, size int64) error {
	f, base, err := openOn(path, m)
	if err != nil {
		return err
	}
	const sector = 512
	size = max(size, m.Manifest.Disk.Size)
	err = qcow2.Write(ctx, f, disk.NewSparse(0), qcow2.Options{Size: (size + sector - 1) / sector * sector,
		Backing: &qcow2.Backing{Name: base.Path, Format: string(base.Format)}, HolesShowBacking: true})
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("overlay: %w", err)
	}
	return nil
}

// OpenOverlay opens an overlay as the disk it is on the master's: what it says that it lies on opens nothing, and must
// name the master. It fails with ErrOverlay for any other file, such as one that names files of this machine in ways
// that QEMU follows.
func OpenOverlay(ctx context.Context, path string, m *Master) (*imagefile.Image, error) {
	base, err := m.System("")
	if err != nil {
		return nil, err
	}
	named, err := backingOf(path)
	if err != nil {
		return nil, err
	}
	// The folder of a master in a store is named by its digest, wherever the store lies.
	if filepath.Base(filepath.Dir(named)) != filepath.Base(filepath.Clean(m.Dir)) {
		return nil, fmt.Errorf("%w: %s lies on %.200q, not on %s", ErrOverlay, path, named, base.Path)
	}
	return imagefile.Open(ctx, path, imagefile.Options{Format: imagefile.Qcow2,
		On: &imagefile.File{Path: base.Path, Format: imagefile.Format(base.Format)}})
}

// backingOf is the file that an overlay says it lies on.
func backingOf(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("overlay: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	name, err := qcow2.BackingName(f, info.Size())
	if err == nil && name == "" {
		err = errors.New("it lies on no other image")
	}
	if err != nil {
		return "", fmt.Errorf("%w: %s: %w", ErrOverlay, path, err)
	}
	return name, nil
}

// MoveOverlay has an overlay that came from another place name its master where it is here.
func MoveOverlay(path string, m *Master) error {
	f, base, err := openOn(path, m)
	if err != nil {
		return err
	}
	return errors.Join(qcow2.SetBacking(f, base.Path), f.Close())
}

// openOn opens an overlay for writing, and tells which disk of a master it lies on, by its absolute path.
func openOn(path string, m *Master) (*os.File, hypervisor.Disk, error) {
	base, err := m.System("")
	if err != nil {
		return nil, base, err
	}
	if base.Path, err = filepath.Abs(base.Path); err != nil {
		return nil, base, err
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, base, fmt.Errorf("overlay: %w", err)
	}
	return f, base, nil
}

// overlay completes the machine of a guest of another system: it writes to its overlay, and to nothing else.
func (m *Master) overlay(ctx context.Context, machine *hypervisor.Machine, path string) error {
	if path == "" {
		return fmt.Errorf("master %s is the disk of another system, which must write: make a guest of it with `rempart "+
			"create NAME --master %.12s`", m.Profile.Name, filepath.Base(m.Dir))
	}
	i, err := OpenOverlay(ctx, path, m)
	if err != nil {
		return err
	}
	if err := i.Close(); err != nil {
		return err
	}
	base := machine.System
	machine.System, machine.Base = hypervisor.Disk{Path: path, Format: hypervisor.QCOW2}, &base
	return nil
}
