package kernel_test

import (
	"context"
	"errors"
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

// withList is the guarded profile with a list of n ranges, the first of which are left out.
func withList(n, without int) *profiles.Profile {
	p := withSet(n)
	p.Sets[0].Ranges = p.Sets[0].Ranges[without:]
	p.Sets[0].Source = &profiles.ListSource{URL: "https://lists.example/", Every: 3600}
	return p
}

// handles are those of all that a list is not, which the kernel gives once: what is replaced has another.
func handles(t *testing.T, ns int) []string {
	t.Helper()
	var out []string
	for _, line := range strings.Split(nft(t, ns, "", "-a", "-t", "list", "table", "inet", filter.TableName), "\n") {
		if strings.Contains(line, "# handle") && !strings.Contains(line, "set/") {
			out = append(out, strings.TrimSpace(line))
		}
	}
	return out
}

// A list changes without anything else being touched, whatever it held and holds.
func TestSwap(t *testing.T) {
	ns := namespace(t)
	opts := kernel.Options{NetNS: ns}
	first := compile(t, withList(1000, 0))
	apply(t, ns, first)
	before := handles(t, ns)
	if len(before) < 10 {
		t.Fatalf("handles: %q", before)
	}
	for _, c := range []struct{ n, without int }{{1000, 10}, {1000, 10}, {10, 10}, {0, 0}, {1000, 500}, {1, 0}} {
		p := withList(c.n, c.without)
		next := compile(t, p)
		if next.Fingerprint() != first.Fingerprint() {
			t.Errorf("the fingerprint of %v depends on what the list holds", c)
		}
		if err := kernel.Swap(context.Background(), next, opts); err != nil {
			t.Fatalf("Swap to %v: %v", c, err)
		}
		if after := handles(t, ns); !slices.Equal(before, after) {
			t.Errorf("Swap to %v replaced more than the list:\n%s", c,
				difference(strings.Join(before, "\n"), strings.Join(after, "\n")))
		}
		fresh := namespace(t)
		apply(t, fresh, next)
		list := []string{"-s", "list", "ruleset"}
		if got, want := nft(t, ns, "", list...), nft(t, fresh, "", list...); sorted(got) != sorted(want) {
			t.Errorf("after a swap to %v (-) and in an empty namespace (+):\n%s", c, difference(got, want))
		}
	}
	other := compile(t, filtertest.OneArmed())
	if err := kernel.Swap(context.Background(), other, opts); !errors.Is(err, kernel.ErrOther) {
		t.Errorf("Swap to the lists of another policy = %v; want ErrOther", err)
	}
	// Rules that somebody else added or took away are not replaced by their number.
	nft(t, ns, "", "insert", "rule", "inet", filter.TableName, listChain(t, ns), "counter")
	err := kernel.Swap(context.Background(), compile(t, withList(9, 0)), opts)
	if !errors.Is(err, kernel.ErrOther) {
		t.Errorf("Swap under a rule of somebody else's = %v; want ErrOther", err)
	}
	apply(t, ns, compile(t, withList(9, 0)))
}

// listChain is a chain with a rule that asks the list.
func listChain(t *testing.T, ns int) string {
	t.Helper()
	chain := ""
	for _, line := range strings.Split(nft(t, ns, "", "list", "table", "inet", filter.TableName), "\n") {
		if m := regexp.MustCompile(`^\tchain (\S+) \{`).FindStringSubmatch(line); m != nil {
			chain = m[1]
		}
		if strings.Contains(line, "@set/") {
			return chain
		}
	}
	t.Fatal("no rule asks the list")
	return ""
}

// TestSwapOfLargeList says what a change of a large list costs.
func TestSwapOfLargeList(t *testing.T) {
	const size = 100_000
	ns := namespace(t)
	apply(t, ns, compile(t, withList(size, 0)))
	next := compile(t, withList(size, size/2))
	began := time.Now()
	if err := kernel.Swap(context.Background(), next, kernel.Options{NetNS: ns}); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d ranges replaced by %d in %v", size, size/2, time.Since(began).Round(time.Millisecond))
	if sets := setHandles(t, ns); len(sets) != 3 {
		t.Errorf("sets %q; want those of the list for both families, and one that is no list", sets)
	}
}

// A set that somebody began to fill and did not finish is not taken for what it is named after.
func TestIncompleteSet(t *testing.T) {
	rs := compile(t, withList(1000, 0))
	var name string
	for _, s := range rs.Tables[0].Sets {
		if s.List != "" && s.Len() > 1 {
			name = s.Name
		}
	}
	for left, script := range map[string]string{
		"a part":   "set inet rempart " + name + " { type ipv4_addr; flags interval; elements = { 11.0.0.0 }; }",
		"the mark": "counter inet rempart x",
	} {
		ns := namespace(t)
		nft(t, ns, "add table inet rempart\nadd counter inet rempart incomplete/"+name+"\nadd "+script+"\n", "-f", "-")
		apply(t, ns, rs)
		fresh := namespace(t)
		apply(t, fresh, rs)
		list := []string{"-s", "list", "ruleset"}
		if got, want := nft(t, ns, "", list...), nft(t, fresh, "", list...); sorted(got) != sorted(want) {
			t.Errorf("over what was left, %s (-), and in an empty namespace (+):\n%s", left, difference(got, want))
		}
	}
}
