package pid1

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"rempart/firstboot/child"
	"rempart/firstboot/contract"
	"rempart/firstboot/state"
	"rempart/profiles"
)

// mountDisks mounts the data disks that the disks child prepared. It runs once that child is done. Without a disk that
// the profile does not call optional the guest is not READY; it works on all the same.
func (g *guest) mountDisks() {
	g.mu.Lock()
	p, results := g.profile, g.facts.diskResults
	g.mu.Unlock()
	var reports []contract.DiskReport
	for i := range p.Disks {
		d := &p.Disks[i]
		r := child.StateResult{Action: state.FailedDisk, Error: "the disks child ended without a word"}
		if at := slices.IndexFunc(results, func(r child.DiskResult) bool { return r.Name == d.Name }); at >= 0 {
			r = results[at].StateResult
		}
		report := contract.DiskReport{Name: d.Name, Mount: d.Mount, Device: r.Device, Action: r.Action,
			Error: oneLine(r.Error)}
		if report.Error == "" {
			if err := g.mountDisk(d, r, &report); err != nil {
				report.Action, report.Error = state.FailedDisk, oneLine(err.Error())
			}
		}
		if report.Error != "" {
			report.Device = ""
			g.missDisk(d, report.Error)
		}
		reports = append(reports, report)
	}
	g.fact(func(f *facts) { f.disks = reports })
}

// missDisk tells that a data disk is not there.
func (g *guest) missDisk(d *profiles.Disk, why string) {
	name := "data disk " + d.Name
	said := cutText(name + ": " + why)
	g.log.Error(name, "error", why)
	g.fact(func(f *facts) {
		if d.Optional {
			f.warnings["init: "+name] = said
		} else {
			f.failures["init: "+name] = said
		}
	})
}

// mountDisk mounts one, and makes in it the folders of those who keep something there.
func (g *guest) mountDisk(d *profiles.Disk, r child.StateResult, report *contract.DiskReport) error {
	dir, node := filepath.Join(g.Root, d.Mount), filepath.Join(g.Root, "dev", r.Device)
	err := g.System.Mount(node, dir, "ext4", diskFlags(d), stateOptions)
	switch {
	case d.ReadOnly && errors.Is(err, unix.EROFS):
		return fmt.Errorf("mounting %s: %w: it was not taken off in order, and what its journal holds must be written first;"+
			" run e2fsck on it from the host, or attach it writable for one start", node, err)
	case err != nil:
		return fmt.Errorf("mounting %s: %w", node, err)
	}
	if r.Bytes > 0 {
		grown, err := state.Grow(dir, r.Bytes)
		if err != nil {
			g.warn("data disk "+d.Name, func() error { return fmt.Errorf("it keeps its size: %w", err) })
		}
		if grown {
			report.Action = state.Grown
		}
	}
	report.Bytes = size(dir)
	if !d.ReadOnly {
		g.warn("data disk "+d.Name+": folders", func() error { return g.makeDiskDirs(d, dir) })
	}
	return nil
}

func diskFlags(d *profiles.Disk) uintptr {
	flags := uintptr(unix.MS_NOSUID | unix.MS_NODEV)
	if !d.Exec {
		flags |= unix.MS_NOEXEC
	}
	if d.ReadOnly {
		flags |= unix.MS_RDONLY
	}
	return flags
}

// makeDiskDirs makes the folders that are missing. It follows no link: who had the disk before may have left any.
func (g *guest) makeDiskDirs(d *profiles.Disk, dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	g.mu.Lock()
	p := g.profile
	g.mu.Unlock()
	var failed []error
	for _, f := range []struct {
		name  string
		owner int
		want  bool
	}{{contract.DataLog, contract.UIDLog, p.Logging.Disk == d.Name}, {contract.DataShell, contract.UIDShell,
		p.Admin.Shell}} {
		if f.want {
			failed = append(failed, g.makeDiskDir(root, f.name, f.owner))
		}
	}
	return errors.Join(failed...)
}

func (g *guest) makeDiskDir(root *os.Root, name string, owner int) error {
	err := root.Mkdir(name, 0o750)
	if errors.Is(err, fs.ErrExist) {
		var info fs.FileInfo
		if info, err = root.Lstat(name); err == nil && !info.IsDir() {
			return fmt.Errorf("%s is a %v, wanted a directory", name, info.Mode().Type())
		}
	}
	if err == nil && g.Confine {
		err = root.Lchown(name, owner, owner)
	}
	return err
}

// folders are those of the places of a child (child.Spec) that are folders. Landlock follows links: one that an earlier
// owner of a disk left would open what it leads to, and one that leads nowhere would keep the child from its start.
func folders(places []string) []string {
	return slices.DeleteFunc(slices.Clone(places), func(place string) bool {
		info, err := os.Lstat(place)
		return err != nil || !info.IsDir()
	})
}

// leaveDisks takes the data disks off, the last first; one that is busy is made read-only.
func (g *guest) leaveDisks() {
	g.mu.Lock()
	disks, p := g.facts.disks, g.profile
	g.mu.Unlock()
	if g.Root != "/" {
		return
	}
	for _, r := range slices.Backward(disks) {
		d := p.Disk(r.Name)
		if r.Device == "" || d == nil {
			continue
		}
		g.leave(r.Mount, diskFlags(d))
	}
}
