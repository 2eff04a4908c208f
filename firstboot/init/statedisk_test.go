package pid1

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"rempart/firstboot/child"
	"rempart/firstboot/contract"
	"rempart/firstboot/state"
	"rempart/profiles"
)

// mayWrite tells whether limits let a user write.
func mayWrite(limits []state.Limit, uid uint32) bool {
	return slices.ContainsFunc(limits, func(l state.Limit) bool { return l.UID == uid && l.Bytes > 0 && l.Files > 0 })
}

// TestSharesFollowTheProfile: who comes to write to the state disk by a changed profile has a share of it before its
// child hears of that, and none once the change is undone.
func TestSharesFollowTheProfile(t *testing.T) {
	old, next := oneLink(), oneLink()
	next.DHCP = []profiles.DHCP{{Link: "lan0"}}
	g := startGuest(t, "", old)
	g.wait(t, "READY", ready)
	g.propose(t, old, next)
	if l := g.ask(t, child.Request{Verb: verbApply, Seconds: contract.MostUndo, Number: 1}); l.Error != "" {
		t.Fatalf("apply = %q", l.Error)
	}
	if l := g.ask(t, child.Request{Verb: verbUndo, Number: 2}); l.Error != "" {
		t.Fatalf("undo = %q", l.Error)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	var dirs []string
	var leases []bool
	for _, l := range g.limits {
		dirs = append(dirs, l.dir+" "+l.node)
		leases = append(leases, mayWrite(l.limits, contract.UIDDHCP))
		if !mayWrite(l.limits, contract.UIDLog) || mayWrite(l.limits, contract.UIDDNS) {
			t.Errorf("limits %+v; want some for the log and none for the name server", l.limits)
		}
	}
	if want := []string{"/var /dev/vdb", "again /dev/vdb", "again /dev/vdb"}; !slices.Equal(dirs, want) ||
		!slices.Equal(leases, []bool{false, true, false}) {
		t.Errorf("shared out %q, with leases %v; want %q, with leases only while the change is in force", dirs, leases, want)
	}
}

// TestWithoutQuotas: a guest whose kernel has none does its work, says so, and asks for none again; one whose kernel
// refuses some says that, and asks for them again with another profile; one that did not count everything has them.
func TestWithoutQuotas(t *testing.T) {
	for what, c := range map[string]struct {
		problem error
		said    string // in its warnings, with the problem; empty: nothing of it
		times   int    // that it asked
	}{
		"none":      {errors.New("nobody counts here"), "a child writes is bounded by the disk alone", 1},
		"some":      {fmt.Errorf("user 7: %w", state.ErrUnbound), "those children write is bounded by the disk alone", 2},
		"uncounted": {fmt.Errorf("a deep tree: %w", state.ErrUncounted), "", 2},
	} {
		t.Run(what, func(t *testing.T) {
			old, next := oneLink(), named("gw2", "128M")
			g := prepareGuest(t, "", old)
			g.noShares = c.problem
			g.begin(t)
			r := g.wait(t, "READY", ready)
			said := strings.Join(r.Warnings, "\n")
			if !strings.Contains(said, c.said) || strings.Contains(said, c.problem.Error()) != (c.said != "") {
				t.Errorf("warnings %q; want of it %q", r.Warnings, c.said)
			}
			g.propose(t, old, next)
			if l := g.ask(t, child.Request{Verb: verbApply, Seconds: contract.MostUndo, Number: 1}); l.Error != "" {
				t.Fatalf("apply = %q", l.Error)
			}
			g.mu.Lock()
			defer g.mu.Unlock()
			if len(g.limits) != c.times {
				t.Errorf("shared out %d times; want %d", len(g.limits), c.times)
			}
		})
	}
}
