package main

import (
	"fmt"
	"os"

	"github.com/containerd/go-dmverity/pkg/dm"
	"golang.org/x/sys/unix"

	"rempart/firstboot/contract"
)

// deviceName is the device mapper's name of the root.
const deviceName = "rempart-root"

// table is the dm-verity table line; Documentation/admin-guide/device-mapper/verity.rst:
// version dev hash_dev data_block_size hash_block_size num_data_blocks hash_start_block algorithm digest salt opts.
// panic_on_corruption: an error must never be served as data nor answered by a reboot loop; the host decides.
func table(node string, v contract.Verity) dm.Target {
	return dm.Target{
		Type:   "verity",
		Length: v.DataBlocks * (contract.BlockSize / 512),
		Params: fmt.Sprintf("1 %s %s %d %d %d %d sha256 %x - 1 panic_on_corruption",
			node, node, contract.BlockSize, contract.BlockSize, v.DataBlocks, v.DataBlocks+1, v.RootHash),
	}
}

// activate puts dm-verity over a device node and returns the kernel name of the verified device ("dm-0").
func activate(node string, v contract.Verity) (string, error) {
	control, err := dm.Open()
	if err != nil {
		return "", fmt.Errorf("device mapper (are dm-mod and dm-verity among the boot modules?): %w", err)
	}
	defer control.Close()
	dev, err := control.CreateDevice(deviceName)
	if err != nil {
		return "", fmt.Errorf("dm-verity over %s: %w", node, err)
	}
	if err := control.LoadTable(deviceName, []dm.Target{table(node, v)}); err != nil {
		return "", fmt.Errorf("dm-verity over %s: %w", node, err)
	}
	if err := control.SuspendDevice(deviceName, false); err != nil {
		return "", fmt.Errorf("dm-verity over %s: starting: %w", node, err)
	}
	name := fmt.Sprintf("dm-%d", unix.Minor(dev))
	if _, err := os.Stat("/dev/" + name); err != nil { // devtmpfs makes it before the ioctl returns
		return "", fmt.Errorf("dm-verity over %s: %w", node, err)
	}
	return name, nil
}
