package reprovision

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// killed are the transactions that are killed, and how the guest must be when each has been finished, and when it has
// been taken back instead where that could still be decided. In both cases the old state is somewhere.
var killed = map[string]struct {
	plan           func(w *world) Plan
	finished, back string
	before         func(w *world) error // what has been since the world began; nil: nothing
}{
	"reprovision": {func(w *world) Plan { return w.plan(Reprovision, "better", Empty) },
		`better with "", runs on better`, `well with "old state", runs on well`, nil},
	"reprovision with what is kept": {func(w *world) Plan {
		p := w.plan(Reprovision, "better", Carry).proven()
		p.NewKeys = true
		return p
	}, `better with "kept of old state", runs on better`, `well with "old state", runs on well`, nil},
	"sick": {func(w *world) Plan { return w.plan(Reprovision, "sick", Empty) },
		`well with "old state", runs on well`, `well with "old state", runs on well`, nil},
	"wrong packets": {func(w *world) Plan { return w.plan(Reprovision, "wrong", Empty).proven() },
		`well with "old state", runs on well`, `well with "old state", runs on well`, nil},
	"upgrade": {func(w *world) Plan { return w.plan(Upgrade, "better", Keep) },
		`better with "old state", runs on better`, `well with "old state", runs on well`, nil},
	"rollback": {func(w *world) Plan {
		p := w.plan(Rollback, "well", Restore)
		p.Source = "0001"
		return p
	}, `well with "old state", runs on well`, `better with "", runs on better`,
		func(w *world) error { return w.run(w.plan(Reprovision, "better", Empty), nil) }},
}

// grownWorld is a world in which has been what is before a transaction that is killed.
func grownWorld(dir, name string) (*world, error) {
	w, err := newWorld(dir)
	if before := killed[name].before; err == nil && before != nil {
		err = before(w)
	}
	return w, err
}

// What tells a test binary to be the process that is killed: the world, the transaction, and the point.
const (
	worldVariable = "REMPART_TEST_WORLD"
	everyVariable = "REMPART_TEST_EVERY" // takes only every so many points, where each takes long
	planVariable  = "REMPART_TEST_PLAN"
	pointVariable = "REMPART_TEST_POINT"
)

// TestKilled kills the process at every point of every transaction: before each step, between a step and its record,
// and after the record, as they are enumerated by running it. What comes after finds out how far it is, and finishes it
// or takes it back.
func TestKilled(t *testing.T) {
	if dir := os.Getenv(worldVariable); dir != "" {
		die(t, dir)
		return
	}
	if cut, ok := os.LookupEnv(cutVariable); ok {
		cutPower(t, cut)
		return
	}
	every := 1
	if text, ok := os.LookupEnv(everyVariable); ok {
		var err error
		if every, err = strconv.Atoi(text); err != nil || every < 1 {
			t.Fatalf("%s is %q; want a number", everyVariable, text)
		}
	}
	for name := range killed {
		t.Run(name, func(t *testing.T) {
			if os.Getenv(volumesVariable) == "" { // else all have the same ones
				t.Parallel()
			}
			points := enumerate(t, name)
			if least := 3 * len(forward()) / 2; len(points) < least {
				t.Fatalf("only %d points: %q; want %d and more", len(points), points, least)
			}
			n := 0
			for i, point := range points {
				for b, back := range []bool{false, true} {
					if (2*i+b+len(name))%every == 0 { // not the same of each
						killAt(t, name, i, point, back)
						n++
					}
				}
			}
			t.Logf("%d points, %d times finished or taken back", len(points), n)
		})
	}
}

// enumerate runs a transaction whole and returns its points.
func enumerate(t *testing.T, name string) (points []string) {
	t.Helper()
	w, err := grownWorld(t.TempDir(), name)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.run(killed[name].plan(w), func(point string) { points = append(points, point) }); err != nil &&
		!errors.Is(err, ErrReturned) {
		t.Fatal(err)
	}
	return points
}

// killAt kills a process at the i-th point and looks at what becomes of the guest.
func killAt(t *testing.T, name string, i int, point string, back bool) {
	t.Helper()
	dir := memory(t)
	w, err := grownWorld(dir, name)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], "-test.run", "^TestKilled$")
	cmd.Env = append(os.Environ(), worldVariable+"="+dir, planVariable+"="+name, pointVariable+"="+strconv.Itoa(i))
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("the process at %q ended by %v; want it killed\n%s", point, err, out)
	}
	w.judge(t, name, point, back, false)
}

// judge finishes what a process was killed at, or takes it back, and looks at what becomes of the guest. Where all of
// the machine went down, one that does not run then is started, as at the start of a machine.
func (w *world) judge(t *testing.T, name, point string, back, down bool) {
	t.Helper()
	where := fmt.Sprintf("killed at %q, back %v", point, back)
	g, err := w.home.Open("fw")
	if err != nil {
		t.Fatalf("%s: %v", where, err)
	}
	_, last, err := Pending(g)
	if err != nil {
		t.Fatalf("%s: what is under way is not told: %v", where, err)
	}
	if recorded, ok := strings.CutPrefix(point, "recorded "); ok && recorded != last {
		t.Errorf("%s: the last step is told to be %q", where, last)
	}
	decided := last == committed || last == returned
	if err := w.finish(back); err != nil && !errors.Is(err, ErrReturned) {
		t.Fatalf("%s: going on: %v", where, err)
	}
	if down {
		runs, err := w.runner().Runs()
		if err == nil && !runs {
			err = w.runner().Start(t.Context())
		}
		if err != nil {
			t.Fatalf("%s: %v", where, err)
		}
	}
	want := killed[name].finished
	if back && !decided {
		want = killed[name].back
	}
	if got := w.fate(t); got != want {
		t.Errorf("%s: the guest is %s; want %s", where, got, want)
	}
	if all := w.fate(t) + w.kept(t); !strings.Contains(all, `"`+oldState+`"`) {
		t.Errorf("%s: the old state is nowhere: %s", where, all)
	}
	if keys := w.hostKeys(t); !slices.Contains(keys, hostKey) {
		t.Errorf("%s: the host key from before is nowhere; there are %q", where, keys)
	}
}

// memory is a folder in memory, where there is one: what a kill leaves is the same there, and no disk has to be waited
// for.
func memory(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "rempart-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// die runs a transaction and is killed on the way.
func die(t *testing.T, dir string) {
	w, err := openWorld(dir)
	if err != nil {
		t.Fatal(err)
	}
	at, err := strconv.Atoi(os.Getenv(pointVariable))
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	err = w.run(killed[os.Getenv(planVariable)].plan(w), func(string) {
		if n == at {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {} // the signal is on its way
		}
		n++
	})
	t.Fatalf("it ended before it was killed: %v", err)
}

// TestDiskFull has room for ever one page less when a transaction runs: it works, or fails with the guest as it was, or
// is pending; and once there is room it can be finished.
func TestDiskFull(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED, NOT PASSED: a small filesystem needs root")
	}
	apart(t, t.TempDir, fill)
}

// apart does the inside of a test in a process and a mount namespace of its own, with the folder that dir gives.
func apart(t *testing.T, dir func() string, inside func(t *testing.T, dir string)) {
	t.Helper()
	if dir := os.Getenv(worldVariable); dir != "" {
		if err := syscall.Mount("none", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
			t.Fatal(err)
		}
		inside(t, dir)
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run", "^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), worldVariable+"="+dir())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	} else {
		t.Logf("%s", out)
	}
}

const page = 4096

// fill is TestDiskFull in a mount namespace of its own.
func fill(t *testing.T, dir string) {
	for name := range killed {
		worked, failed := 0, 0
		for room := 0; worked < 3; room++ { // until there is enough for three in a row
			if room > 200 {
				t.Fatalf("%s does not work with %d pages free", name, room)
			}
			if short(t, name, dir, room) {
				worked++
			} else {
				worked, failed = 0, failed+1
			}
		}
		if failed < 8 {
			t.Errorf("%s: the disk was too small only %d times; is it full at all?", name, failed)
		}
		t.Logf("%s: failed with 0 to %d pages free, each time finished later", name, failed-1)
	}
}

// short runs a transaction with a number of free pages, and finishes what is left of it once there is room.
func short(t *testing.T, name, dir string, room int) (worked bool) {
	t.Helper()
	where := fmt.Sprintf("%s with %d pages free", name, room)
	if err := syscall.Mount("small", dir, "tmpfs", 0, "size=8m,huge=never"); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Fatal(err)
		}
	}()
	w, err := grownWorld(dir, name)
	if err != nil {
		t.Fatal(err)
	}
	ballast := filepath.Join(dir, "ballast")
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(ballast, make([]byte, (int64(st.Bavail)-int64(room))*page), 0o600); err != nil {
		t.Fatal(err)
	}
	failure := w.run(killed[name].plan(w), nil)
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	g, err := w.home.Open("fw")
	if err != nil {
		t.Fatalf("%s: %v", where, err)
	}
	if _, _, err := Pending(g); err == nil {
		if err := w.finish(false); err != nil && !errors.Is(err, ErrReturned) {
			t.Fatalf("%s: %v; then with room enough: %v", where, failure, err)
		}
	} else if !errors.Is(err, ErrNone) {
		t.Fatalf("%s: %v", where, err)
	}
	got := w.fate(t)
	if k := killed[name]; got != k.finished && got != k.back {
		t.Errorf("%s: the guest is %s; want %s or %s", where, got, k.finished, k.back)
	}
	if all := got + w.kept(t); !strings.Contains(all, `"`+oldState+`"`) {
		t.Errorf("%s: the old state is nowhere: %s", where, all)
	}
	return failure == nil || errors.Is(failure, ErrReturned) && !errors.Is(failure, syscall.ENOSPC)
}
