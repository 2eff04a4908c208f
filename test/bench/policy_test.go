package bench

import (
	"context"
	"fmt"
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
