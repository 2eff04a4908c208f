package filter

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
)

// In a world of 256 addresses (and the last 256 of IPv6, where there is no next one) sets of spans must behave like
// sets of addresses.
func FuzzSpans(f *testing.F) {
	f.Add(uint64(1), false)
	f.Add(uint64(2), true)
	f.Fuzz(func(t *testing.T, seed uint64, v6 bool) {
		r := rand.New(rand.NewPCG(seed, 0))
		addr := func(n byte) netip.Addr {
			if v6 {
				a := [16]byte{}
				for i := range a {
					a[i] = 0xff
				}
				a[15] = n
				return netip.AddrFrom16(a)
			}
			return netip.AddrFrom4([4]byte{255, 255, 255, n})
		}
		random := func() (spans, map[byte]bool) {
			var list []span
			members := map[byte]bool{}
			for range r.IntN(6) {
				a, b := byte(r.IntN(256)), byte(r.IntN(256))
				list = append(list, span{addr(min(a, b)), addr(max(a, b))})
				for n := int(min(a, b)); n <= int(max(a, b)); n++ {
					members[byte(n)] = true
				}
			}
			return union(list...), members
		}
		a, inA := random()
		b, inB := random()
		for n := range 256 {
			x := byte(n)
			if got := a.contains(addr(x)); got != inA[x] {
				t.Errorf("union %v contains %v: %v; want %v", a, addr(x), got, inA[x])
			}
			if got := a.minus(b).contains(addr(x)); got != (inA[x] && !inB[x]) {
				t.Errorf("%v minus %v contains %v: %v", a, b, addr(x), got)
			}
			if got := a.and(b).contains(addr(x)); got != (inA[x] && inB[x]) {
				t.Errorf("%v and %v contains %v: %v", a, b, addr(x), got)
			}
		}
		for _, list := range []spans{a, a.minus(b), a.and(b)} {
			if !slices.IsSortedFunc(list, func(x, y span) int { return x.last.Compare(y.first) }) && len(list) > 1 {
				t.Errorf("%v is not sorted and disjoint", list)
			}
			for _, s := range list {
				if p, ok := s.prefix(); ok && prefixSpan(p) != s {
					t.Errorf("%v is printed as %v, which is %v", s, p, prefixSpan(p))
				}
			}
		}
	})
}

// A default route leads to every host elsewhere and to nothing that is none.
func TestEverywhere(t *testing.T) {
	for _, v6 := range families {
		all := everywhere(v6)
		for _, a := range []string{"127.0.0.1", "0.1.2.3", "224.0.0.1", "255.255.255.255", "::", "::1", "ff02::1", "fe80::1",
			"::ffff:10.0.0.1"} {
			if x := netip.MustParseAddr(a); isV6(x) == v6 && all.contains(x) {
				t.Errorf("a default route leads to %v; want not", x)
			}
		}
		for _, a := range []string{"1.1.1.1", "10.0.0.1", "192.168.0.1", "198.51.100.7",
			"2001:db8::7", "fd00::1", "64:ff9b::1"} {
			if x := netip.MustParseAddr(a); isV6(x) == v6 && !all.contains(x) {
				t.Errorf("a default route does not lead to %v; want it to", x)
			}
		}
	}
}
