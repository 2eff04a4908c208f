package hypervisor

import (
	"fmt"
	"strings"
)

// MaxData is how many data disks a machine may have: the functions of a PCI slot that are left beside the random device
// and the identity disk.
const MaxData = 6

// dataPrefix begins the serial by which a guest finds a data disk.
const dataPrefix = "data-"

// maxDataName leaves room for dataPrefix in a virtio-blk serial of 20 bytes (VIRTIO_BLK_ID_BYTES of
// <linux/virtio_blk.h>).
const maxDataName = 20 - len(dataPrefix)

// DataDisk is a disk that belongs to the guest's owner, not to the guest.
type DataDisk struct {
	Name     string
	Disk     Disk
	ReadOnly bool
}

// Serial is the virtio-blk serial of the disk.
func (d DataDisk) Serial() string { return dataPrefix + d.Name }

// CheckDataName tells what is wrong with the name of a data disk.
func CheckDataName(name string) error {
	if name == "" || len(name) > maxDataName || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
		return fmt.Errorf("data disk %.40q: want a name of 1 to %d lower-case letters, digits and '-'", name, maxDataName)
	}
	return nil
}
