package filter_test

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"testing"

	"rempart/firstboot/filter"
	"rempart/firstboot/filter/filtertest"
	"rempart/profiles"
)

// packet is the fields of a packet that the rules of these tests look at.
type packet map[filter.Field][]byte

// decides is the end of the first rule that matches a packet, by the words of the nft manual.
func decides(t *testing.T, table *filter.Table, rules []filter.Rule, p packet) []filter.Expr {
	t.Helper()
	within := func(f filter.Field, list ...filter.Range) bool {
		return slices.ContainsFunc(list, func(r filter.Range) bool {
			return p[f] != nil && bytes.Compare(r.First, p[f]) <= 0 && bytes.Compare(p[f], r.Last) <= 0
		})
	}
	for _, r := range rules {
		matches := true
		for i, e := range r.Do {
			switch e := e.(type) {
			case filter.Match:
				matches = matches && within(e.Field, e.Ranges...)
			case filter.Lookup:
				matches = matches && slices.ContainsFunc(table.Set(e.Set).Elements, func(el filter.Element) bool {
					for k, f := range e.Fields {
						if !within(f, el.Key[k]) {
							return false
						}
					}
					return true
				})
			default:
				if matches {
					return r.Do[i:]
				}
			}
			if !matches {
				break
			}
		}
	}
	return nil
}

// Whatever a packet is, merged rules decide as the rules did: tried with the corners of every rule and their
// neighbours, in all combinations that lines of the policy can tell apart, and with packets by chance.
func TestMergeDecidesAlike(t *testing.T) {
	for _, c := range []struct {
		p               *profiles.Profile
		boxes, compared int
		want            int // of so many rules one is left
	}{
		{filtertest.Merged(), 1 << 20, 1 << 20, 2}, {filtertest.Many(300), 1 << 20, 1 << 20, 2},
		{filtertest.Merged(), 40, 1 << 20, 1}, {filtertest.Merged(), 1 << 20, 3, 1}, {filtertest.Merged(), 0, 0, 1},
	} {
		p := c.p
		table, plain, merged, err := filter.PlainAndMerged(p, "net", "servers", c.boxes, c.compared)
		if err != nil {
			t.Fatal(err)
		}
		if len(merged)*c.want > len(plain) {
			t.Errorf("%s with %d elements and %d comparisons: %d rules became %d; want one of %d at most", p.Name, c.boxes,
				c.compared, len(plain), len(merged), c.want)
		}
		tried := 0
		try := func(x packet) {
			tried++
			want, got := decides(t, table, plain, x), decides(t, table, merged, x)
			if !slices.Equal(want, got) {
				t.Fatalf("%s: packet %x: merged rules decide %v; want %v", p.Name, x, got, want)
			}
		}
		var packets []packet
		for _, r := range plain {
			corners := []packet{{}}
			for _, m := range filter.Compared(&r) {
				var more []packet
				for _, x := range corners {
					for _, r := range m.Ranges {
						for _, value := range around(r) {
							y := packet{m.Field: value}
							for f, v := range x {
								y[f] = v
							}
							more = append(more, y)
						}
					}
				}
				corners = more
			}
			packets = append(packets, corners...)
		}
		random := rand.New(rand.NewPCG(1, 2))
		for _, x := range packets {
			try(x)
			// The same with another rule's values where it has the same fields.
			y := packets[random.IntN(len(packets))]
			mixed := packet{}
			for f, v := range x {
				if mixed[f] = v; y[f] != nil && random.IntN(2) == 0 {
					mixed[f] = y[f]
				}
			}
			try(mixed)
		}
		t.Logf("%s: %d rules became %d, %d packets", p.Name, len(plain), len(merged), tried)
	}
}

// around is the ends of a range and what is next to them.
func around(r filter.Range) [][]byte {
	out := [][]byte{r.First, r.Last}
	if next, ok := filter.Following(r.Last); ok {
		out = append(out, next)
	}
	before := slices.Clone(r.First)
	for i := len(before) - 1; i >= 0; i-- {
		if before[i]--; before[i] != 0xff {
			return append(out, before)
		}
	}
	return out
}

// Rules that overlap in part never meet in one set, and one that another holds is not kept.
func TestKeepApart(t *testing.T) {
	make2 := func(a, b, c, d byte) filter.Box {
		return filter.NewBox(filter.Range{First: []byte{a}, Last: []byte{b}}, filter.Range{First: []byte{c}, Last: []byte{d}})
	}
	apart, others := filter.KeepApart([]filter.Box{make2(0, 9, 0, 9), make2(2, 3, 4, 5), make2(5, 12, 5, 12),
		make2(10, 20, 0, 4), make2(13, 14, 4, 9)})
	if len(apart) != 2 || len(others) != 2 {
		t.Errorf("KeepApart = %v, %v; want two apart, two others, one dropped", apart, others)
	}
	for i, a := range apart {
		for _, b := range apart[i+1:] {
			if a.Meets(b) {
				t.Errorf("%v and %v are in one set", a, b)
			}
		}
	}
}
