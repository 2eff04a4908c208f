package profiles

import (
	"fmt"
	"slices"
	"strings"
)

// MaxDisks is how many data disks a guest may have: the functions of a PCI slot that QEMU's machine has left beside the
// random device and the identity disk.
const MaxDisks = 6

// MaxDiskName is the longest name of a data disk, in bytes: with "data-" before it, it is a virtio-blk serial of 20
// bytes (VIRTIO_BLK_ID_BYTES of <linux/virtio_blk.h>); and alone it is a label of ext4, which has 16.
const MaxDiskName = 15

// DisksDir is what all data disks are mounted below.
const DisksDir = "/srv"

// Disk is a data disk: it belongs to who runs the guest, who attaches it, and nothing that is done to the guest changes
// what is on it. Nothing of it may ever be a device or set a user id.
type Disk struct {
	Name     string `json:"name"`  // what the hypervisor calls it, 1 to MaxDiskName lower-case letters, digits and '-'
	Mount    string `json:"mount"` // mount point below DisksDir
	Exec     bool   `json:"exec,omitempty"`
	Optional bool   `json:"optional,omitempty"`  // the guest is READY without it
	ReadOnly bool   `json:"read_only,omitempty"` // mounted so, and never formatted, checked or grown
	At       Pos    `json:"at"`
}

// CheckDiskName tells what is wrong with the name of a data disk.
func CheckDiskName(name string) error {
	if name == "" || len(name) > MaxDiskName || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
		return fmt.Errorf("data disk %.40q: want a name of 1 to %d lower-case letters, digits and '-'", name, MaxDiskName)
	}
	return nil
}

// Disk is the data disk of a name; nil: there is none.
func (p *Profile) Disk(name string) *Disk {
	if i := p.DiskNumber(name); i >= 0 {
		return &p.Disks[i]
	}
	return nil
}

// DiskNumber is the place of a data disk among those of the profile, from 0; -1: it has none of that name.
func (p *Profile) DiskNumber(name string) int {
	return slices.IndexFunc(p.Disks, func(d Disk) bool { return d.Name == name })
}

// Mistaken says why a filesystem with a label is taken for another disk's than d, in words that follow the label;
// empty: it is not. state is the label of state disks.
func (p *Profile) Mistaken(d *Disk, label, state string) string {
	switch {
	case label == d.Name:
	case label == state:
		return "as the state disk of a guest has"
	case p.Disk(label) != nil:
		return "as data disk " + label + " has"
	}
	return ""
}

func (p *Profile) diskNames() []string {
	names := make([]string, len(p.Disks))
	for i, d := range p.Disks {
		names[i] = d.Name
	}
	return names
}
