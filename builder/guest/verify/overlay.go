package verify

import (
	"bytes"
	"context"
	"fmt"

	"rempart/builder/disk"
	"rempart/builder/master"
)

// Overlay is what a comparison of what a guest of another system has written found: everything in which its disk
// differs from the master's, outside of files. What is in free blocks of a filesystem, and the filesystem's own tables,
// it does not tell of: every honest guest changes those.
func Overlay(ctx context.Context, written Disk, own Disk, regions []master.Region) ([]Difference, error) {
	const chunk = 256 << 10
	was, is := make([]byte, chunk), make([]byte, chunk)
	var all []Difference
	for _, r := range regions {
		d := Difference{Kind: Changed, Region: r.Name}
		for at := r.Offset; at < r.Offset+r.Length; {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			n := min(chunk, r.Offset+r.Length-at)
			if err := readPadded(written, is[:n], at); err != nil {
				return nil, fmt.Errorf("%s: %w", r.Name, err)
			}
			if err := readPadded(own, was[:n], at); err != nil {
				return nil, fmt.Errorf("%s of the master: %w", r.Name, err)
			}
			if !bytes.Equal(is[:n], was[:n]) {
				d.differ(is[:n], was[:n], at)
			}
			at += n
		}
		if len(d.Ranges) > 0 {
			all = append(all, d)
		}
	}
	return all, nil
}

// readPadded fills b from an offset of a disk; what lies behind the disk's end is zero.
func readPadded(d Disk, b []byte, at int64) error {
	have := max(0, min(int64(len(b)), d.Size-at))
	clear(b[have:])
	if have == 0 {
		return nil
	}
	return disk.ReadFull(d.ReaderAt, b[:have], at)
}
