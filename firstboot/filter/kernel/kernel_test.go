package kernel_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"rempart/firstboot/filter"
	"rempart/firstboot/filter/filtertest"
	"rempart/firstboot/filter/kernel"
	"rempart/profiles"
)

// namespace makes a network namespace that lives as long as the test and returns a file descriptor of it.
func namespace(t testing.TB) int {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED, NOT PASSED: needs root to make a network namespace")
	}
	type result struct {
		fd  int
		err error
	}
	made := make(chan result)
	go func() {
		// The thread is left in the namespace and ends with the goroutine, because it stays locked.
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			made <- result{err: err}
			return
		}
		fd, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		made <- result{fd, err}
	}()
	r := <-made
	if r.err != nil {
		t.Fatalf("make a network namespace: %v", r.err)
	}
	t.Cleanup(func() { _ = unix.Close(r.fd) })
	return r.fd
}

// nft runs nft(8) in a namespace.
func nft(t *testing.T, ns int, stdin string, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath("nft"); err != nil {
		t.Fatal("nft is missing: apt-get install nftables")
	}
	file := os.NewFile(uintptr(dup(t, ns)), "netns")
	defer file.Close()
	cmd := exec.Command("nsenter", append([]string{"--net=/proc/self/fd/3", "nft"}, args...)...)
	cmd.ExtraFiles = []*os.File{file}
	cmd.Stdin = strings.NewReader(stdin)
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("nft %s: %v\n%s", strings.Join(args, " "), err, errs.String())
	}
	return out.String()
}

func dup(t *testing.T, fd int) int {
	t.Helper()
	n, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func compile(t *testing.T, p *profiles.Profile) filter.Ruleset {
	t.Helper()
	rs, err := filter.Compile(p)
	if err != nil {
		t.Fatalf("Compile(%s) = %v; want no error", p.Name, err)
	}
	return rs
}

func apply(t *testing.T, ns int, rs filter.Ruleset) {
	t.Helper()
	if err := kernel.Apply(context.Background(), rs, kernel.Options{NetNS: ns}); err != nil {
		t.Fatalf("Apply = %v; want no error", err)
	}
}

// everyRuleset is the full and the closed rules of every profile, those that come with rempart first.
func everyRuleset(t *testing.T) map[string]filter.Ruleset {
	t.Helper()
	all := map[string]filter.Ruleset{}
	var each []*profiles.Profile
	for _, name := range profiles.Builtin() {
		p, err := profiles.Load(name)
		if err != nil {
			t.Fatal(err)
		}
		each = append(each, p)
	}
	each = append(each, filtertest.Profiles()...)
	for _, p := range append(each, filtertest.Bridged(), filtertest.Many(400), filtertest.Forwarding(300),
		filtertest.Knocking()) {
		all[p.Name] = filtertest.WithoutBridgeConntrack(compile(t, p))
		closed, err := filter.Closed(p)
		if err != nil {
			t.Fatal(err)
		}
		all[p.Name+" closed"] = closed
	}
	bans, err := filter.Bans(filtertest.Banning())
	if err != nil {
		t.Fatal(err)
	}
	all["bans"] = bans
	return all
}

// handles differ with the order in which objects were made; nothing else may.
var handle = regexp.MustCompile(` # handle \d+`)

// What we send by netlink and what nft makes of our text must be the same to the kernel: as nft lists it, and as the
// bytecode that the kernel runs.
func TestNetlinkEqualsText(t *testing.T) {
	for name, rs := range everyRuleset(t) {
		t.Run(name, func(t *testing.T) {
			ours, theirs := namespace(t), namespace(t)
			apply(t, ours, rs)
			nft(t, theirs, rs.Text(), "-f", "-")
			list := []string{"-s", "-a", "list", "ruleset"}
			got, want := nft(t, ours, "", list...), nft(t, theirs, "", list...)
			if strip(got) != strip(want) {
				t.Errorf("by netlink (-) and by nft (+):\n%s", difference(got, want))
			}
			apply(t, ours, rs)
			if again := nft(t, ours, "", list...); strip(again) != strip(got) {
				t.Errorf("applied once (-) and twice (+):\n%s", difference(got, again))
			}
			// The listing is a script again, and loading it changes nothing.
			again := "flush ruleset\n" + nft(t, ours, "", "-s", "list", "ruleset")
			nft(t, ours, again, "-f", "-")
			if after := nft(t, ours, "", list...); strip(after) != strip(got) {
				t.Errorf("before (-) and after (+) loading what was listed:\n%s", difference(got, after))
			}
		})
	}
}

func strip(s string) string { return handle.ReplaceAllString(s, "") }

// difference is the lines that only one of two listings has.
func difference(a, b string) string {
	var out strings.Builder
	left, right := strings.Split(strip(a), "\n"), strings.Split(strip(b), "\n")
	for _, line := range left {
		if !slices.Contains(right, line) {
			out.WriteString("-" + line + "\n")
		}
	}
	for _, line := range right {
		if !slices.Contains(left, line) {
			out.WriteString("+" + line + "\n")
		}
	}
	if out.Len() == 0 {
		return "the same lines in another order"
	}
	return out.String()
}

// Everything the intermediate form can say must mean the same by netlink and by text, also what no policy of today
// becomes: verdict maps, concatenated ranges, large sets in several messages, ranges up to the last value.
func TestWholeFormEqualsText(t *testing.T) {
	addr := func(a, b, c, d byte) []byte { return []byte{a, b, c, d} }
	name := func(s string) filter.Range {
		b := append([]byte(s), make([]byte, filter.IfNameSize-len(s))...)
		return filter.Range{First: b, Last: b}
	}
	jump := filter.Verdict{Kind: filter.VerdictJump, Chain: "sub"}
	large := filter.Set{Name: "large", Key: []filter.Type{filter.TypeIfName, filter.TypeIPv4},
		Map: filter.MapVerdict, Interval: true}
	trees := filter.Set{Name: "trees", Key: []filter.Type{filter.TypeIPv4}, Interval: true}
	for i := range 2000 {
		hi, lo := byte(i>>8), byte(i)
		r := filter.Range{First: addr(10, hi, lo, 4), Last: addr(10, hi, lo, 9)}
		large.Elements = append(large.Elements, filter.Element{Key: []filter.Range{name("eth0"), r}, Verdict: jump})
		trees.Elements = append(trees.Elements, filter.Element{Key: []filter.Range{r}})
	}
	trees.Elements = append(trees.Elements, filter.Element{Key: []filter.Range{
		{First: addr(255, 0, 0, 0), Last: addr(255, 255, 255, 255)}}})
	rs := filter.Ruleset{Tables: []filter.Table{{
		Family: filter.FamilyInet, Name: filter.TableName, Counters: []string{"c"},
		Sets: []filter.Set{large, trees,
			{Name: "links", Key: []filter.Type{filter.TypeIfName}, Map: filter.MapVerdict, Elements: []filter.Element{
				{Key: []filter.Range{name("lo")}, Verdict: filter.Verdict{Kind: filter.VerdictGoto, Chain: "sub"}}}},
			{Name: "empty", Key: []filter.Type{filter.TypeIPv6}}},
		Chains: []filter.Chain{
			{Name: "base", Base: &filter.Base{Type: "filter", Hook: filter.Input, Policy: filter.VerdictDrop},
				Rules: []filter.Rule{
					{Do: []filter.Expr{filter.Lookup{Fields: []filter.Field{filter.IIfName}, Set: "links", Map: filter.MapVerdict}}},
					{Do: []filter.Expr{filter.Lookup{Fields: []filter.Field{filter.IIfName, filter.IPSAddr}, Set: "large",
						Map: filter.MapVerdict}}, Comment: "a \"quote\" and ü"},
					{Do: []filter.Expr{filter.Lookup{Fields: []filter.Field{filter.IPDAddr}, Set: "trees"}, filter.Count{Name: "c"}}},
					{Do: []filter.Expr{filter.Match{Field: filter.TCPDPort, Ranges: []filter.Range{
						{First: []byte{0, 1}, Last: []byte{0, 9}}, {First: []byte{255, 0}, Last: []byte{255, 255}}}}, jump}},
				}},
			{Name: "sub", Rules: []filter.Rule{{Do: []filter.Expr{filter.Reject{}}, Comment: strings.Repeat("long ", 60)}}},
		},
	}}}
	ours, theirs := namespace(t), namespace(t)
	apply(t, ours, rs)
	nft(t, theirs, rs.Text(), "-f", "-")
	list := []string{"-s", "-a", "list", "table", "inet", filter.TableName}
	if got, want := nft(t, ours, "", list...), nft(t, theirs, "", list...); strip(got) != strip(want) {
		t.Errorf("by netlink (-) and by nft (+):\n%s", difference(got, want))
	}
}

// Applying again changes nothing, and other people's tables are never touched.
func TestApplyTwice(t *testing.T) {
	ns := namespace(t)
	nft(t, ns, "table ip docker { chain nat { type nat hook postrouting priority 100; masquerade; }; }", "-f", "-")
	rs := compile(t, filtertest.Wide())
	if in, err := kernel.InForce(context.Background(), rs, kernel.Options{NetNS: ns}); err != nil || in {
		t.Fatalf("InForce before = %v, %v; want false", in, err)
	}
	apply(t, ns, rs)
	first := nft(t, ns, "", "-s", "list", "ruleset")
	apply(t, ns, rs)
	if second := nft(t, ns, "", "-s", "list", "ruleset"); second != first {
		t.Errorf("first (-) and second (+) time:\n%s", difference(first, second))
	}
	if !strings.Contains(first, "table ip docker") {
		t.Errorf("another table is gone:\n%s", first)
	}
	if in, err := kernel.InForce(context.Background(), rs, kernel.Options{NetNS: ns}); err != nil || !in {
		t.Errorf("InForce after = %v, %v; want true", in, err)
	}
	other := compile(t, filtertest.OneArmed())
	if in, err := kernel.InForce(context.Background(), other, kernel.Options{NetNS: ns}); err != nil || in {
		t.Errorf("InForce of another policy = %v, %v; want false", in, err)
	}
}

// A rule the kernel refuses is named, and the policy before it stays in force.
func TestApplyFails(t *testing.T) {
	ns := namespace(t)
	rs := compile(t, filtertest.Wide())
	apply(t, ns, rs)
	before := nft(t, ns, "", "-s", "list", "ruleset")
	for _, test := range []struct {
		what string
		harm func(*filter.Table)
		want string
	}{
		{"a jump to nowhere", func(t *filter.Table) {
			chain := &t.Chains[5]
			chain.Rules = append([]filter.Rule{{Do: []filter.Expr{filter.Verdict{Kind: filter.VerdictJump, Chain: "nowhere"}},
				Comment: "policy: the culprit (7:7)"}}, chain.Rules...)
		}, "the culprit (7:7)"},
		{"masquerade outside nat", func(t *filter.Table) {
			last := &t.Chains[len(t.Chains)-2]
			*last = filter.Chain{Name: "late",
				Base:  &filter.Base{Type: "filter", Hook: filter.Forward, Policy: filter.VerdictDrop},
				Rules: []filter.Rule{{Do: []filter.Expr{filter.Masquerade{}}, Comment: "late culprit"}}}
		}, "late culprit"},
		{"elements twice in a map", func(t *filter.Table) {
			t.Sets = append(t.Sets, filter.Set{Name: "twice", Key: []filter.Type{filter.TypePort}, Map: filter.MapPort,
				Elements: []filter.Element{{Key: []filter.Range{{First: []byte{0, 1}, Last: []byte{0, 1}}}, Port: 2},
					{Key: []filter.Range{{First: []byte{0, 1}, Last: []byte{0, 1}}}, Port: 3}}})
		}, "set twice"},
	} {
		t.Run(test.what, func(t *testing.T) {
			bad := compile(t, filtertest.Wide())
			test.harm(&bad.Tables[0])
			err := kernel.Apply(context.Background(), bad, kernel.Options{NetNS: ns})
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("Apply = %v; want an error that names %q", err, test.want)
			}
			if after := nft(t, ns, "", "-s", "list", "ruleset"); after != before {
				t.Errorf("before (-) and after (+) the failure:\n%s", difference(before, after))
			}
		})
	}
}

// Without the capability nothing changes, and the error says what is missing; a cancelled context sends nothing.
func TestApplyRefused(t *testing.T) {
	ns := namespace(t)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	err := kernel.Apply(ctx, compile(t, filtertest.Uplink()), kernel.Options{NetNS: ns})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Apply with a cancelled context = %v; want context.Canceled", err)
	}
	if got := nft(t, ns, "", "list", "ruleset"); got != "" {
		t.Errorf("rules after a cancelled Apply:\n%s", got)
	}
}
