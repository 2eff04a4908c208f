package pid1

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"rempart/firstboot/contract"
	"rempart/profiles"
)

// storing is a profile with a set of n ranges that are stored beside its JSON, and these.
func storing(n int) (*profiles.Profile, []byte) {
	s := profiles.Set{Name: "many"}
	for i := range n {
		a := netip.AddrFrom4([4]byte{10, 0, byte(i), 1})
		s.Ranges = append(s.Ranges, profiles.AddrRange{First: a, Last: a})
	}
	b := s.Ranges.Binary()
	s.Forget()
	return &profiles.Profile{Sets: []profiles.Set{s}}, b
}

// TestKeepSets: the ranges that come with a change are kept while a profile has them that runs or is to, and a change
// that brings others, or lacks some, is refused.
func TestKeepSets(t *testing.T) {
	g := &guest{Options: Options{Root: t.TempDir()}}
	first, ofFirst := storing(1)
	second, ofSecond := storing(2)
	third, ofThird := storing(3)
	path := filepath.Join(g.Root, contract.SetsDir, first.Sets[0].Parts()[0].Digest) // of the master
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, ofFirst, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		what          string
		running, next *profiles.Profile
		sets          [][]byte
		refused       string
		left          []*profiles.Profile // whose ranges are there afterwards, beside the master's
	}{
		{"nothing new", first, first, nil, "", nil},
		{"lacking", first, second, nil, "2 ranges did not come", nil},
		{"another's", first, second, [][]byte{ofThird}, "stores no such", nil},
		{"new", first, second, [][]byte{ofSecond}, "", []*profiles.Profile{second}},
		{"newer", second, third, [][]byte{ofThird}, "", []*profiles.Profile{second, third}},
		{"back to the master's", third, first, nil, "", []*profiles.Profile{third}},
		{"none", first, &profiles.Profile{}, nil, "", nil},
	} {
		err := g.keepSets(tt.running, tt.next, tt.sets)
		if tt.refused == "" && err != nil || tt.refused != "" &&
			(err == nil || !strings.Contains(err.Error(), tt.refused)) {
			t.Errorf("%s: keepSets = %v; want %q", tt.what, err, tt.refused)
		}
		var there, want []string
		entries, _ := os.ReadDir(filepath.Join(g.Root, contract.LiveSets)) // none: not there yet
		for _, e := range entries {
			there = append(there, e.Name())
		}
		for _, p := range tt.left {
			want = append(want, p.Sets[0].Parts()[0].Digest)
		}
		slices.Sort(want)
		if fmt.Sprint(there) != fmt.Sprint(want) {
			t.Errorf("%s: %.8q are kept; want %.8q", tt.what, there, want)
		}
	}
}
