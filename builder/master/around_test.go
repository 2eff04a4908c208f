package master

import (
	"slices"
	"testing"
)

func TestAround(t *testing.T) {
	for _, tt := range []struct {
		extents []Extent
		size    int64
		want    []Extent
	}{
		{nil, 10, []Extent{{0, 10}}},
		{nil, 0, nil},
		{[]Extent{{0, 10}}, 10, nil},
		{[]Extent{{6, 2}, {2, 3}}, 10, []Extent{{0, 2}, {5, 1}, {8, 2}}},
		{[]Extent{{2, 6}, {3, 2}, {4, 6}}, 12, []Extent{{0, 2}, {10, 2}}},
		{[]Extent{{2, 100}}, 10, []Extent{{0, 2}}},
		{[]Extent{{20, 5}}, 10, []Extent{{0, 10}}},
	} {
		if got := Around(tt.extents, tt.size); !slices.Equal(got, tt.want) {
			t.Errorf("Around(%v, %d) = %v; want %v", tt.extents, tt.size, got, tt.want)
		}
	}
}
