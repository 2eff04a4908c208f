package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"rempart/builder/hypervisor"
	"rempart/builder/packettest"
	"rempart/firstboot/contract"
	"rempart/test/rig"
)

// starts is how often a guest is started for the median of its times.
const starts = 3

// roomy is the RAM in which times are measured: enough that memory is not what they tell of.
const roomy = 256 * mebibyte

// BenchmarkStart starts the guest each way, on a blank state disk, and takes the times it reports itself: seconds since
// its kernel's clock began.
func BenchmarkStart(b *testing.B) {
	m := rig.Build(b, profile)
	for _, f := range hypervisor.Firmwares() {
		b.Run(string(f), func(b *testing.B) {
			var all []contract.Times
			var wall []float64
			for range starts {
				begun := time.Now()
				g := m.Boot(b, rig.Options{Firmware: f, Memory: roomy})
				g.AwaitReady()
				wall = append(wall, time.Since(begun).Seconds())
				r := g.Await("the scrub", func(r contract.Report) bool { return r.Root.Scrubbed })
				all = append(all, r.Times)
				g.Guest.Stop(context.Background(), 0)
			}
			at := func(of func(contract.Times) float64) float64 {
				var values []float64
				for _, t := range all {
					values = append(values, of(t))
				}
				return median(values)
			}
			ready := at(func(t contract.Times) float64 { return t.Ready })
			stage := at(func(t contract.Times) float64 { return t.Init - t.BootStage })
			own := at(func(t contract.Times) float64 { return t.Ready - t.Init })
			scrub := at(func(t contract.Times) float64 { return t.Scrub - t.Ready })
			report(b, ready, "s/READY")
			report(b, at(func(t contract.Times) float64 { return t.BootStage }), "s/kernel")
			report(b, stage, "s/boot-stage")
			report(b, own, "s/firstboot")
			report(b, at(func(t contract.Times) float64 { return t.Policy - t.Init }), "s/policy-after-init")
			report(b, at(func(t contract.Times) float64 { return t.Links - t.Policy }), "s/links-after-policy")
			report(b, scrub, "s/scrub")
			report(b, median(wall), "s/wall")
			figure("READY by "+string(f), "%.1f s after the kernel's start: boot stage %.1f s, firstboot %.1f s; scrubbed "+
				"%.1f s later; %.1f s of wall time from power-on", ready, stage, own, scrub, median(wall))
		})
	}
}

// Bounds of the search for the smallest RAM, in bytes. Debian's kernel is known not to start in 64 MiB.
const (
	leastRAM = 72 * mebibyte
	mostRAM  = 192 * mebibyte
	stepRAM  = 8 * mebibyte
)

// Time of the search. A guest that is short of memory may crawl for ever: it has the time that the guest with plenty
// took, this many times, and at least leastWait.
const (
	slower     = 3
	leastWait  = 20 * time.Second
	longest    = time.Minute
	searchTime = 100 * time.Second // for each way to boot; no new guest is started after it
	wholeTime  = 12 * time.Minute  // from the start of the program: all of `make bench` stays below 15 minutes
)

var programStart = time.Now()

// exitDifferent is the exit status of `rempart test` when the guest was READY but a flow went the wrong way.
const exitDifferent = 3

// BenchmarkSmallestRAM looks for the least RAM in which the guest is READY and every packet of the packet test goes
// where it should, by `rempart test`.
func BenchmarkSmallestRAM(b *testing.B) {
	m := rig.Build(b, profile)
	for _, f := range hypervisor.Firmwares() {
		b.Run(string(f), func(b *testing.B) {
			begun := time.Now()
			wait := longest
			does := func(memory int64) (bool, error) { return packets(b, m, f, memory, wait) }
			if ok, err := does(mostRAM); err != nil || !ok {
				b.Fatalf("the packet test by %s fails with %s: %v", f, mib(mostRAM), err)
			}
			wait = min(max(slower*time.Since(begun), leastWait), longest)
			least, exact, err := smallest(leastRAM, mostRAM, stepRAM,
				func() bool { return time.Since(begun) < searchTime && time.Since(programStart) < wholeTime }, does)
			if err != nil {
				b.Fatal(err)
			}
			report(b, float64(least)/mebibyte, "MiB")
			about := ""
			if !exact {
				about = ", or less: the search ran out of its time"
			}
			figure("smallest RAM by "+string(f), "%d MiB%s (READY and every flow right)", least/mebibyte, about)
		})
	}
}

// packets tells whether `rempart test` is content with a guest that has so much RAM. A packet that went where it must
// not because memory is short is no figure but a fault: it is an error.
func packets(b *testing.B, m *rig.Master, f hypervisor.Firmware, memory int64, wait time.Duration) (bool, error) {
	b.Helper()
	captures := b.TempDir() // what failed guests leave behind goes with the benchmark
	ctx, cancel := context.WithTimeout(b.Context(), wait+longest)
	defer cancel()
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, rig.Rempart(b), "test", m.Dir, "--firmware", string(f), "--accel", "tcg", "--json",
		"--memory", fmt.Sprintf("%dM", memory/mebibyte), "--timeout", wait.String(), "--pcap", captures)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) } // so that it ends its guest
	cmd.WaitDelay = 10 * time.Second
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	b.Logf("%s with %s: %v; %s", f, mib(memory), err, lastLine(stderr.Bytes()))
	var exit *exec.ExitError
	if err == nil || !errors.As(err, &exit) {
		return err == nil, err
	}
	if exit.ExitCode() != exitDifferent {
		return false, nil // not READY
	}
	var r packettest.Report
	if err := json.Unmarshal(stdout.Bytes(), &r); err != nil {
		return false, fmt.Errorf("rempart test --json: %w", err)
	}
	if leaked := leaks(r); len(leaked) > 0 {
		return false, fmt.Errorf("by %s with %s packets went where they must not: %s", f, mib(memory),
			strings.Join(leaked, "; "))
	}
	return false, nil
}

// leaks names the flows that passed and must not have; a flow that must pass and did not is none.
func leaks(r packettest.Report) []string {
	var all []string
	for _, row := range r.Rows {
		if !row.Right && row.Control != "" && len(row.Left) > 0 {
			all = append(all, fmt.Sprintf("%s %s: %s", row.Flow, row.Packet, row.Seen))
		}
	}
	if k := r.Knocks; k != nil && len(k.Through)+k.Answered > 0 {
		all = append(all, fmt.Sprintf("%d packets before READY", len(k.Through)+k.Answered))
	}
	return all
}
