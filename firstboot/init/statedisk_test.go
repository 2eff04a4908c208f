package pid1

import (
	"errors"
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

// TestWithoutQuotas: a guest whose kernel has none does its work, says so, and asks for none again.
func TestWithoutQuotas(t *testing.T) {
	old, next := oneLink(), named("gw2", "128M")
	g := prepareGuest(t, "", old)
	g.noShares = errors.New("nobody counts here")
	g.begin(t)
	r := g.wait(t, "READY", ready)
	if said := strings.Join(r.Warnings, "\n"); !strings.Contains(said, "nobody counts here") ||
		!strings.Contains(said, "bounded by the disk alone") {
		t.Errorf("warnings %q; want them to say that there are no quotas, and what that means", r.Warnings)
	}
	g.propose(t, old, next)
	if l := g.ask(t, child.Request{Verb: verbApply, Seconds: contract.MostUndo, Number: 1}); l.Error != "" {
		t.Fatalf("apply = %q", l.Error)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.limits) != 1 {
		t.Errorf("shared out %d times; want 1", len(g.limits))
	}
}
