package bench

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"rempart/builder/files"
	"rempart/builder/guest/storage"
	"rempart/test/rig"
)

// herd is a home of guests that have been used and stand still.
type herd struct {
	program string
	dir     string
	env     []string
	state   string // what a guest had on its state disk after its first life
}

// newHerd makes guests of one master. The first one lives once; the others get its state.
func newHerd(b *testing.B, guests int) *herd {
	b.Helper()
	dir, err := os.MkdirTemp("", "rempart-herd-") // short, for the sockets' sake
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { os.RemoveAll(dir) })
	h := &herd{program: rig.Rempart(b), dir: dir, state: filepath.Join(dir, "state"),
		env: append(os.Environ(), "REMPART_GUESTS="+dir+"/guests", "XDG_RUNTIME_DIR="+dir)}
	key := rig.NewKey(b).Write(b, dir) + ".pub"
	h.must(b, "build", profile, "--publish", "--store", dir+"/masters", "--output", dir+"/fw-1")
	for n := range guests {
		h.must(b, "create", name(n), "--store", dir+"/masters", "--master", "fw-1", "--accel", "tcg", "--firmware", "direct",
			"--key", key, "--keep", "/var/log/rempart")
	}
	defer func() { _ = h.run("stop", name(0), "--now") }() // when it failed below
	h.must(b, "start", name(0))
	h.must(b, "stop", name(0))
	if err := files.Clone(b.Context(), h.disk(0), h.state); err != nil {
		b.Fatal(err)
	}
	return h
}

func name(n int) string { return fmt.Sprintf("fw-%d", n) }

// disk is the state disk of the n-th guest.
func (h *herd) disk(n int) string { return filepath.Join(h.dir, "guests", name(n), storage.StateFile) }

func (h *herd) run(args ...string) error {
	cmd := exec.Command(h.program, args...)
	cmd.Env, cmd.Dir = h.env, h.dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("rempart %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}

func (h *herd) must(b *testing.B, args ...string) {
	b.Helper()
	if err := h.run(args...); err != nil {
		b.Fatal(err)
	}
}

// used gives the first guests the state of a used one, and nothing in quarantine, all of it on the disk.
func (h *herd) used(b *testing.B, guests int) {
	b.Helper()
	for n := range guests {
		err := os.RemoveAll(filepath.Join(h.dir, "guests", name(n), storage.Quarantine))
		if err := errors.Join(err, os.Remove(h.disk(n)), files.Clone(b.Context(), h.state, h.disk(n))); err != nil {
			b.Fatal(err)
		}
	}
	unix.Sync() // what was there before is not what is measured
}

// BenchmarkHostPart measures what putting guests on a master takes on the host: the whole command, without the guest's
// own stop and start. It checks every byte of the master, looks at both disks of a guest that was used, writes evidence
// and sets the old state aside. Of many guests as many at a time as there are processors.
func BenchmarkHostPart(b *testing.B) {
	counts := []int{1, 10, 100}
	h := newHerd(b, counts[len(counts)-1])
	for b.Loop() {
		for _, mode := range []struct {
			name string
			args []string
		}{{"blank state", []string{"reprovision", "--reset-state"}}, {"log carried over", []string{"reprovision"}},
			{"state kept", []string{"upgrade", "--to", "fw-1"}}} {
			var each []string
			for _, guests := range counts {
				var times []time.Duration
				for range min(tries, max(1, tries*10/guests)) { // of many one try is a mean already
					h.used(b, guests)
					group := errgroup.Group{}
					group.SetLimit(runtime.GOMAXPROCS(0))
					begun := time.Now()
					for n := range guests {
						group.Go(func() error { return h.run(slices.Concat(mode.args, []string{name(n), "--no-start"})...) })
					}
					err := group.Wait()
					times = append(times, time.Since(begun)/time.Duration(guests))
					if err != nil {
						b.Fatal(err)
					}
				}
				each = append(each, fmt.Sprintf("%d ms", median(times).Milliseconds()))
			}
			figure("host part of a reprovision, "+mode.name, "1 guest %s; of 10 each %s, of 100 %s", each[0], each[1], each[2])
		}
	}
}
