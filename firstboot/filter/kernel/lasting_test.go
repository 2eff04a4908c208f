package kernel_test

import (
	"context"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"rempart/firstboot/filter"
	"rempart/firstboot/filter/filtertest"
	"rempart/firstboot/filter/kernel"
	"rempart/profiles"
)

// withSet is the guarded profile with a set of n ranges that are no prefixes.
func withSet(n int) *profiles.Profile {
	p := filtertest.Guarded()
	var list profiles.Ranges
	for i := range n {
		b := [4]byte{11, byte(i >> 14), byte(i >> 6), byte(i << 2)}
		first := netip.AddrFrom4(b)
		list = append(list, profiles.AddrRange{First: first, Last: first.Next().Next()})
	}
	p.Sets[0].Ranges = list
	return p
}

// setHandles are the sets of ranges of our table with their handles, which the kernel gives once.
func setHandles(t *testing.T, ns int) []string {
	t.Helper()
	out := nft(t, ns, "", "-a", "-t", "list", "table", "inet", filter.TableName)
	return regexp.MustCompile(`set set/\S+ \{ # handle \d+`).FindAllString(out, -1)
}

// A large set goes in by itself, is kept while it is wanted, and goes when it is not.
func TestLargeSetIsKept(t *testing.T) {
	const size = 100_000
	ns := namespace(t)
	p := withSet(size)
	first := compile(t, p)
	began := time.Now()
	apply(t, ns, first)
	cold := time.Since(began)
	before := setHandles(t, ns)
	p.Policy = p.Policy[:len(p.Policy)-1]
	second := compile(t, p)
	began = time.Now()
	apply(t, ns, second)
	warm := time.Since(began)
	if after := setHandles(t, ns); len(before) != 2 || strings.Join(after, "\n") != strings.Join(before, "\n") {
		t.Errorf("sets with handles %q, then %q; want two that are kept", before, after)
	}
	t.Logf("%d ranges: %v the first time, %v again", size, cold.Round(time.Millisecond), warm.Round(time.Millisecond))
	fresh := namespace(t)
	apply(t, fresh, second)
	list := []string{"-s", "list", "ruleset"}
	if got, want := nft(t, ns, "", list...), nft(t, fresh, "", list...); sorted(got) != sorted(want) {
		t.Errorf("after another policy (-) and in an empty namespace (+):\n%s", difference(got, want))
	}
	if in, err := kernel.InForce(context.Background(), second, kernel.Options{NetNS: ns}); err != nil || !in {
		t.Errorf("InForce = %v, %v; want true", in, err)
	}
	// Refused rules leave all as it was.
	bad := compile(t, withSet(10))
	table := &bad.Tables[0]
	table.Chains[0].Rules = append(table.Chains[0].Rules, filter.Rule{Comment: "the culprit",
		Do: []filter.Expr{filter.Verdict{Kind: filter.VerdictJump, Chain: "nowhere"}}})
	if err := kernel.Apply(context.Background(), bad, kernel.Options{NetNS: ns}); err == nil ||
		!strings.Contains(err.Error(), "the culprit") {
		t.Errorf("Apply = %v; want an error that names the culprit", err)
	}
	if in, err := kernel.InForce(context.Background(), second, kernel.Options{NetNS: ns}); err != nil || !in {
		t.Errorf("InForce after a refused policy = %v, %v; want true", in, err)
	}
	small := compile(t, withSet(10))
	apply(t, ns, small)
	if after := setHandles(t, ns); len(after) != 2 || strings.Join(after, "\n") == strings.Join(before, "\n") {
		t.Errorf("sets with handles %q; want the new one in place of the large one", after)
	}
	apply(t, ns, compile(t, filtertest.OneArmed()))
	if after := setHandles(t, ns); len(after) != 0 {
		t.Errorf("sets %q of a policy without sets; want none", after)
	}
}

// sorted are the lines of a listing in order: what is kept stands before what is new.
func sorted(s string) string {
	lines := strings.Split(s, "\n")
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}
