package control

import (
	"context"
	"encoding/json"
	"log/slog"
	"syscall"
	"testing"
	"time"

	"rempart/firstboot/child"
	"rempart/firstboot/contract"
	"rempart/firstboot/contract/xenstore"
	"rempart/firstboot/contract/xenstore/storetest"
)

// TestXenstore: each report is in the store, orders are carried out once, and nonsense is refused.
func TestXenstore(t *testing.T) {
	store, wire := storetest.New(t)
	ctx, cancel := context.WithCancel(t.Context())
	told := make(chan child.Request, 8)
	s := &stored{conn: xenstore.New(wire), log: slog.New(slog.DiscardHandler),
		tell: func(key string, value any) {
			if key != child.KeyRequest {
				t.Errorf("told %q", key)
			}
			told <- value.(child.Request)
		}}
	if err := s.conn.Watch(ctx, xenstore.OrderPath, "order"); err != nil {
		t.Fatal(err)
	}
	reports, done := make(chan contract.Report), make(chan error, 1)
	go func() { done <- s.serve(ctx, reports) }()
	for _, r := range []contract.Report{{Name: "a"}, {Name: "b", Settled: true}, {Name: "c", Settled: true, Ready: true}} {
		send(t, reports, r)
	}
	// One that is taken after the last report shows that the last report was published.
	store.Set(xenstore.OrderPath, "kill link KILL\n")
	want := child.Request{Verb: "kill", Child: "link", Signal: int(syscall.SIGKILL)}
	if got := await(t, told); got != want {
		t.Errorf("told %+v; want %+v", got, want)
	}
	if got, _ := store.Get(xenstore.StatusPath); got != contract.ReadyPrefix {
		t.Errorf("status = %q; want %s", got, contract.ReadyPrefix)
	}
	b, err := xenstore.LoadReport(storetest.All(func(path string) ([]byte, error) {
		value, ok := store.Get(path)
		if !ok {
			return nil, xenstore.ErrAbsent
		}
		return []byte(value), nil
	}))
	var r contract.Report
	if err != nil || json.Unmarshal(b, &r) != nil || r.Name != "c" {
		t.Errorf("the store holds %q, %v; want the report of c", b, err)
	}
	if got, _ := store.Get(xenstore.OrderPath); got != "" {
		t.Errorf("the order is still %q", got)
	}
	store.Set(xenstore.OrderPath, "halt and catch fire")
	store.Set(xenstore.OrderPath, "status")
	store.Set(xenstore.OrderPath, "poweroff")
	if got := await(t, told); got.Verb != "poweroff" {
		t.Errorf("told %+v; want poweroff alone", got)
	}
	cancel()
	if err := await(t, done); err != nil {
		t.Errorf("serve = %v", err)
	}
}

// TestXenstoreBeforeReports: a child that was started again and is asked for a report before it has one leaves the old
// one alone.
func TestXenstoreBeforeReports(t *testing.T) {
	store, wire := storetest.New(t)
	store.Set(xenstore.StatusPath, contract.ReadyPrefix)
	store.Set(xenstore.OrderPath, "status")
	s := &stored{conn: xenstore.New(wire), log: slog.New(slog.DiscardHandler)}
	if err := s.takeOrder(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, _ := store.Get(xenstore.StatusPath); got != contract.ReadyPrefix {
		t.Errorf("status = %q; want %s as before", got, contract.ReadyPrefix)
	}
	if got, _ := store.Get(xenstore.OrderPath); got != "" {
		t.Errorf("the order is still %q", got)
	}
}

func TestStatus(t *testing.T) {
	for want, r := range map[string]contract.Report{xenstore.Starting: {}, contract.FailedPrefix: {Settled: true},
		contract.ReadyPrefix: {Ready: true}} {
		if got := status(r); got != want {
			t.Errorf("status(%+v) = %q; want %q", r, got, want)
		}
	}
}

// TestXenstoreThatBreaks ends the child, which PID 1 starts again.
func TestXenstoreThatBreaks(t *testing.T) {
	_, wire := storetest.New(t)
	s := &stored{conn: xenstore.New(wire), log: slog.New(slog.DiscardHandler)}
	wire.Close()
	if err := s.serve(t.Context(), make(chan contract.Report)); err == nil {
		t.Error("serve without a store = nil; want an error")
	}
}

// patienceOfTest bounds waiting for what does not come.
const patienceOfTest = time.Minute

func send[T any](t *testing.T, c chan<- T, value T) {
	t.Helper()
	select {
	case c <- value:
	case <-time.After(patienceOfTest):
		t.Fatalf("%+v was never taken", value)
	}
}

func await[T any](t *testing.T, c <-chan T) (value T) {
	t.Helper()
	select {
	case value = <-c:
	case <-time.After(patienceOfTest):
		t.Fatal("nothing came")
	}
	return value
}
