package guest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"rempart/builder/disk/ext4"
	"rempart/builder/hypervisor"
	"rempart/profiles"
)

// standInSize is how large a disk is that stands in for a data disk, in bytes, all of them sparse.
const standInSize = 64 << 20

// standIns makes, in dir, a disk for each that the profile declares and that is not attached. The guest formats a blank
// one itself, but none that it may only read.
func standIns(p *profiles.Profile, attached []hypervisor.DataDisk, dir string) (all []hypervisor.DataDisk, err error) {
	for _, d := range Unattached(p, attached) {
		in := hypervisor.DataDisk{Name: d.Name, ReadOnly: d.ReadOnly,
			Disk: hypervisor.Disk{Path: filepath.Join(dir, "data-"+d.Name+".raw"), Format: hypervisor.Raw}}
		if err := standIn(in); err != nil {
			return nil, fmt.Errorf("a disk that stands in for data disk %s: %w", d.Name, err)
		}
		all = append(all, in)
	}
	return all, nil
}

// Unattached are the data disks of a profile that are not among those attached.
func Unattached(p *profiles.Profile, attached []hypervisor.DataDisk) (missing []profiles.Disk) {
	there := map[string]bool{}
	for _, d := range attached {
		there[d.Name] = true
	}
	for _, d := range p.Disks {
		if !there[d.Name] {
			missing = append(missing, d)
		}
	}
	return missing
}

func standIn(d hypervisor.DataDisk) (err error) {
	f, err := os.OpenFile(d.Disk.Path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := f.Truncate(standInSize); err != nil || !d.ReadOnly {
		return err
	}
	// Nobody compares it with anything: any time and UUID will do.
	return ext4.Make(f, ext4.Options{Size: standInSize, Label: d.Name, UUID: [16]byte{1}, Time: time.Unix(1, 0)}, nil)
}
