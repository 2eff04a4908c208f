package main

import (
	"slices"
	"testing"

	"rempart/builder/debian"
	"rempart/builder/master"
)

func TestOlder(t *testing.T) {
	has := []master.Package{{Name: "linux", Version: "6.1.99-1"}, {Name: "libc6", Version: "2.36-9"},
		{Name: "gone", Version: "1"}, {Name: "ahead", Version: "2~rc1"}}
	lock := []debian.Locked{{Name: "linux", Version: "6.1.112-1"}, {Name: "libc6", Version: "2.36-9"},
		{Name: "ahead", Version: "1.9"}, {Name: "new", Version: "1"}}
	want := []superseded{{"fw", "linux", "6.1.99-1", "6.1.112-1"}}
	if got := older("fw", has, lock); !slices.Equal(got, want) {
		t.Errorf("older = %v; want %v", got, want)
	}
}

// TestGuestUsage: what is wrong with a call is told before anything is touched.
func TestGuestUsage(t *testing.T) {
	t.Setenv("REMPART_GUESTS", t.TempDir())
	for _, args := range [][]string{{"create"}, {"create", "fw"}, {"start"}, {"stop", "fw", "--timeout", "-1s"}, {"rm"},
		{"upgrade", "fw"}, {"quarantine"}, {"quarantine", "list"}, {"quarantine", "burn", "fw"}, {"backup", "fw"},
		{"restore"}, {"list", "fw"}, {"status"}, {"watch"}, {"reprovision"}, {"resume"}, {"prepare", "a", "b"}} {
		if code, out, errs := rempart(args...); code != exitUsage || out != "" || errs == "" {
			t.Errorf("rempart %q = %d, %q, %q; want wrong usage", args, code, out, errs)
		}
	}
	for _, args := range [][]string{{"start", "fw"}, {"stop", "fw"}, {"status", "fw"}, {"watch", "fw"}, {"rm", "fw"},
		{"console", "fw"}, {"reprovision", "fw"}, {"rollback", "fw"}, {"resume", "fw"}, {"quarantine", "list", "fw"},
		{"backup", "fw", "x"}, {"outdated", "fw"}} {
		if code, _, errs := rempart(args...); code != exitFailed || errs == "" {
			t.Errorf("rempart %q of a guest that is not there = %d, %q; want it said", args, code, errs)
		}
	}
	if code, out, errs := rempart("list"); code != exitDone || errs != "" {
		t.Errorf("rempart list = %d, %q, %q; want an empty list", code, out, errs)
	}
}
