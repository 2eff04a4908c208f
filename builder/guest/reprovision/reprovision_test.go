package reprovision

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"rempart/builder/guest"
	"rempart/builder/guest/home"
	"rempart/builder/guest/quarantine"
	"rempart/builder/guest/storage"
	"rempart/firstboot/contract/identity"
)

func TestOutcomes(t *testing.T) {
	for _, tt := range []struct {
		name  string
		plans func(w *world) []Plan
		err   error // of the last
		fate  string
		kept  string
	}{
		{"reprovision", func(w *world) []Plan { return []Plan{w.plan(Reprovision, "better", Empty)} }, nil,
			`better with "", runs on better`, `0001 committed, state.raw "old state"`},
		{"with what is kept", func(w *world) []Plan { return []Plan{w.plan(Reprovision, "well", Carry)} }, nil,
			`well with "kept of old state", runs on well`, `0001 committed, state.raw "old state"`},
		{"not started", func(w *world) []Plan {
			p := w.plan(Reprovision, "better", Empty)
			p.Start = false
			return []Plan{p}
		}, nil, `better with "", stopped`, `0001 committed, state.raw "old state"`},
		{"sick", func(w *world) []Plan { return []Plan{w.plan(Reprovision, "sick", Empty)} }, ErrReturned,
			`well with "old state", runs on well`, `0001 returned, failed-state.raw ""`},
		{"wrong packets", func(w *world) []Plan { return []Plan{w.plan(Reprovision, "wrong", Empty).proven()} }, ErrReturned,
			`well with "old state", runs on well`, `0001 returned`},
		{"upgrade", func(w *world) []Plan { return []Plan{w.plan(Upgrade, "better", Keep)} }, nil,
			`better with "old state", runs on better`, `0001 committed, state.raw "old state"`},
		{"sick upgrade", func(w *world) []Plan { return []Plan{w.plan(Upgrade, "sick", Keep)} }, ErrReturned,
			`well with "old state", runs on well`, `0001 returned, failed-state.raw "old state"`},
		{"rollback", func(w *world) []Plan {
			back := w.plan(Rollback, "well", Restore)
			back.Source = "0001"
			return []Plan{w.plan(Reprovision, "better", Empty), back}
		}, nil, `well with "old state", runs on well`,
			`0001 committed, state.raw "old state"; 0002 committed, state.raw ""`},
		{"no such master", func(w *world) []Plan {
			p := w.plan(Reprovision, "well", Empty)
			p.To = strings.Repeat("0", 64)
			return []Plan{p}
		}, ErrReturned, `well with "old state", runs on well`, `0001 returned`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w, err := newWorld(t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range tt.plans(w) {
				if err = w.run(p, nil); err != nil && tt.err == nil {
					t.Fatal(err)
				}
			}
			if !errors.Is(err, tt.err) {
				t.Errorf("Run = %v; want %v", err, tt.err)
			}
			if got := w.fate(t); got != tt.fate {
				t.Errorf("the guest is %s; want %s", got, tt.fate)
			}
			if got := w.kept(t); got != tt.kept {
				t.Errorf("in quarantine: %s; want %s", got, tt.kept)
			}
		})
	}
}

func TestDamagedMaster(t *testing.T) {
	w, err := newWorld(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	m, err := w.store.Find(w.masters["better"])
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(m.Dir, m.Manifest.Outputs[0].Name)
	if err := errors.Join(os.Chmod(file, 0o600), os.WriteFile(file, []byte("bitter"), 0o600)); err != nil {
		t.Fatal(err)
	}
	stopped := false
	err = w.run(w.plan(Reprovision, "better", Empty), func(point string) {
		stopped = stopped || point == "before stopped"
	})
	if !errors.Is(err, ErrReturned) || stopped {
		t.Errorf("Run with a damaged master = %v, stopped: %v; want it to be refused while the guest runs", err, stopped)
	}
	if got, want := w.fate(t), `well with "old state", runs on well`; got != want {
		t.Errorf("the guest is %s; want %s", got, want)
	}
}

// TestProof: a master whose packets are wrong costs the guest nothing, a verdict outlives the process that heard it,
// and nobody is asked where nobody wants to know.
func TestProof(t *testing.T) {
	w, err := newWorld(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	touched := false
	err = w.run(w.plan(Upgrade, "wrong", Keep).proven(), func(point string) {
		touched = touched || point == "before "+prepared
	})
	if !errors.Is(err, ErrReturned) || touched || !strings.Contains(err.Error(), "inside -> internet") {
		t.Errorf("Run with wrong packets = %v, touched: %v; want it refused with the flow before anything is done", err,
			touched)
	}
	g, err := w.home.Lock("fw", "a test")
	if err != nil {
		t.Fatal(err)
	}
	tr, err := Begin(t.Context(), g, w.plan(Upgrade, "better", Keep).proven(), w.options())
	if err != nil {
		t.Fatal(err)
	}
	if err := tr.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	g.Unlock()
	if err := w.finish(false); err != nil {
		t.Fatal(err)
	}
	if err := w.run(w.plan(Reprovision, "well", Empty), nil); err != nil {
		t.Fatal(err)
	}
	for id, want := range map[string]string{"0001": "1 of 2 flows", "0002": "2 of 2 flows", "0003": ""} {
		e, err := quarantine.Open(g.Dir, id)
		if err != nil || e.Proven != want || e.Has(quarantine.Packets) != (want != "") {
			t.Errorf("entry %s = %+v, %v; want verdict %q, with a report if any", id, e, err, want)
		}
	}
}

func TestUpgradeOfWhatIsNotTrusted(t *testing.T) {
	w, err := newWorld(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	state := filepath.Join(w.home.Dir, "fw", quarantine.State)
	if err := os.WriteFile(state, []byte("implant"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := w.run(w.plan(Upgrade, "better", Keep), nil); !errors.Is(err, ErrReturned) ||
		!strings.Contains(err.Error(), "an implant") {
		t.Errorf("upgrade = %v; want it refused with what was found", err)
	}
	if err := w.run(w.plan(Reprovision, "better", Empty), nil); err != nil {
		t.Errorf("reprovision = %v; that is what it is for", err)
	}
	if err := os.WriteFile(state, []byte("implant"), 0o600); err != nil {
		t.Fatal(err)
	}
	forced := w.plan(Upgrade, "well", Keep)
	forced.Force = true
	if err := w.begin(forced); err != nil {
		t.Fatal(err)
	}
	if err := w.finish(false); err != nil { // by another command, which was told nothing of it
		t.Errorf("upgrade that keeps whatever is found = %v", err)
	}
	e, err := quarantine.Open(filepath.Join(w.home.Dir, "fw"), "0002")
	if err != nil || len(e.Found) != 1 || !e.Has(quarantine.Report) || !e.Has(quarantine.Journal) ||
		!e.Has(quarantine.Evidence) || e.Signed != "signed by nobody" {
		t.Errorf("the entry is %+v, %v; want what was found, a report, evidence and the journal", e, err)
	}
}

// TestLongNames: names that JSON makes six times as long fit into the journal all the same, whether the guest is put on
// the new master or back.
func TestLongNames(t *testing.T) {
	w, g := lockedWorld(t)
	defer g.Unlock()
	o := w.options()
	o.Examine = func(context.Context, string) (f Finding, _ error) {
		for range 40 {
			f.Suspects = append(f.Suspects, "/var/"+strings.Repeat("<\x01", 2<<10))
		}
		return f, nil
	}
	for _, tt := range []struct {
		kind string
		mode Mode
		err  error
	}{{Upgrade, Keep, ErrReturned}, {Reprovision, Empty, nil}} {
		tr, err := Begin(t.Context(), g, w.plan(tt.kind, "better", tt.mode), o)
		if err != nil {
			t.Fatal(err)
		}
		if err := tr.Run(t.Context()); !errors.Is(err, tt.err) {
			t.Errorf("%s with long names found = %.300v; want %v", tt.kind, err, tt.err)
		}
	}
	all, err := quarantine.List(g.Dir)
	if err != nil || len(all) != 2 || len(all[1].Found) != 17 {
		t.Errorf("in quarantine: %d entries, %v; want 2, the last with the beginning of what was found", len(all), err)
	}
}

func TestNewKeys(t *testing.T) {
	w, err := newWorld(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	g, err := w.home.Open("fw")
	if err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(g.Identity())
	if err != nil {
		t.Fatal(err)
	}
	p := w.plan(Reprovision, "better", Empty)
	p.NewKeys = true
	if err := w.run(p, nil); err != nil {
		t.Fatal(err)
	}
	id, err := guest.ReadIdentity(g.Identity())
	if err != nil || id.Secret(identity.ConsumerSSH, identity.SSHHostKey) != nil ||
		string(id.Secret(identity.ConsumerSSH, identity.SSHAuthorizedKeys)) != "given" {
		t.Errorf("the identity is %+v, %v; want it without its host key, and with what was given", id, err)
	}
	aside, err := os.ReadFile(filepath.Join(g.Dir, quarantine.Folder, "0001", quarantine.Identity))
	if err != nil || !bytes.Equal(aside, before) {
		t.Errorf("the identity in quarantine: %v; want the one before", err)
	}
	p = w.plan(Reprovision, "sick", Empty)
	p.NewKeys = true
	before, err = os.ReadFile(g.Identity())
	if err != nil {
		t.Fatal(err)
	}
	if err := w.run(p, nil); !errors.Is(err, ErrReturned) {
		t.Errorf("Run = %v; want %v", err, ErrReturned)
	}
	if now, err := os.ReadFile(g.Identity()); err != nil || !bytes.Equal(now, before) {
		t.Errorf("after going back the identity is another: %v", err)
	}
}

// begin has a transaction begin, and no more.
func (w *world) begin(p Plan) error {
	g, err := w.home.Lock("fw", "a test")
	if err != nil {
		return err
	}
	defer g.Unlock()
	tr, err := Begin(context.Background(), g, p, w.options())
	if err != nil {
		return err
	}
	return tr.j.Close()
}

// TestGoingBackTakesNoRoom: when the new disk fills this machine's, what there is of it goes first, and a description
// that was not changed is not written.
func TestGoingBackTakesNoRoom(t *testing.T) {
	w, g := lockedWorld(t)
	defer g.Unlock()
	before, err := os.Stat(filepath.Join(g.Dir, "guest.json"))
	if err != nil {
		t.Fatal(err)
	}
	o := w.options()
	full := errors.New("no space left on device")
	o.Fill = func(_ context.Context, _, path string, _ int64) ([]string, error) {
		return nil, errors.Join(os.WriteFile(path, []byte("large"), 0o600), full)
	}
	looked := false
	o.Trace = func(point string) {
		if point == "recorded "+returning {
			looked = true
			if left, err := os.ReadDir(filepath.Join(g.Dir, storage.Work)); err != nil || len(left) != 0 {
				t.Errorf("when it goes back there is %v, %v; want nothing of the new disk", left, err)
			}
		}
	}
	tr, err := Begin(t.Context(), g, w.plan(Reprovision, "better", Carry), o)
	if err != nil {
		t.Fatal(err)
	}
	if err := tr.Run(t.Context()); !errors.Is(err, ErrReturned) || !errors.Is(err, full) || !looked {
		t.Errorf("Run = %v, went back: %v; want %v and why", err, looked, ErrReturned)
	}
	if after, err := os.Stat(filepath.Join(g.Dir, "guest.json")); err != nil || !os.SameFile(before, after) {
		t.Errorf("the description was written again: %v", err)
	}
}

// TestPrepare: all but the switch is done while the guest runs; going on begins with its stop.
func TestPrepare(t *testing.T) {
	w, g := lockedWorld(t)
	tr, err := Begin(t.Context(), g, w.plan(Reprovision, "better", Empty), w.options())
	if err == nil {
		err = tr.Prepare(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	if p, last, err := Pending(g); err != nil || last != prepared || p.To != w.masters["better"] {
		t.Errorf("Pending = %+v, %q, %v; want the plan, prepared", p, last, err)
	}
	if runs, err := w.runner().Runs(); err != nil || !runs {
		t.Errorf("the guest runs: %v, %v; want it undisturbed", runs, err)
	}
	if _, err := Begin(t.Context(), g, w.plan(Upgrade, "better", Keep), w.options()); err == nil ||
		!strings.Contains(err.Error(), "rempart resume") {
		t.Errorf("Begin meanwhile = %v; want what to do", err)
	}
	g.Unlock()
	if err := w.finish(false); err != nil {
		t.Fatal(err)
	}
	if got, want := w.fate(t), `better with "", runs on better`; got != want {
		t.Errorf("the guest is %s; want %s", got, want)
	}
}

// TestStartedMeanwhile: a guest that was started after a change had been prepared runs again when that is taken back.
func TestStartedMeanwhile(t *testing.T) {
	w, g := preparedOff(t, "sick")
	if _, last, err := Pending(g); err != nil || !Untouched(last) {
		t.Errorf("Pending = %q, %v; want a guest that is untouched", last, err)
	}
	g.Unlock()
	if err := w.runner().Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := w.finish(false); !errors.Is(err, ErrReturned) {
		t.Fatalf("going on = %v; want %v", err, ErrReturned)
	}
	if got, want := w.fate(t), `well with "old state", runs on well`; got != want {
		t.Errorf("the guest is %s; want %s", got, want)
	}
}

// TestStoppedMeanwhile: so does one whose change is broken off once it has been stopped for it.
func TestStoppedMeanwhile(t *testing.T) {
	w, g := preparedOff(t, "better")
	if err := w.runner().Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	o := w.options()
	o.Trace = func(point string) {
		if point == "done "+stopped {
			cancel()
		}
	}
	tr, err := Load(g, o)
	if err != nil {
		t.Fatal(err)
	}
	if err := tr.Run(ctx); !errors.Is(err, ErrPending) {
		t.Fatalf("Run, broken off = %v; want %v", err, ErrPending)
	}
	g.Unlock()
	if err := w.finish(true); !errors.Is(err, ErrReturned) {
		t.Fatalf("taking it back = %v; want %v", err, ErrReturned)
	}
	if got, want := w.fate(t), `well with "old state", runs on well`; got != want {
		t.Errorf("the guest is %s; want %s", got, want)
	}
}

// TestInterrupted: what is broken off is pending, and nothing is decided.
func TestInterrupted(t *testing.T) {
	w, g := lockedWorld(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	o := w.options()
	o.Trace = func(point string) {
		if point == "recorded "+examined {
			cancel(errors.New("Ctrl-C"))
		}
	}
	tr, err := Begin(t.Context(), g, w.plan(Reprovision, "better", Empty), o)
	if err != nil {
		t.Fatal(err)
	}
	if err := tr.Run(ctx); !errors.Is(err, ErrPending) || !strings.Contains(err.Error(), "Ctrl-C") {
		t.Errorf("Run = %v; want %v", err, ErrPending)
	}
	g.Unlock()
	if err := w.finish(true); !errors.Is(err, ErrReturned) {
		t.Errorf("taking it back = %v; want %v", err, ErrReturned)
	}
	if got, want := w.fate(t), `well with "old state", runs on well`; got != want {
		t.Errorf("the guest is %s; want %s", got, want)
	}
}

// lockedWorld is a world whose guest is locked; the test unlocks it.
// preparedOff is a world with a guest that is locked and off, and that a change to a master is prepared for.
func preparedOff(t *testing.T, to string) (*world, *home.Guest) {
	t.Helper()
	w, g := lockedWorld(t)
	if err := w.runner().Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	tr, err := Begin(t.Context(), g, w.plan(Reprovision, to, Empty), w.options())
	if err == nil {
		err = tr.Prepare(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	return w, g
}

func lockedWorld(t *testing.T) (*world, *home.Guest) {
	t.Helper()
	w, err := newWorld(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	g, err := w.home.Lock("fw", "a test")
	if err != nil {
		t.Fatal(err)
	}
	return w, g
}
