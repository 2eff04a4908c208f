package rig

import (
	"slices"
	"testing"

	"rempart/builder/disk/imagefile"
	"rempart/builder/guest/verify"
	"rempart/firstboot/contract"
)

// Inspected is what `rempart verify` finds on a state disk.
func Inspected(tb testing.TB, disk string) *verify.State {
	tb.Helper()
	image, err := imagefile.Open(tb.Context(), disk, imagefile.Options{Format: imagefile.Raw})
	if err != nil {
		tb.Fatal(err)
	}
	defer image.Close()
	s, err := verify.InspectState(tb.Context(), image, image.Size(), verify.DefaultRules(), nil)
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

// Honest wants a state disk to hold nothing suspect but what the test has planted.
func Honest(tb testing.TB, disk string, planted ...string) {
	tb.Helper()
	s := Inspected(tb, disk)
	var found []string
	for _, p := range s.Suspects {
		found = append(found, p.Path)
	}
	slices.Sort(found)
	if !slices.Equal(found, planted) {
		tb.Errorf("verify suspects %+v on the state disk of an honest guest; want %q", s.Suspects, planted)
	}
	if len(s.Listing.Entries) < len(contract.StatePlaces()) {
		tb.Errorf("verify saw %d files on a state disk that a guest has used", len(s.Listing.Entries))
	}
}
