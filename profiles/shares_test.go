package profiles

import (
	"net/netip"
	"slices"
	"testing"
)

func TestDivide(t *testing.T) {
	of := func(needs ...int64) (all []Share) {
		for _, n := range needs {
			all = append(all, Share{Need: n, Most: 2 * n})
		}
		return all
	}
	for _, c := range []struct {
		shares []Share
		room   int64
		want   []int64
	}{
		{nil, 10, []int64{}},
		{of(10, 20), 0, []int64{0, 0}},
		{of(10, 20), -5, []int64{0, 0}},
		{of(10, 20), 1000, []int64{20, 40}},
		{of(10, 20), 30, []int64{10, 20}},
		{of(10, 20), 50, []int64{20, 30}},
		{of(1000, 10, 20), 90, []int64{60, 10, 20}}, // who wants much takes from nobody
		{of(1000, 1000, 10), 90, []int64{40, 40, 10}},
	} {
		if got := Divide(c.shares, c.room); !slices.Equal(got, c.want) {
			t.Errorf("Divide(%v, %d) = %v; want %v", c.shares, c.room, got, c.want)
		}
	}
}

func TestEnds(t *testing.T) {
	for _, c := range []struct {
		first, last string
		want        uint64
	}{
		{"::1000", "::1fff", 4096},
		{"::5", "::5", 1},
		{"::ff", "::1:0:0:100", 1<<48 + 2},
		{"::", "::ffff:ffff:ffff:fffe", 1<<64 - 1},
		{"::", "::ffff:ffff:ffff:ffff", 1<<64 - 1},
		{"0.0.0.1", "0.0.0.2", 0},
	} {
		r := SuffixRange{netip.MustParseAddr(c.first), netip.MustParseAddr(c.last)}
		if got := ends(r); got != c.want {
			t.Errorf("ends(%s-%s) = %d; want %d", c.first, c.last, got, c.want)
		}
	}
	if got := ends(SuffixRange{}); got != 0 {
		t.Errorf("ends of nothing = %d", got)
	}
}

// TestProfilesFitTheirState: no profile that people begin with is too much for its disk, and each share can be had.
func TestProfilesFitTheirState(t *testing.T) {
	for _, name := range Builtin() {
		p, err := Load(name)
		if err != nil {
			t.Fatal(err)
		}
		room := StateRoom(p.State.Size)
		shares := p.Shares(room)
		for i, n := range Divide(shares, room) {
			if n < shares[i].Need {
				t.Errorf("%s: %s has %d bytes; want %d", name, shares[i].Of, n, shares[i].Need)
			}
		}
	}
}
