package hypervisor

import (
	"rempart/firstboot/contract"
	"rempart/profiles"
)

// MaxData is how many data disks a machine may have.
const MaxData = profiles.MaxDisks

// DataDisk is a disk that belongs to the guest's owner, not to the guest.
type DataDisk struct {
	Name     string
	Disk     Disk
	ReadOnly bool
}

// Serial is the virtio-blk serial of the disk.
func (d DataDisk) Serial() string { return contract.DataSerial(d.Name) }

// CheckDataName tells what is wrong with the name of a data disk.
func CheckDataName(name string) error { return profiles.CheckDiskName(name) }
