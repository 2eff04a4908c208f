package qcow2

import (
	"context"
	"fmt"
	"io"

	"rempart/builder/disk"
)

// maxExtents bounds what Sparse keeps of an image made to have as many holes as it can: 128 MiB.
const maxExtents = 2 << 20

// Sparse returns the virtual disk as a sparse image whose extents leave out what the tables say is zero. It reads
// through the Image. It costs one look at every L2 table, and none where there is none.
func (i *Image) Sparse(ctx context.Context) (*disk.Sparse, error) {
	s := disk.NewSparse(i.size)
	var from, to int64 // the extent being gathered
	flush := func() error {
		if from == to {
			return nil
		}
		if len(s.Extents()) == maxExtents {
			return fmt.Errorf("qcow2: more than %d runs of data: %w", maxExtents, ErrUnsupported)
		}
		return s.Put(from, io.NewSectionReader(i, from, to-from), to-from)
	}
	data := func(at, end int64) error {
		if end = min(end, i.size); at >= end {
			return nil
		}
		if at != to {
			if err := flush(); err != nil {
				return err
			}
			from = at
		}
		to = end
		return nil
	}
	below := int64(0) // how far the backing file shines through what is not allocated
	if i.backing != nil {
		below = i.backing.Size
	}
	covers := i.clusterSize() * i.l2Entries()
	for k, table := range i.l1 {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		at := int64(k) * covers
		if table == 0 {
			if err := data(at, min(at+covers, below)); err != nil {
				return nil, err
			}
			continue
		}
		for end := min(at+covers, i.size); at < end; at += i.clusterSize() {
			p, err := i.find(at >> i.clusterBits)
			if err != nil {
				return nil, fmt.Errorf("qcow2: %w", err)
			}
			stop := at + i.clusterSize()
			switch p.where {
			case zero:
				continue
			case unallocated:
				stop = min(stop, below)
			}
			if err := data(at, stop); err != nil {
				return nil, err
			}
		}
	}
	return s, flush()
}
