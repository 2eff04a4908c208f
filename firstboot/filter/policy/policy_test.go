package policy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rempart/firstboot/child"
	"rempart/firstboot/contract"
	"rempart/firstboot/filter"
	"rempart/firstboot/filter/filtertest"
	"rempart/firstboot/filter/kernel"
	"rempart/profiles"
)

// asChildVar makes the test binary be the child itself, confined as Spec says.
const asChildVar = "REMPART_TEST_POLICY_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(asChildVar) == "" {
		os.Exit(m.Run())
	}
	ctx, cancel := context.WithCancel(context.Background())
	env := &child.Env{Profile: filtertest.Uplink(), Log: slog.New(slog.DiscardHandler),
		Ready: func() { fmt.Println("ready"); cancel() }, Tell: func(key string, value any) { fmt.Println(key, value) }}
	if err := Run(ctx, env); err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// told runs the child in the namespace of the calling thread until it is ready or fails, and returns what it told.
func told(t *testing.T, p *profiles.Profile, compile compiler) (said []string, err error) {
	t.Helper()
	return toldAfter(t, p, nil, compile)
}

// toldAfter is told in a guest whose profile was changed from an earlier one; nil: never.
func toldAfter(t *testing.T, p, earlier *profiles.Profile, compile compiler) (said []string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	root := t.TempDir()
	if earlier != nil {
		b, err := json.Marshal(earlier)
		if err == nil {
			err = os.MkdirAll(filepath.Join(root, contract.LiveDir), 0o755)
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(root, contract.PreviousPath), b, 0o644)
		}
		if err != nil {
			return nil, err
		}
	}
	env := &child.Env{Profile: p, Log: slog.New(slog.DiscardHandler), Root: root,
		Ready: func() { said = append(said, "ready"); cancel() },
		Tell:  func(key string, value any) { said = append(said, fmt.Sprint(key, " ", value)) }}
	err = run(ctx, env, compile)
	return said, err
}

// alone runs f on a thread in a new network namespace.
func alone(t *testing.T, f func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED, NOT PASSED: needs root to make a network namespace")
	}
	failed := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread and its namespace end with the goroutine
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			f()
		}
		failed <- err
	}()
	if err := <-failed; err != nil {
		t.Fatalf("make a network namespace: %v", err)
	}
}

func inForce(t *testing.T, compile compiler, p *profiles.Profile) bool {
	t.Helper()
	rs, err := compile(p)
	if err != nil {
		t.Errorf("compile: %v", err)
		return false
	}
	ok, err := kernel.InForce(context.Background(), rs, kernel.Options{})
	if err != nil {
		t.Errorf("InForce: %v", err)
	}
	return ok
}

func TestClosedThenLoadedThenRestarted(t *testing.T) {
	p := filtertest.OneArmed()
	alone(t, func() {
		said, err := told(t, p, filter.Compile)
		if want := []string{"policy closed", "policy loaded", "ready"}; err != nil || !reflect.DeepEqual(said, want) {
			t.Errorf("first start told %q, %v; want %q", said, err, want)
		}
		if !inForce(t, filter.Compile, p) {
			t.Error("the policy is not in force after the first start")
		}
		said, err = told(t, p, filter.Compile)
		if want := []string{"policy loaded", "policy loaded", "ready"}; err != nil || !reflect.DeepEqual(said, want) {
			t.Errorf("second start told %q, %v; want %q: nothing may be closed in between", said, err, want)
		}
	})
}

// Another policy than the profile's own in the kernel, a remnant of whatever, is closed first.
func TestForeignPolicyIsClosedFirst(t *testing.T) {
	alone(t, func() {
		if _, err := told(t, filtertest.Wide(), filter.Compile); err != nil {
			t.Errorf("load another policy: %v", err)
		}
		said, err := told(t, filtertest.OneArmed(), filter.Compile)
		if want := []string{"policy closed", "policy loaded", "ready"}; err != nil || !reflect.DeepEqual(said, want) {
			t.Errorf("told %q, %v; want %q", said, err, want)
		}
	})
}

// The policy of the profile before a live change is replaced in one step: nothing is closed in between. One that was
// loaded behind the back of the guest is closed first all the same.
func TestPreviousPolicyIsReplaced(t *testing.T) {
	next, running := parsed(t, "tcp/22"), parsed(t, "ping")
	alone(t, func() {
		if _, err := told(t, running, filter.Compile); err != nil {
			t.Errorf("load the first policy: %v", err)
		}
		said, err := toldAfter(t, next, running, filter.Compile)
		if want := []string{"policy loaded", "policy loaded", "ready"}; err != nil || !reflect.DeepEqual(said, want) {
			t.Errorf("after a live change told %q, %v; want %q", said, err, want)
		}
		if !inForce(t, filter.Compile, next) {
			t.Error("the changed policy is not in force")
		}
		broken := func(p *profiles.Profile) (filter.Ruleset, error) {
			if p == running {
				return filter.Ruleset{}, errors.New("broken line")
			}
			return filter.Compile(p)
		}
		said, err = toldAfter(t, running, next, broken)
		if want := "the one before the change stays in force: broken line"; err == nil ||
			!strings.Contains(err.Error(), want) || len(said) != 2 || said[0] != "policy loaded" {
			t.Errorf("with a change that cannot be compiled told %q, %v; want an error with %q", said, err, want)
		}
		if !inForce(t, filter.Compile, next) {
			t.Error("the policy before the change is not in force")
		}
		said, err = toldAfter(t, running, filtertest.Wide(), filter.Compile)
		if want := []string{"policy closed", "policy loaded", "ready"}; err != nil || !reflect.DeepEqual(said, want) {
			t.Errorf("with foreign rules told %q, %v; want %q", said, err, want)
		}
	})
}

func parsed(t *testing.T, service string) *profiles.Profile {
	t.Helper()
	p, err := profiles.Parse("profile.yaml", []byte(`rempart: 1
name: gw
admin: none
links: {lan0: {address: 10.0.0.1/24}}
zones: {lan: lan0}
policy: [lan -> self: `+service+`]
`))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestFailureStaysClosed(t *testing.T) {
	refused := func(p *profiles.Profile) (filter.Ruleset, error) {
		rs, err := filter.Compile(p)
		t := &rs.Tables[0]
		t.Chains[0].Rules = append(t.Chains[0].Rules, filter.Rule{Comment: "nonsense",
			Do: []filter.Expr{filter.Verdict{Kind: filter.VerdictJump, Chain: "nowhere"}}})
		return rs, err
	}
	broken := func(*profiles.Profile) (filter.Ruleset, error) { return filter.Ruleset{}, errors.New("broken line") }
	for _, test := range []struct {
		name    string
		compile compiler
		want    string
	}{{"refused by the kernel", refused, "nonsense"}, {"cannot be compiled", broken, "broken line"}} {
		t.Run(test.name, func(t *testing.T) {
			p := filtertest.OneArmed()
			alone(t, func() {
				said, err := told(t, p, test.compile)
				if err == nil || !strings.Contains(err.Error(), test.want) ||
					!strings.Contains(err.Error(), "traffic stays blocked") {
					t.Errorf("error = %v; want one that names %q and says that traffic stays blocked", err, test.want)
				}
				if len(said) != 2 || said[0] != "policy closed" || !strings.HasPrefix(said[1], "failure ") {
					t.Errorf("told %q; want policy closed and a failure, and never ready", said)
				}
				if !inForce(t, filter.Closed, p) {
					t.Error("the closed rules are not in force")
				}
			})
		})
	}
}

// A profile that not even Closed can read is closed all the same.
func TestNonsenseProfileIsClosed(t *testing.T) {
	alone(t, func() {
		_, err := told(t, &profiles.Profile{Admin: profiles.Admin{Zones: []string{"missing"}}}, filter.Compile)
		if err == nil {
			t.Error("a profile with an unknown zone was loaded")
		}
		if !inForce(t, filter.Closed, &profiles.Profile{Admin: profiles.Admin{None: true}}) {
			t.Error("the closed rules are not in force")
		}
	})
}

// The child as Spec confines it: its own user id, CAP_NET_ADMIN and no other capability.
func TestConfined(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED, NOT PASSED: needs root to make a network namespace and change the user id")
	}
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "policy")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	program := filepath.Join(dir, "child")
	if err := errors.Join(os.Chmod(dir, 0o755), os.WriteFile(program, self, 0o755)); err != nil {
		t.Fatal(err)
	}
	spec := Spec()
	if want := []uintptr{unix.CAP_NET_ADMIN}; !reflect.DeepEqual(spec.Caps, want) || spec.UID == 0 {
		t.Errorf("Spec() = %+v; want CAP_NET_ADMIN only and a user id of its own", spec)
	}
	run := func(caps []uintptr) (string, error) {
		cmd := exec.Command(program)
		cmd.Env = []string{asChildVar + "=1"}
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, AmbientCaps: caps,
			Credential: &syscall.Credential{Uid: spec.UID, Gid: spec.UID}}
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if out, err := run(spec.Caps); err != nil || out != "policy closed\npolicy loaded\nready\n" {
		t.Errorf("with Spec's capabilities: %v\n%s", err, out)
	}
	if out, err := run(nil); err == nil || !strings.Contains(out, "CAP_NET_ADMIN") {
		t.Errorf("without any capability: %v\n%s; want an error that names CAP_NET_ADMIN", err, out)
	}
}

// A profile with a flow table loads whatever the kernel has: where it has none, the rules without, and it is said.
func TestFlowTableWhereThereIsOne(t *testing.T) {
	alone(t, func() {
		p := filtertest.Fast()
		can, err := kernel.CanOffload(t.Context(), kernel.Options{})
		if err != nil {
			t.Fatal(err)
		}
		said, err := told(t, p, filter.Compile)
		if err != nil {
			t.Fatalf("run = %v; want no error", err)
		}
		warned := strings.Contains(strings.Join(said, "\n"), child.KeyWarning+" flowtable: this kernel takes none")
		if warned == can || said[len(said)-1] != "ready" {
			t.Errorf("the kernel has flow tables: %v; told %q; want a warning where it has none, and ready", can, said)
		}
		p.FlowTable = can
		rules, err := filter.Compile(p)
		if err != nil {
			t.Fatal(err)
		}
		if in, err := kernel.InForce(t.Context(), rules, kernel.Options{}); err != nil || !in {
			t.Errorf("InForce = %v, %v; want the rules with flow table %v", in, err, can)
		}
	})
}
