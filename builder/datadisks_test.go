package main

import (
	"slices"
	"testing"

	"rempart/builder/guest/home"
	"rempart/builder/hypervisor/xen"
	"rempart/profiles"
)

// TestDataOnXen: the place of a disk is that of its name in the profile, however disks are attached, and what the
// profile does not declare has none.
func TestDataOnXen(t *testing.T) {
	g := &home.Guest{}
	g.Data = []home.Data{{Name: "undeclared", Path: "/u"}, {Name: "c", Path: "/c"},
		{Name: "a", Path: "/a", ReadOnly: true}, {Name: "d", Path: "/d"}}
	p := &profiles.Profile{Disks: []profiles.Disk{{Name: "a"}, {Name: "b"}, {Name: "c"}, {Name: "d", ReadOnly: true}}}
	want := []xen.DataDisk{{Name: "c", Number: 2, Path: "/c"}, {Name: "a", Path: "/a", ReadOnly: true},
		{Name: "d", Number: 3, Path: "/d", ReadOnly: true}}
	if got := dataOnXen(g, p); !slices.Equal(got, want) {
		t.Errorf("dataOnXen = %+v; want %+v", got, want)
	}
}
