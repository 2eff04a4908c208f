package pid1

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"rempart/firstboot/child"
	"rempart/firstboot/contract"
	"rempart/firstboot/contract/live"
	"rempart/profiles"
)

// digestOf is the name of a profile.
func digestOf(t *testing.T, p *profiles.Profile) string {
	t.Helper()
	b, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	return contract.ProfileDigest(b)
}

// propose lays a profile where the admin child does.
func (g *testGuest) propose(t *testing.T, base, next *profiles.Profile) {
	t.Helper()
	b, err := json.Marshal(next)
	if err != nil {
		t.Fatal(err)
	}
	change, err := json.Marshal(live.Change{Base: digestOf(t, base), Profile: b})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(g.root, contract.ProposalPath)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, change, 0o600); err != nil {
		t.Fatal(err)
	}
}

// ask makes a request as the admin child does, and returns the report that answers it.
func (g *testGuest) ask(t *testing.T, r child.Request) contract.LiveReport {
	t.Helper()
	b, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	if err := g.told(adminChild, child.Message{Key: child.KeyRequest, Value: b}); err != nil {
		t.Fatal(err)
	}
	return g.wait(t, "an answer to "+r.Verb, func(rep contract.Report) bool { return rep.Live.Answer == r.Number }).Live
}

func ready(r contract.Report) bool { return r.Ready }

func TestLiveChangeIsConfirmed(t *testing.T) {
	old, next := oneLink(), named("gw2", "128M")
	g := startGuest(t, "", old)
	if r := g.wait(t, "READY", ready); r.Live.Profile != digestOf(t, old) || r.Live.Master != r.Live.Profile {
		t.Errorf("at the start the profile in force is %+v; want the master's", r.Live)
	}
	g.propose(t, old, next)
	live := g.ask(t, child.Request{Verb: verbApply, Seconds: contract.MostUndo, Number: 1})
	if live.Error != "" || live.Profile != digestOf(t, next) || live.Master != digestOf(t, old) ||
		live.UndoAt < live.Since+contract.MostUndo {
		t.Errorf("after apply the report says %+v", live)
	}
	r := g.wait(t, "READY as gw2", func(r contract.Report) bool { return r.Ready && r.Name == "gw2" })
	for _, c := range r.Children {
		if c.Restarts > 0 {
			t.Errorf("child %s was started again; want it to follow in its process", c.Name)
		}
	}
	if again := g.ask(t, child.Request{Verb: verbApply, Seconds: 60, Number: 2}); !strings.Contains(again.Error, "waits") {
		t.Errorf("a second change meanwhile = %q; want it refused", again.Error)
	}
	if c := g.ask(t, child.Request{Verb: verbConfirm, Number: 3}); c.Error != "" || c.UndoAt != 0 ||
		c.Profile != digestOf(t, next) {
		t.Errorf("after confirm the report says %+v", c)
	}
	if c := g.ask(t, child.Request{Verb: verbConfirm, Number: 4}); !strings.Contains(c.Error, "no change waits") {
		t.Errorf("a second confirm = %q; want it refused", c.Error)
	}
	// A child that dies comes back with the changed profile.
	if err := g.sup.Signal("policy", syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	g.wait(t, "READY after the death of policy", func(r contract.Report) bool {
		i := slices.IndexFunc(r.Children, func(c contract.ChildState) bool { return c.Name == "policy" })
		return r.Ready && r.Children[i].Restarts == 1 && r.Live.Profile == digestOf(t, next)
	})
}

func TestLiveChangeIsUndone(t *testing.T) {
	old, next := oneLink(), named("gw2", "128M")
	g := startGuest(t, "", old)
	g.wait(t, "READY", ready)
	for n, asked := range []bool{false, true} {
		g.propose(t, old, next)
		live := g.ask(t, child.Request{Verb: verbApply, Seconds: contract.LeastUndo, Number: uint64(10*n + 1)})
		if live.Error != "" || live.Profile != digestOf(t, next) {
			t.Fatalf("after apply the report says %+v", live)
		}
		if asked {
			live = g.ask(t, child.Request{Verb: verbUndo, Number: uint64(10*n + 2)})
			if live.Error != "" {
				t.Errorf("undo = %q", live.Error)
			}
		}
		r := g.wait(t, "the undone profile", func(r contract.Report) bool {
			return r.Ready && r.Name == "gw" && r.Live.Profile == r.Live.Master
		})
		took := r.Live.Since - live.Since
		if !asked && (took < contract.LeastUndo || r.Live.Error == "" || r.Live.UndoAt != 0) {
			t.Errorf("undone after %.1f s, report %+v; want %d s and why", took, r.Live, contract.LeastUndo)
		}
		if _, err := os.Stat(filepath.Join(g.root, contract.LivePath)); !os.IsNotExist(err) {
			t.Errorf("the live profile is still there: %v", err)
		}
	}
}

// TestUndoIsTriedAgain: a change that could not be undone goes on waiting until it is.
func TestUndoIsTriedAgain(t *testing.T) {
	old, next := oneLink(), named("gw2", "128M")
	g := startGuest(t, "", old)
	g.wait(t, "READY", ready)
	g.propose(t, old, next)
	if l := g.ask(t, child.Request{Verb: verbApply, Seconds: contract.MostUndo, Number: 1}); l.Error != "" {
		t.Fatalf("apply = %q", l.Error)
	}
	previous := filepath.Join(g.root, contract.PreviousPath)
	if err := os.Remove(previous); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(previous, "in the way"), 0o755); err != nil {
		t.Fatal(err)
	}
	l := g.ask(t, child.Request{Verb: verbUndo, Number: 2})
	if !strings.Contains(l.Error, "trying again") || l.Profile != digestOf(t, next) {
		t.Errorf("an undo that cannot be = %+v; want it to say so, and the changed profile", l)
	}
	if err := os.RemoveAll(previous); err != nil {
		t.Fatal(err)
	}
	g.wait(t, "the undone profile", func(r contract.Report) bool {
		return r.Ready && r.Name == "gw" && r.Live.Profile == r.Live.Master && r.Live.UndoAt == 0
	})
}

func TestLiveChangeIsRefused(t *testing.T) {
	old := oneLink()
	g := startGuest(t, "", old)
	g.wait(t, "READY", ready)
	byTLS := named("gw2", "128M")
	byTLS.DNS = &profiles.DNS{Cache: 4 << 20, Links: []profiles.DNSLink{{Link: byTLS.Links[0].Name, NoRecursion: true,
		TLS: true}}}
	number := uint64(0)
	for _, tt := range []struct {
		name       string
		base, next *profiles.Profile
		seconds    int
		want       string
	}{
		{"policy the kernel refuses", old, named(refused, "128M"), 60, "rules nobody takes; the profile before is in force"},
		{"compared with another", named("other", "128M"), named("gw2", "128M"), 60, "compare again"},
		{"nothing to change", old, old, 60, "this very profile already"},
		{"more memory", old, named("gw2", "256M"), 60, "memory: 128 MiB now, 256 MiB"},
		{"a certificate nobody gave it", old, byTLS, 60, "no certificate for DNS over TLS"},
		{"undone at once", old, named("gw2", "128M"), contract.LeastUndo - 1, "want 5 to 3600"},
		{"undone never", old, named("gw2", "128M"), contract.MostUndo + 1, "want 5 to 3600"},
	} {
		number++
		g.propose(t, tt.base, tt.next)
		live := g.ask(t, child.Request{Verb: verbApply, Seconds: tt.seconds, Number: number})
		if !strings.Contains(live.Error, tt.want) || live.Profile != digestOf(t, old) || live.UndoAt != 0 {
			t.Errorf("%s: the report says %+v; want %q, and the profile as it was", tt.name, live, tt.want)
		}
	}
	path := filepath.Join(g.root, contract.ProposalPath)
	for _, tt := range []struct {
		name string
		lay  func() error
		want string
	}{
		{"no file", func() error { return nil }, "no such file"},
		{"a link", func() error { return os.Symlink(filepath.Join(g.root, contract.ProfilePath), path) }, "too many levels"},
		{"a pipe", func() error { return syscall.Mkfifo(path, 0o600) }, "no regular file"},
		{"nonsense", func() error { return os.WriteFile(path, []byte(`{"base":"x","more":1}`), 0o600) }, "unknown field"},
		{"too large", func() error { return os.WriteFile(path, make([]byte, contract.MaxLive+1), 0o600) }, "more than"},
		{"a broken profile", func() error {
			return os.WriteFile(path, []byte(`{"base":"x","modules":[],"profile":{"name":"x"}}`), 0o600)
		}, "profile JSON"},
	} {
		if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		if err := tt.lay(); err != nil {
			t.Fatal(err)
		}
		number++
		live := g.ask(t, child.Request{Verb: verbApply, Seconds: 60, Number: number})
		if !strings.Contains(live.Error, tt.want) {
			t.Errorf("%s: %q; want %q", tt.name, live.Error, tt.want)
		}
	}
	if r := g.wait(t, "READY", ready); r.Name != "gw" {
		t.Errorf("after all that the guest is %s; want gw", r.Name)
	}
	// Nobody else may ask.
	b, _ := json.Marshal(child.Request{Verb: verbConfirm})
	if err := g.told(linkChild, child.Message{Key: child.KeyRequest, Value: b}); err == nil {
		t.Error("the link child may confirm a change; want it refused")
	}
	b, _ = json.Marshal(child.Request{Verb: "kill", Child: "policy", Signal: 9})
	if err := g.told(adminChild, child.Message{Key: child.KeyRequest, Value: b}); err == nil {
		t.Error("the admin child may kill others; want it refused")
	}
}
