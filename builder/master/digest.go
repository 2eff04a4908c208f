package master

import (
	"bytes"
	"context"
	"encoding/hex"
	"io"

	"rempart/builder/disk"
)

// Fill fills in the digests of a disk: of all of it, of its regions, which are there already, and of its blocks of a
// size in bytes. Reading the disk once for the whole and once by region costs less than half a second for a master that
// was built, on two cores at once.
func (d *Disk) Fill(ctx context.Context, r io.ReaderAt, block int64) error {
	regions := []disk.Region{{Name: "disk", Offset: 0, Length: d.Size}}
	for _, one := range d.Regions {
		regions = append(regions, disk.Region{Name: one.Name, Offset: one.Offset, Length: one.Length})
	}
	sums, err := disk.Digests(ctx, r, regions)
	if err != nil {
		return err
	}
	d.SHA256 = hex.EncodeToString(sums[0][:])
	for i := range d.Regions {
		d.Regions[i].SHA256 = hex.EncodeToString(sums[i+1][:])
	}
	d.Block = block
	d.Blocks, err = disk.BlockDigests(ctx, r, d.Size, block)
	return err
}

// Holds tells whether what is in r is this disk, by the digests of its blocks: every byte is read, on all cores at
// once, which one digest of the whole cannot be, and zeros cost next to nothing.
func (d *Disk) Holds(ctx context.Context, r io.ReaderAt, size int64) (bool, error) {
	if size != d.Size {
		return false, nil
	}
	blocks, err := disk.BlockDigests(ctx, r, size, d.Block)
	return err == nil && bytes.Equal(blocks, d.Blocks), err
}
