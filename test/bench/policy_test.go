package bench

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rempart/firstboot/filter"
	"rempart/firstboot/filter/kernel"
	"rempart/profiles"
)

// loads is how often a policy is loaded for its median.
const loads = 21

// BenchmarkPolicy loads the policy over netlink, as a guest does, and has nft(8) load the same rules as text, in turns
// in one network namespace of its own. Both replace what the other left.
func BenchmarkPolicy(b *testing.B) {
	if os.Geteuid() != 0 {
		figure("loading the policy", "NOT MEASURED: needs root to make a network namespace")
		b.Skip("SKIPPED, NOT MEASURED: needs root to make a network namespace")
	}
	nft, err := exec.LookPath("nft")
	if err != nil {
		b.Fatalf("nft is missing; install the package nftables: %v", err)
	}
	p, err := profiles.Load(profile)
	if err != nil {
		b.Fatal(err)
	}
	rules, err := filter.Compile(p)
	if err != nil {
		b.Fatal(err)
	}
	// add and delete first, so that the text replaces a table that may or may not be there, as our batch does.
	text := fmt.Sprintf("add table inet %s\ndelete table inet %[1]s\n%s", filter.TableName, rules.Text())
	var ours, theirs []time.Duration
	err = inNamespace(func(ns int) error {
		for range loads {
			start := time.Now()
			if err := kernel.Apply(context.Background(), rules, kernel.Options{NetNS: ns}); err != nil {
				return err
			}
			ours = append(ours, time.Since(start))
			// Started from the thread that is in the namespace, so it is in it, too.
			cmd := exec.Command(nft, "-f", "-")
			cmd.Stdin = strings.NewReader(text)
			start = time.Now()
			if out, err := cmd.CombinedOutput(); err != nil {
				return fmt.Errorf("nft -f: %w: %s", err, out)
			}
			theirs = append(theirs, time.Since(start))
		}
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
	ratio := median(theirs).Seconds() / median(ours).Seconds()
	report(b, median(ours).Seconds()*1e3, "ms/netlink")
	report(b, median(theirs).Seconds()*1e3, "ms/nft")
	report(b, ratio, "times-as-fast-as-nft")
	figure("loading the policy, against `nft -f` of its text", "%.1f ms against %.1f ms, program start included "+
		"(%.1f times as fast)", median(ours).Seconds()*1e3, median(theirs).Seconds()*1e3, ratio)
}

// Size of the large policy: lines, and ranges of a set that one of them names.
const (
	manyLines  = 10_000
	manyRanges = 100_000
)

// large is a policy of that size.
func large() *profiles.Profile {
	p := lines(manyLines)
	set := profiles.Set{Name: "many"}
	for i := range manyRanges {
		first := netip.AddrFrom4([4]byte{11, byte(i >> 14), byte(i >> 6), byte(i << 2)})
		set.Ranges = append(set.Ranges, profiles.AddrRange{First: first, Last: first.Next()})
	}
	p.Sets = []profiles.Set{set}
	p.Policy = append([]profiles.Rule{{From: "in", To: "out", Action: profiles.Drop,
		Matches: []profiles.Match{{Protocol: profiles.AnyProtocol, SourceSets: []string{set.Name}}}}}, p.Policy...)
	return p
}

// BenchmarkLargePolicy loads a policy of 10,000 lines with a set of 100,000 ranges, and has nft(8) load the same as
// text: where nothing is yet, and over itself, where what is in the set stays as it is and nft puts it in once more.
func BenchmarkLargePolicy(b *testing.B) {
	what := fmt.Sprintf("loading %d lines and a set of %d ranges", manyLines, manyRanges)
	if os.Geteuid() != 0 {
		figure(what, "NOT MEASURED: needs root to make a network namespace")
		b.Skip("SKIPPED, NOT MEASURED: needs root to make a network namespace")
	}
	nft, err := exec.LookPath("nft")
	if err != nil {
		b.Fatalf("nft is missing; install the package nftables: %v", err)
	}
	rules, err := filter.Compile(large())
	if err != nil {
		b.Fatal(err)
	}
	text := fmt.Sprintf("add table inet %s\ndelete table inet %[1]s\n%s", filter.TableName, rules.Text())
	ours := func(ns int) error { return kernel.Apply(context.Background(), rules, kernel.Options{NetNS: ns}) }
	theirs := func(int) error {
		cmd := exec.Command(nft, "-f", "-")
		cmd.Stdin = strings.NewReader(text)
		out, err := cmd.CombinedOutput()
		if err != nil {
			return fmt.Errorf("nft -f: %w: %s", err, out)
		}
		return nil
	}
	const turns, times = 3, 2
	took := map[bool][times][]time.Duration{}
	for range turns {
		for _, own := range []bool{true, false} {
			load := theirs
			if own {
				load = ours
			}
			all := took[own]
			err := inNamespace(func(ns int) error {
				for i := range times {
					start := time.Now()
					if err := load(ns); err != nil {
						return err
					}
					all[i] = append(all[i], time.Since(start))
				}
				return nil
			})
			if err != nil {
				b.Fatal(err)
			}
			took[own] = all
		}
	}
	for i, how := range [times]string{"for the first time", "over itself"} {
		mine, other := median(took[true][i]).Seconds(), median(took[false][i]).Seconds()
		report(b, other/mine, "times-as-fast-as-nft/"+strings.ReplaceAll(how, " ", "-"))
		figure(what+" "+how+", against `nft -f` of its text", "%.2f s against %.2f s (%.1f times as fast)", mine, other,
			other/mine)
	}
}

// inNamespace runs f on a thread in a new network namespace; ns is a descriptor of it. The thread ends with it.
func inNamespace(f func(ns int) error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: a thread in another namespace must not be reused
		done <- func() error {
			if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
				return fmt.Errorf("making a network namespace: %w", err)
			}
			ns, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				return fmt.Errorf("the new network namespace: %w", err)
			}
			defer unix.Close(ns)
			return f(ns)
		}()
	}()
	return <-done
}
