package kernel_test

import (
	"context"
	"strings"
	"testing"

	"rempart/firstboot/filter"
	"rempart/firstboot/filter/filtertest"
	"rempart/firstboot/filter/kernel"
)

// Both tables of a policy with bridges come and go together, and are in force together.
func TestTableOfBridges(t *testing.T) {
	ns := namespace(t)
	bridged := filtertest.WithoutBridgeConntrack(compile(t, filtertest.Bridged()))
	other := compile(t, filtertest.Guarded()) // with sets that are kept
	inForce := func(rs filter.Ruleset, want bool) {
		t.Helper()
		if got, err := kernel.InForce(context.Background(), rs, kernel.Options{NetNS: ns}); err != nil || got != want {
			t.Errorf("InForce = %t, %v; want %t", got, err, want)
		}
	}
	tables := func(want string) {
		t.Helper()
		if got := strings.Join(strings.Fields(nft(t, ns, "", "list", "tables")), " "); got != want {
			t.Errorf("tables = %q; want %q", got, want)
		}
	}
	const both = "table inet rempart table bridge rempart"
	for range 2 {
		apply(t, ns, bridged)
		tables(both)
		inForce(bridged, true)
	}
	apply(t, ns, other)
	tables("table inet rempart")
	inForce(bridged, false)
	inForce(other, true)
	apply(t, ns, bridged)
	tables(both)
	nft(t, ns, "", "delete", "table", "bridge", "rempart")
	inForce(bridged, false)
	nft(t, ns, "add table bridge rempart", "-f", "-")
	nft(t, ns, "add table bridge foreign", "-f", "-")
	apply(t, ns, compile(t, filtertest.OneArmed()))
	tables("table bridge foreign table inet rempart")

	// A table that the kernel refuses takes the other with it: nothing changes.
	apply(t, ns, bridged)
	bad := filtertest.WithoutBridgeConntrack(compile(t, filtertest.Bridged()))
	chain := &bad.Tables[1].Chains[0]
	chain.Rules = append(chain.Rules, filter.Rule{Do: []filter.Expr{filter.Reject{TCPReset: true}}})
	if err := kernel.Apply(context.Background(), bad, kernel.Options{NetNS: ns}); err == nil {
		t.Error("a reject in the bridge family is taken; want an error")
	}
	inForce(bridged, true)
}
