package pid1

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"rempart/firstboot/child"
	"rempart/firstboot/contract"
	"rempart/firstboot/contract/identity"
	"rempart/firstboot/init/supervise"
	"rempart/firstboot/state"
	"rempart/profiles"
)

// refused is the name of a profile whose policy cannot be loaded.
const refused = "refused"

// The children of the test guest; the test binary is its firstboot.
func specs() []child.Spec {
	daemon := func(ctx context.Context, env *child.Env) error {
		env.Ready()
		<-ctx.Done()
		return nil
	}
	return []child.Spec{
		{Name: "identity", Task: true, Own: []string{identity.Dir}, Shared: []child.GroupDir{{Path: identity.Dir + "/ssh"}},
			Needed: func(root string) bool {
				b, err := os.ReadFile(filepath.Join(root, "proc/cmdline"))
				return err == nil && strings.Contains(string(b), "with-identity")
			},
			Run: func(_ context.Context, env *child.Env) error {
				env.Tell(child.KeyIdentity, identity.Facts{Hostname: "not a name"})
				env.Tell(child.KeyIdentity, identity.Facts{Hostname: "fw-2"})
				return nil
			}},
		{Name: "policy", After: []string{"identity"}, Follows: true, Run: func(ctx context.Context, env *child.Env) error {
			if env.Profile.Name == refused {
				env.Tell(child.KeyFailure, "rules nobody takes")
				return errors.New("rules nobody takes")
			}
			env.Tell(child.KeyPolicy, "closed")
			env.Tell(child.KeyPolicy, "loaded")
			return daemon(ctx, env)
		}},
		{Name: "link", After: []string{"policy"}, Follows: true, Own: []string{contract.LinkDir}, Run: func(
			ctx context.Context, env *child.Env) error {
			env.Tell(child.KeyLinks, []contract.LinkReport{{Name: "lan0", Up: true, Addresses: []string{"10.0.0.1/24"}}})
			env.Tell(child.KeyWarning, "two NICs more\x1b[2J than links")
			return daemon(ctx, env)
		}},
		{Name: "state", Task: true, Run: func(_ context.Context, env *child.Env) error {
			env.Tell(child.KeyState, child.StateResult{Device: "vdb", Action: "formatted"})
			return nil
		}},
		{Name: "disks", Task: true, After: []string{"state"},
			Needed: func(root string) bool {
				p, _, err := child.ReadProfile(root)
				return err == nil && len(p.Disks) > 0
			},
			Run: func(_ context.Context, env *child.Env) error {
				env.Tell(child.KeyDisks, diskResults())
				return nil
			}},
		{Name: "control", Feed: true, Run: func(ctx context.Context, env *child.Env) error {
			env.Ready()
			for {
				select {
				case <-ctx.Done():
					return nil
				case r := <-env.Reports:
					// What the host would say, told by a file.
					name := filepath.Join(env.Root, "host")
					b, err := os.ReadFile(name)
					if err != nil || !r.Ready {
						continue
					}
					if os.Remove(name) == nil {
						var q child.Request
						if err := json.Unmarshal(b, &q); err != nil {
							return err
						}
						env.Tell(child.KeyRequest, q)
					}
				}
			}
		}},
		{Name: "liar", Run: func(ctx context.Context, env *child.Env) error {
			env.Tell(child.KeyPolicy, "none")
			env.Tell(child.KeyLinks, []contract.LinkReport{})
			env.Tell(child.KeyRequest, child.Request{Verb: "poweroff"})
			env.Tell("nonsense", 1)
			env.Tell(child.KeyScrubbed, true)
			env.Tell(child.KeyDisks, []child.DiskResult{})
			fmt.Fprintln(os.NewFile(child.TellFD, "tell"), "not JSON", strings.Repeat("x", 2*child.MaxLine))
			fmt.Fprintln(os.Stderr, "\x1b]0;title\x07 a line", strings.Repeat("y", 10000))
			return daemon(ctx, env)
		}},
		{Name: "log", After: []string{"state"}, Feed: true, Lines: true, Run: writeLines},
		{Name: "scrub", Task: true, AfterReady: true, Run: func(_ context.Context, env *child.Env) error {
			env.Tell(child.KeyScrubbed, true)
			return nil
		}},
	}
}

func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "child" {
		for _, spec := range specs() {
			if spec.Name == os.Args[2] {
				os.Exit(child.Main(spec))
			}
		}
		os.Exit(2)
	}
	os.Exit(m.Run())
}

// raceless spares children the second that a program under the race detector waits at its end, by default, for reports
// of other threads: they end one after the other.
var raceless = []string{"GORACE=atexit_sleep_ms=10"}

// testGuest is a guest in a temporary directory.
type testGuest struct {
	*guest
	root     string
	signals  chan os.Signal
	ended    chan int // argument of reboot(2)
	mu       sync.Mutex
	said     strings.Builder
	mounted  []string
	limits   []limited
	noShares error // of sharing
}

// limited is a time that the guest shared its state disk out.
type limited struct {
	dir, node string
	limits    []state.Limit
}

func (g *testGuest) limited(dir, node string, limits []state.Limit) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.limits = append(g.limits, limited{dir, node, limits})
	return g.noShares
}

func (g *testGuest) Write(p []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.said.Write(p)
}

func (g *testGuest) console() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.said.String()
}

func startGuest(t *testing.T, cmdline string, profile *profiles.Profile) *testGuest {
	t.Helper()
	g := prepareGuest(t, cmdline, profile)
	g.begin(t)
	return g
}

// prepareGuest makes a guest that has not begun to run.
func prepareGuest(t *testing.T, cmdline string, profile *profiles.Profile) *testGuest {
	t.Helper()
	root := t.TempDir()
	lay := func(name string, b []byte) {
		t.Helper()
		file := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	encode := func(v any) []byte {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	lay("proc/cmdline", []byte(cmdline))
	lay("proc/meminfo", []byte("MemTotal: 100 kB\nMemAvailable: 40 kB\n"))
	lay(contract.ProfilePath, encode(profile))
	lay(contract.BootPath, encode(contract.Boot{RootDevice: "dm-0", ReadOnly: true, RootHash: strings.Repeat("ab", 32)}))
	if err := os.MkdirAll(filepath.Join(root, "var"), 0o755); err != nil {
		t.Fatal(err)
	}
	g := &testGuest{root: root, signals: make(chan os.Signal, 1), ended: make(chan int, 1)}
	g.guest = newGuest(Options{Root: root, Program: "/proc/self/exe", Specs: specs(), Env: raceless, Console: g,
		Timing: supervise.Timing{First: 10 * time.Millisecond, Longest: 50 * time.Millisecond, Healthy: time.Minute,
			Grace: time.Second},
		Settling: 20 * time.Second,
		System: System{
			Mount: func(source, target, fstype string, flags uintptr, _ string) error {
				g.mu.Lock()
				defer g.mu.Unlock()
				if strings.HasPrefix(target, root+profiles.DisksDir) {
					return g.mountDisk(source, target, flags)
				}
				g.mounted = append(g.mounted, source+" "+strings.TrimPrefix(target, root)+" "+fstype)
				return nil
			},
			Reboot: func(cmd int) error { g.ended <- cmd; return nil },
			Share: func(dir, node string, limits []state.Limit) error {
				return g.limited(strings.TrimPrefix(dir, root), strings.TrimPrefix(node, root), limits)
			},
			Reshare: func(node string, limits []state.Limit) error {
				return g.limited("again", strings.TrimPrefix(node, root), limits)
			},
		}})
	return g
}

// begin runs it until the test ends.
func (g *testGuest) begin(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	g.run(ctx)
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		g.stop(g.waitForStop(g.signals))
	}()
	t.Cleanup(func() {
		select {
		case g.signals <- syscall.SIGUSR2:
		default:
		}
		<-gone
		cancel()
		if t.Failed() {
			t.Log(g.console())
		}
	})
}

// wait waits for a report.
func (g *testGuest) wait(t *testing.T, what string, want func(contract.Report) bool) contract.Report {
	t.Helper()
	var r contract.Report
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		b, err := os.ReadFile(filepath.Join(g.root, contract.ReportPath))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		r = contract.Report{}
		if err := json.Unmarshal(b, &r); err != nil {
			t.Fatalf("report %q: %v", b, err) // it must be whole at every moment
		}
		if want(r) {
			return r
		}
	}
	t.Fatalf("%s never came; the last report is %+v", what, r)
	return r
}

func oneLink() *profiles.Profile { return named("gw", "128M") }

func named(name, memory string) *profiles.Profile {
	p, err := profiles.Parse("profile.yaml", []byte(`rempart: 1
name: `+name+`
memory: `+memory+`
state: 16M
admin: none
links:
  lan0: {address: 10.0.0.1/24}
zones:
  lan: lan0
`))
	if err != nil {
		panic(err)
	}
	return p
}

func TestGuestBecomesReady(t *testing.T) {
	g := startGuest(t, "quiet", oneLink())
	r := g.wait(t, "READY", func(r contract.Report) bool { return r.Ready && r.Root.Scrubbed })
	if r.Policy != "loaded" || r.Name != "gw" || !r.Root.Verified || r.State.Action != "formatted" ||
		r.Memory.Total != 100<<10 ||
		r.Times.Ready == 0 || r.Times.Policy == 0 || r.Times.Links == 0 {
		t.Errorf("report = %+v", r)
	}
	if len(r.Warnings) == 0 || strings.Contains(strings.Join(r.Warnings, ""), "\x1b") {
		t.Errorf("warnings = %q; want the link child's, without its escape sequence", r.Warnings)
	}
	if strings.Contains(g.console(), "\x1b") || strings.Contains(g.console(), strings.Repeat("y", maxSaid)) {
		t.Error("a child's raw words reached the console")
	}
	for _, want := range []string{"key policy from liar", "key request from liar", "unknown key",
		"liar: ?]0;title? a line"} {
		if !strings.Contains(g.console(), want) {
			t.Errorf("the console does not say %q", want)
		}
	}
	if len(g.mounted) != 1 || !strings.HasSuffix(g.mounted[0], "dev/vdb /var ext4") {
		t.Errorf("mounted %v; want the state disk only", g.mounted)
	}
	if len(g.limits) != 1 || g.limits[0].dir != "/var" || g.limits[0].node != "/dev/vdb" || len(g.limits[0].limits) == 0 {
		t.Errorf("shared out %+v; want the state disk, once", g.limits)
	}
}

// TestQuietWhenNothingHappens: a report is written for a change, not for its own sake.
func TestQuietWhenNothingHappens(t *testing.T) {
	g := startGuest(t, "", oneLink())
	g.wait(t, "READY, and every task ended", func(r contract.Report) bool {
		for _, c := range r.Children {
			task := slices.ContainsFunc(specs(), func(s child.Spec) bool { return s.Name == c.Name && s.Task })
			if task != (c.State == "done") {
				return false
			}
		}
		return r.Ready && r.Root.Scrubbed
	})
	file := filepath.Join(g.root, contract.ReportPath)
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	// A change of memory alone would be written if anything asked for a report. That nothing does can only be watched
	// for a while.
	if err := os.WriteFile(filepath.Join(g.root, "proc/meminfo"), []byte("MemTotal: 7 kB\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	time.Sleep(500 * time.Millisecond)
	if b, err := os.ReadFile(file); err == nil {
		t.Errorf("a report without a change: %s", b)
	}
}

func TestKilledChildIsBack(t *testing.T) {
	g := startGuest(t, "", oneLink())
	g.wait(t, "READY", func(r contract.Report) bool { return r.Ready })
	for _, name := range []string{"policy", "link", "liar", "control"} {
		if err := g.sup.Signal(name, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		g.wait(t, "READY after the death of "+name, func(r contract.Report) bool {
			for _, c := range r.Children {
				if c.Name == name && c.Restarts == 1 && c.State == "ready" {
					return r.Ready
				}
			}
			return false
		})
	}
}

func TestInjections(t *testing.T) {
	t.Run("fail", func(t *testing.T) {
		g := startGuest(t, contract.KeyInject+"=fail:policy", oneLink())
		r := g.wait(t, "FAILED", func(r contract.Report) bool { return r.Settled })
		if r.Ready || r.Policy != "none" || len(r.Links) != 0 {
			t.Errorf("without a policy: %+v; want no link", r)
		}
	})
	t.Run("slow", func(t *testing.T) {
		began := time.Now()
		g := startGuest(t, contract.KeyInject+"=slow:policy:2s", oneLink())
		g.wait(t, "READY", func(r contract.Report) bool { return r.Ready })
		if took := time.Since(began); took < 2*time.Second {
			t.Errorf("READY after %v although the policy takes 2 s", took)
		}
	})
	t.Run("panic", func(t *testing.T) {
		g := startGuest(t, contract.KeyInject+"=panic:link", oneLink())
		g.wait(t, "READY after the panic", func(r contract.Report) bool {
			for _, c := range r.Children {
				if c.Name == "link" && c.Restarts == 1 {
					return r.Ready
				}
			}
			return false
		})
		if !strings.Contains(g.console(), "link: panic: made to panic") {
			t.Error("the console does not show the panic")
		}
	})
}

func TestPanicDoesNotStopPID1(t *testing.T) {
	g := startGuest(t, "", oneLink())
	g.wait(t, "READY", func(r contract.Report) bool { return r.Ready })
	err := g.guarded("test", func() error { panic("a fault") })
	if err == nil || !strings.Contains(err.Error(), "a fault") {
		t.Errorf("guarded(panic) = %v; want an error", err)
	}
	runs := 0
	g.forever("test", func() {
		if runs++; runs == 1 {
			panic("once")
		}
	})
	if runs != 2 {
		t.Errorf("forever ran %d times after one panic; want 2", runs)
	}
}

func TestNothingThere(t *testing.T) {
	// An empty root: every step fails, and PID 1 still reports and still stops when asked.
	g := &testGuest{root: t.TempDir(), ended: make(chan int, 1)}
	g.guest = newGuest(Options{Root: g.root, Program: "/nonexistent", Specs: specs(), Console: g,
		Timing:   supervise.Timing{First: time.Millisecond, Longest: time.Millisecond, Grace: 100 * time.Millisecond},
		Settling: time.Second,
		System: System{Mount: func(string, string, string, uintptr, string) error { return errors.New("no") },
			Reboot: func(cmd int) error { g.ended <- cmd; return nil }}})
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	g.run(ctx)
	r := g.wait(t, "FAILED", func(r contract.Report) bool { return r.Settled })
	if r.Ready || len(r.Failures) < 3 {
		t.Errorf("report of an empty root = %+v; want its failures", r)
	}
	g.stop(powerOff)
	if got := <-g.ended; got != syscall.LINUX_REBOOT_CMD_POWER_OFF {
		t.Errorf("reboot(%#x)", got)
	}
}

func FuzzTold(f *testing.F) {
	for _, line := range []string{`{"key":"links","value":[{"name":"lan0","addresses":["10.0.0.1/24"]}]}`,
		`{"key":"policy","value":"loaded"}`, `{"key":"state","value":{"action":"mounted","device":"vdb","bytes":1}}`,
		`{"key":"request","value":{"verb":"kill","child":"link","signal":9}}`, `{"key":"warning","value":"x"}`,
		`{"key":"scrubbed","value":true}`, `{"key":"request","value":{"verb":"apply","seconds":60,"number":7}}`,
		`{"key":"identity","value":{"hostname":"fw-2","links":[{"name":"lan0"}]}}`,
		`{"key":"disks","value":[{"name":"gone","device":"","action":"absent","bytes":0,"error":"x\n"}]}`} {
		f.Add([]byte(line))
	}
	g := newGuest(Options{Root: "/nonexistent", Console: &strings.Builder{}, Settling: time.Second})
	g.profile = oneLink()
	names := []string{policyChild, linkChild, scrubChild, stateChild, disksChild, controlChild, identityChild, adminChild}
	f.Fuzz(func(t *testing.T, line []byte) {
		m, err := child.DecodeMessage(line)
		if err != nil {
			return
		}
		for _, name := range names {
			_ = g.told(name, m)
		}
		r := g.compose()
		b, err := json.Marshal(r)
		if err != nil || len(b) > child.MaxReport {
			t.Errorf("after %q the report has %d bytes, %v", line, len(b), err)
		}
		for _, text := range append(r.Warnings, r.Failures...) {
			if strings.ContainsAny(text, "\n\x1b") {
				t.Errorf("after %q the report says %q", line, text)
			}
		}
		select {
		case q := <-g.requests:
			if q.Verb == "kill" {
				g.serve(q)
			}
		case q := <-g.liveRequests:
			_ = g.serveLive(context.Background(), &change{}, q) // nothing is proposed: it is refused, or nothing to do
		default:
		}
	})
}
