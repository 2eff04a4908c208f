package filter_test

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"rempart/firstboot/filter"
	"rempart/firstboot/filter/filtertest"
	"rempart/profiles"
)

// mistake is a profile with one line left out, or two in each other's place.
type mistake struct {
	name  string
	order bool                      // only the order is wrong
	make  func(p *profiles.Profile) // of a copy whose lists are its own
}

// without leaves each element of a list out once.
func without[T any](what string, list func(*profiles.Profile) *[]T, p *profiles.Profile) (out []mistake) {
	for i := range *list(p) {
		out = append(out, mistake{fmt.Sprintf("%s %d is missing", what, i+1), false, func(p *profiles.Profile) {
			*list(p) = slices.Delete(*list(p), i, i+1)
		}})
	}
	return out
}

// swapped puts each element of a list in the place of the next once.
func swapped[T any](what string, list func(*profiles.Profile) *[]T, p *profiles.Profile) (out []mistake) {
	for i := range max(len(*list(p))-1, 0) {
		out = append(out, mistake{fmt.Sprintf("%s %d and %d are swapped", what, i+1, i+2), true, func(p *profiles.Profile) {
			all := *list(p)
			all[i], all[i+1] = all[i+1], all[i]
		}})
	}
	return out
}

func policy(p *profiles.Profile) *[]profiles.Rule       { return &p.Policy }
func forwards(p *profiles.Profile) *[]profiles.Forward  { return &p.Forwards }
func masquerade(p *profiles.Profile) *[]profiles.Pair   { return &p.Masquerade }
func adminZones(p *profiles.Profile) *[]string          { return &p.Admin.Zones }
func adminPrefixes(p *profiles.Profile) *[]netip.Prefix { return &p.Admin.Prefixes }

// mistakes are all that a profile can have in its lines.
func mistakes(p *profiles.Profile) []mistake {
	return slices.Concat(without("policy line", policy, p), swapped("policy lines", policy, p),
		without("forward", forwards, p), swapped("forwards", forwards, p), without("masquerade line", masquerade, p),
		without("admin zone", adminZones, p), without("admin prefix", adminPrefixes, p))
}

// TestEveryLineMatters leaves out every line of every built-in profile once: some probe of the profile as it is goes
// wrong. Where two lines in each other's place make none go wrong, either order compiles to rules of which no packet
// tells the difference.
func TestEveryLineMatters(t *testing.T) {
	for _, name := range profiles.Builtin() {
		p, err := profiles.Load(name)
		if err != nil {
			t.Fatal(err)
		}
		probes, whole := filter.Probes(p), try(t, p.Name, compile(t, p), p)
		seen, alike := 0, 0
		for _, m := range mistakes(p) {
			q := *p
			q.Policy, q.Forwards, q.Masquerade = slices.Clone(p.Policy), slices.Clone(p.Forwards), slices.Clone(p.Masquerade)
			q.Admin.Zones, q.Admin.Prefixes = slices.Clone(p.Admin.Zones), slices.Clone(p.Admin.Prefixes)
			m.make(&q)
			rs, err := filter.Compile(&q)
			if err != nil {
				continue // a mistake that is found without packets
			}
			w := filtertest.NewWalker(&q, rs)
			switch {
			case goesWrong(t, probes, w):
				seen++
			case m.order && whole.same(t, w):
				alike++
			default:
				t.Errorf("%s: no probe shows that %s", name, m.name)
			}
		}
		t.Logf("%s: %d mistakes make probes go wrong, %d pairs of lines may stand either way", name, seen, alike)
		if seen == 0 {
			t.Errorf("%s: no mistake was seen", name)
		}
	}
}

// goesWrong tells whether any probe does by the rules of a walker.
func goesWrong(t *testing.T, probes []filter.Probe, w *filtertest.Walker) bool {
	t.Helper()
	for _, probe := range probes {
		fate, err := w.Walk(filtertest.PacketOf(probe, w), nil)
		if err != nil {
			t.Fatal(err)
		}
		if filtertest.Judge(probe, fate, w) != "" {
			return true
		}
	}
	return false
}

// same tells whether everything that was sent fares the same by the rules of another walker.
func (x *trial) same(t *testing.T, w *filtertest.Walker) bool {
	t.Helper()
	for i, packet := range x.packets {
		fate, err := w.Walk(packet, nil)
		if err != nil {
			t.Fatal(err)
		}
		if fate.String() != x.fates[i] {
			return false
		}
	}
	return true
}
