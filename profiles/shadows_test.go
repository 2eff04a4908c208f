package profiles

import (
	"fmt"
	"net/netip"
	"testing"
)

// manyLines are so many rules of the kinds large policies are made of, none of which hides another.
func manyLines(n int) *Profile {
	p := &Profile{}
	for i := range n {
		at := Pos{Line: i + 1}
		port := PortRange{uint16(1 + i%60000), uint16(1 + i%60000)}
		host := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 32)
		net := netip.PrefixFrom(netip.AddrFrom4([4]byte{172, byte(i >> 8), byte(i), 0}), 16+i%9).Masked()
		host6 := netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 14: byte(i >> 8), 15: byte(i)}), 128)
		m := Match{Protocol: TCP, Ports: []PortRange{port}}
		switch i % 4 {
		case 1:
			m.Sources = []netip.Prefix{host}
		case 2:
			m.Sources, m.Destinations = []netip.Prefix{host}, []netip.Prefix{net}
		case 3:
			m.Protocol, m.Destinations = UDP, []netip.Prefix{host6}
		}
		p.Policy = append(p.Policy, Rule{From: "net", To: "lan", Action: Accept, Matches: []Match{m}, At: at})
	}
	return p
}

func BenchmarkShadowed(b *testing.B) {
	for _, n := range []int{1000, 20_000} {
		p := manyLines(n)
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			for b.Loop() {
				if got := p.Shadowed(); len(got) != 0 {
					b.Fatalf("%d rules are said never to decide, such as %v", len(got), got[0])
				}
			}
		})
	}
}

// The same lines again are all found, each by the one it repeats.
func TestShadowedOfMany(t *testing.T) {
	const n = 5000
	p := manyLines(n)
	p.Policy = append(p.Policy, p.Policy...)
	got := p.Shadowed()
	if len(got) != n {
		t.Fatalf("%d of %d repeated rules are found", len(got), n)
	}
	for i, s := range got {
		if s != (Shadow{n + i, i}) {
			t.Fatalf("rule %d is hidden by %d; want %d by %d", s.Rule, s.By, n+i, i)
		}
	}
}

// What would take too long is not looked at, and nothing is told that is not so.
func TestShadowedIsBounded(t *testing.T) {
	p := &Profile{}
	for i := range 64 {
		var m Match
		for k := range 256 {
			m.Sources = append(m.Sources, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i), byte(k)}), 24))
			m.Destinations = append(m.Destinations, netip.PrefixFrom(netip.AddrFrom4([4]byte{11, byte(i), byte(k)}), 24))
		}
		p.Policy = append(p.Policy, Rule{From: "a", To: "b", Action: Accept, Matches: []Match{m}})
	}
	p.Policy = append(p.Policy, p.Policy[0])
	for _, s := range p.Shadowed() {
		if s.Rule != 64 {
			t.Errorf("rule %d is said never to decide", s.Rule)
		}
	}
}
