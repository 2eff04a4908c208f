package supervise

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rempart/firstboot/child"
	"rempart/firstboot/contract"
	"rempart/firstboot/init/launch"
)

// roleVariable makes the test binary be a child: what it does is the variable's value.
const roleVariable = "SUPERVISE_TEST_ROLE"

func TestMain(m *testing.M) {
	switch role := os.Getenv(roleVariable); role {
	case "":
		os.Exit(m.Run())
	case "daemon":
		select {}
	case "stubborn":
		signal.Ignore(syscall.SIGTERM)
		select {}
	case "fail":
		os.Exit(7)
	case "task":
		os.Exit(0)
	case "panic":
		panic("as told")
	}
}

var quick = Timing{First: 10 * time.Millisecond, Longest: 80 * time.Millisecond, Healthy: time.Hour,
	Grace: 200 * time.Millisecond}

// bench supervises processes of the test binary; ready says when each is.
type bench struct {
	*Supervisor
	mu     sync.Mutex
	order  []string // starts and ends, in order
	roles  map[string]string
	starts map[string][]time.Time
}

func newBench(t *testing.T, timing Timing, roles map[string]string, specs ...child.Spec) *bench {
	t.Helper()
	reaper := launch.NewReaper()
	ctx, stop := context.WithCancel(context.Background())
	reaping := make(chan struct{})
	go func() { reaper.Run(ctx); close(reaping) }()
	t.Cleanup(func() { stop(); <-reaping }) // two reapers would take each other's processes
	b := &bench{roles: roles, starts: map[string][]time.Time{}}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { null.Close() })
	start := func(spec child.Spec, n int) (*Process, error) {
		b.mu.Lock()
		role := b.roles[spec.Name]
		b.order = append(b.order, "+"+spec.Name)
		b.starts[spec.Name] = append(b.starts[spec.Name], time.Now())
		b.mu.Unlock()
		if role == "unstartable" {
			return nil, errors.New("cannot be started")
		}
		if role == "unneeded" {
			return nil, ErrNotNeeded
		}
		if role == "fault" {
			panic("a fault in whoever starts")
		}
		p, err := reaper.Start(launch.Command{Path: "/proc/self/exe", Args: []string{"child"},
			Env: []string{roleVariable + "=" + role}, Files: []*os.File{null, null, null}})
		if err != nil {
			return nil, err
		}
		ready := make(chan struct{}, 1)
		if role == "daemon" || role == "stubborn" {
			time.AfterFunc(50*time.Millisecond, func() { ready <- struct{}{} }) // long enough to ignore a signal
		}
		return &Process{PID: p.PID, Done: p.Done, Ready: ready,
			Signal: func(sig syscall.Signal, group bool) error { return reaper.Signal(p.PID, sig, group) },
			Ended: func() {
				b.mu.Lock()
				b.order = append(b.order, "-"+spec.Name)
				b.mu.Unlock()
			}}, nil
	}
	b.Supervisor, err = New(specs, timing, slog.New(slog.NewTextHandler(io.Discard, nil)), start, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Stop(context.Background()) })
	return b
}

// wait waits until a child's state is as wanted.
func (b *bench) wait(t *testing.T, name string, want func(contract.ChildState) bool) contract.ChildState {
	t.Helper()
	var last contract.ChildState
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		for _, s := range b.States() {
			if s.Name == name {
				last = s
			}
		}
		if want(last) {
			return last
		}
	}
	t.Fatalf("%s stays %+v", name, last)
	return last
}

func is(state string) func(contract.ChildState) bool {
	return func(s contract.ChildState) bool { return s.State == state }
}

func TestOrderOfStartAndStop(t *testing.T) {
	b := newBench(t, quick, map[string]string{"a": "daemon", "b": "task", "c": "daemon"},
		child.Spec{Name: "c", After: []string{"b"}}, child.Spec{Name: "b", Task: true, After: []string{"a"}},
		child.Spec{Name: "a"})
	b.Start()
	b.wait(t, "c", is(Ready))
	b.wait(t, "b", is(Done))
	b.Stop(context.Background())
	if want := []string{"+a", "+b", "-b", "+c", "-c", "-a"}; !slices.Equal(b.order, want) {
		t.Errorf("order = %v; want %v", b.order, want)
	}
	for _, s := range b.States() {
		if s.Name != "b" && s.State != Stopped {
			t.Errorf("after Stop: %+v", s)
		}
	}
}

func TestRestartsWhatIsKilled(t *testing.T) {
	b := newBench(t, quick, map[string]string{"a": "daemon"}, child.Spec{Name: "a"})
	b.Start()
	for n := range 3 {
		first := b.wait(t, "a", func(s contract.ChildState) bool { return s.State == Ready && s.Restarts == n })
		if err := b.Signal("a", syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		again := b.wait(t, "a", func(s contract.ChildState) bool { return s.State == Ready && s.Restarts == n+1 })
		if again.PID == first.PID || again.Last != "killed by SIGKILL" {
			t.Errorf("after SIGKILL of %d: %+v", first.PID, again)
		}
	}
	if err := b.Signal("nobody", syscall.SIGKILL); err == nil {
		t.Error("Signal to a child that does not exist = nil; want an error")
	}
}

func TestFailingChildBacksOffAndHoldsDependents(t *testing.T) {
	for _, role := range []string{"fail", "panic", "unstartable", "fault"} {
		t.Run(role, func(t *testing.T) { backsOff(t, role) })
	}
}

func backsOff(t *testing.T, role string) {
	b := newBench(t, quick, map[string]string{"a": role, "b": "daemon", "c": "daemon"},
		child.Spec{Name: "a"}, child.Spec{Name: "b", After: []string{"a"}}, child.Spec{Name: "c"})
	b.Start()
	s := b.wait(t, "a", func(s contract.ChildState) bool { return s.State == Failed && s.Restarts >= 6 })
	if s.Last == "" {
		t.Errorf("%s: %+v; want to know why", role, s)
	}
	b.wait(t, "c", is(Ready)) // what does not need it is there
	b.wait(t, "b", is(Waiting))
	b.mu.Lock()
	at := slices.Clone(b.starts["a"])
	if slices.Contains(b.order, "+b") {
		t.Errorf("%s: b was started although a never was ready", role)
	}
	b.roles["a"] = "daemon"
	b.mu.Unlock()
	for i, want := range []time.Duration{10, 20, 40, 80, 80} {
		if gap := at[i+1].Sub(at[i]); gap < want*time.Millisecond {
			t.Errorf("%s: restart %d came after %v; want at least %d ms", role, i+1, gap, want)
		}
	}
	b.wait(t, "b", is(Ready)) // once it works, so does what waited
}

func TestHealthyChildIsForgiven(t *testing.T) {
	timing := quick
	timing.Healthy = time.Nanosecond
	timing.First = 50 * time.Millisecond
	timing.Longest = time.Hour
	began := time.Now()
	b := newBench(t, timing, map[string]string{"a": "daemon"}, child.Spec{Name: "a"})
	b.Start()
	const kills = 9 // without forgiving the delays would add up to 50 ms x (2^9 - 1) = 26 s
	for n := range kills {
		b.wait(t, "a", func(s contract.ChildState) bool { return s.State == Ready && s.Restarts == n })
		if err := b.Signal("a", syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		b.wait(t, "a", func(s contract.ChildState) bool { return s.Restarts == n+1 })
		b.wait(t, "a", is(Ready))
	}
	if took := time.Since(began); took > 15*time.Second {
		t.Errorf("%d restarts of a healthy child took %v", kills, took)
	}
}

func TestAfterReady(t *testing.T) {
	b := newBench(t, quick, map[string]string{"a": "daemon", "late": "task"},
		child.Spec{Name: "late", Task: true, AfterReady: true}, child.Spec{Name: "a"})
	b.Start()
	b.wait(t, "a", is(Ready))
	b.wait(t, "late", is(Waiting))
	b.Open()
	b.wait(t, "late", is(Done))
}

// TestNotNeeded: a child without work is done, holds nobody up, and starts when it is asked again and has some.
func TestNotNeeded(t *testing.T) {
	b := newBench(t, quick, map[string]string{"idle": "unneeded", "other": "daemon"},
		child.Spec{Name: "idle"}, child.Spec{Name: "other", After: []string{"idle"}})
	b.Start()
	b.wait(t, "other", is(Ready))
	if c := b.wait(t, "idle", is(Done)); c.Restarts != 0 || c.Last != "" {
		t.Errorf("a child that is not needed is %+v", c)
	}
	b.mu.Lock()
	asked := len(b.starts["idle"])
	b.roles["idle"] = "daemon"
	b.mu.Unlock()
	if asked != 1 {
		t.Errorf("asked %d times whether it is needed; want once", asked)
	}
	b.Reconsider()
	b.wait(t, "idle", is(Ready))
	b.Stop(t.Context())
}

func TestStopIsBounded(t *testing.T) {
	b := newBench(t, quick, map[string]string{"a": "stubborn"}, child.Spec{Name: "a"})
	b.Start()
	b.wait(t, "a", is(Ready))
	began := time.Now()
	b.Stop(context.Background())
	if took := time.Since(began); took < quick.Grace || took > 20*quick.Grace {
		t.Errorf("Stop of a child that ignores SIGTERM took %v; want about %v", took, quick.Grace)
	}
	b.wait(t, "a", is(Stopped))
}

func TestStopBeforeStart(t *testing.T) {
	b := newBench(t, quick, map[string]string{"a": "daemon"}, child.Spec{Name: "a", After: []string{"b"}},
		child.Spec{Name: "b"})
	b.Stop(context.Background())
	if len(b.order) != 0 {
		t.Errorf("Stop started %v", b.order)
	}
}

func TestImpossibleSpecs(t *testing.T) {
	for want, specs := range map[string][]child.Spec{
		"does not exist":   {{Name: "a", After: []string{"b"}}},
		"waits for itself": {{Name: "a", After: []string{"b"}}, {Name: "b", After: []string{"a"}}},
		"taken twice":      {{Name: "a"}, {Name: "a"}},
		"empty":            {{}},
	} {
		if _, err := New(specs, quick, nil, nil, nil, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("New(%+v) = %v; want an error with %q", specs, err, want)
		}
	}
}

// TestReapsOrphans: a process whose parent died is inherited and waited for.
func TestReapsOrphans(t *testing.T) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0) }()
	reaper := launch.NewReaper()
	ctx, stop := context.WithCancel(context.Background())
	reaping := make(chan struct{})
	go func() { reaper.Run(ctx); close(reaping) }()
	defer func() { stop(); <-reaping }()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	p, err := reaper.Start(launch.Command{Path: "/bin/sh", Args: []string{"sh", "-c", "sleep 0.2 & echo $!"},
		Files: []*os.File{null, w, w}})
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	out, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	if status := <-p.Done; status != 0 {
		t.Fatalf("sh ended with %v", status)
	}
	orphan := strings.TrimSpace(string(out))
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat("/proc/" + orphan); errors.Is(err, os.ErrNotExist) {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("orphan %s was never reaped", orphan)
		}
	}
	if err := reaper.Signal(p.PID, syscall.SIGTERM, false); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("Signal to a process that is gone = %v; want ErrProcessDone", err)
	}
}
