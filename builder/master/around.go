package master

import (
	"cmp"
	"slices"
)

// Around are the runs of bytes of a disk of size bytes that none of some extents covers, in order. The extents may
// overlap, and may reach beyond the disk.
func Around(extents []Extent, size int64) (all []Extent) {
	sorted := slices.SortedFunc(slices.Values(extents), func(a, b Extent) int { return cmp.Compare(a.Offset, b.Offset) })
	at := int64(0)
	for _, e := range append(sorted, Extent{Offset: size}) {
		if from := min(e.Offset, size); from > at {
			all = append(all, Extent{at, from - at})
		}
		at = max(at, e.Offset+e.Length)
	}
	return all
}
