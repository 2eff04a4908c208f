package main

import (
	"bytes"
	"context"
	"strings"
	"testing"

	"rempart/builder/guest/reprovision"
)

// cancelling is a writer that ends a context once a text has been written.
type cancelling struct {
	text string
	all  bytes.Buffer
	end  context.CancelFunc
}

func (c *cancelling) Write(b []byte) (int, error) {
	c.all.Write(b)
	if strings.Contains(c.all.String(), c.text) {
		c.end()
	}
	return len(b), nil
}

// TestInterruptedChange: who presses Ctrl-C in the middle of a change is told how far it is and what there is to do; so
// is who looks later. What waits can be looked at by --dry-run, which changes nothing, and be taken back.
func TestInterruptedChange(t *testing.T) {
	makeForeign(t)
	ctx, end := context.WithCancel(t.Context())
	errs := &cancelling{text: "checking every byte", end: end}
	var out bytes.Buffer
	code := run(ctx, &console{in: strings.NewReader(""), out: &out, err: errs},
		[]string{"reprovision", "web", "--no-start"})
	todo := []string{"rempart resume web", "rempart rollback web"}
	for _, w := range append(todo, "rempart reprovision: interrupted: ") {
		if code != exitFailed || !strings.Contains(errs.all.String(), w) {
			t.Errorf("reprovision, interrupted = %d, %q; want 1, and %q in it", code, errs.all.String(), w)
		}
	}
	_, watched, watchErrs := rempart("watch", "web")
	_, told, _ := rempart("status", "web")
	for _, w := range todo {
		if !strings.Contains(watchErrs, w) || !strings.Contains(told, w) {
			t.Errorf("watch = %q, %q, status = %q; want %q in both", watched, watchErrs, told, w)
		}
	}

	code, plan, _ := rempart("rollback", "web", "--dry-run")
	if code != exitDone || !strings.Contains(plan, "nothing was changed") || !strings.Contains(plan, "reprovision 0001") {
		t.Errorf("rollback --dry-run = %d, %q; want it told what would be taken back", code, plan)
	}
	g, err := openCreated("web")
	if err != nil {
		t.Fatal(err)
	}
	if p, _, err := reprovision.Pending(g); err != nil || p.ID != "0001" {
		t.Errorf("after rollback --dry-run Pending = %v, %v; want what was under way before", p, err)
	}
	if code, out, errs := rempart("rollback", "web"); code != exitDone || !strings.Contains(out, "as it was before") {
		t.Errorf("rollback = %d, %q, %q; want it taken back", code, out, errs)
	}
	if err := notPending(g); err != nil {
		t.Errorf("after rollback: %v; want nothing under way", err)
	}
}

// TestRollbackWithoutStart: a guest that ran before a change stays off when that is taken back, where it is asked to.
func TestRollbackWithoutStart(t *testing.T) {
	makeForeign(t)
	g, err := lockUnchanged("web", "a test")
	if err != nil {
		t.Fatal(err)
	}
	o, err := transactionOptions(&console{err: &bytes.Buffer{}}, g, 0, signingKey{})
	if err != nil {
		t.Fatal(err)
	}
	o.Runner = alleged{o.Runner}
	if _, err := reprovision.Begin(t.Context(), g, reprovision.Plan{Kind: reprovision.Reprovision, To: g.Master,
		State: reprovision.Empty, Size: g.State}, o); err != nil {
		t.Fatal(err)
	}
	g.Unlock()
	code, out, errs := rempart("rollback", "web", "--no-start")
	if code != exitDone || strings.Contains(errs, "starting") {
		t.Errorf("rollback --no-start = %d, %q, %q; want it taken back, and the guest left off", code, out, errs)
	}
	if _, err := g.Running(); err == nil {
		t.Error("after rollback --no-start the guest runs")
	}
}

// alleged is of a guest that is said to run.
type alleged struct{ reprovision.Runner }

func (alleged) Runs() (bool, error) { return true, nil }

// TestStartable: a guest that a change is prepared for may be started, as after its host was; one in the middle of a
// change may not.
func TestStartable(t *testing.T) {
	makeForeign(t)
	if code, _, errs := rempart("prepare", "web", "--no-start"); code != exitDone {
		t.Fatalf("prepare = %d, %q", code, errs)
	}
	g, err := lockCreated("web", "a test")
	if err != nil {
		t.Fatal(err)
	}
	defer g.Unlock()
	if err := startable(g); err != nil {
		t.Errorf("prepared: startable = %v; want nil", err)
	}
	o, err := transactionOptions(&console{err: &bytes.Buffer{}}, g, 0, signingKey{})
	if err != nil {
		t.Fatal(err)
	}
	tr, err := reprovision.Load(g, o)
	if err != nil {
		t.Fatal(err)
	}
	if err := tr.Return(context.Canceled); err != nil {
		t.Fatal(err)
	}
	if err := startable(g); err == nil || !strings.Contains(err.Error(), "rempart resume web") {
		t.Errorf("on its way back: startable = %v; want what there is to do", err)
	}
}
