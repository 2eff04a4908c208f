package xen

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"rempart/firstboot/contract"
	"rempart/firstboot/contract/xenstore"
)

// errTool is what a tool of Xen fails with.
var errTool = errors.New("exit status 1")

// fake stands for the tools of a host on which one guest runs.
type fake struct {
	id     int               // of the guest; -1: it does not run
	mute   bool              // xl can say nothing about guests
	nodes  map[string]string // of xenstore, by their full path
	calls  int
	before func(calls int) // something that happens before a call
	watch  func(context.Context) error
}

func (f *fake) run(ctx context.Context, args ...string) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if f.before != nil {
		f.before(f.calls)
	}
	f.calls++
	value, there := "", true
	for _, path := range args[1:] {
		if strings.HasPrefix(path, "/") {
			one, found := f.nodes[path]
			value, there = value+one+"\n", there && found
		}
	}
	switch {
	case args[0] == "xl" && args[1] == "list" && !f.mute:
		list := fmt.Sprintf(`[{"domid": 0}, {"domid": %d, "config": {"c_info": {"name": "fw-1"}}}]`, f.id)
		if f.id < 0 {
			list = `[{"domid": 0}]`
		}
		return []byte(list), nil
	case args[0] == "xl" && f.id >= 0 && !f.mute:
		return []byte(strconv.Itoa(f.id) + "\n"), nil
	case args[0] == "xenstore-exists" && there:
		return nil, nil
	case args[0] == "xenstore-read" && there:
		return []byte(value), nil
	case args[0] == "xenstore-watch":
		return nil, f.watch(ctx)
	}
	return nil, errTool
}

// left are the nodes of a guest that left a status and a report in pieces.
func left(id int, status string, pieces ...string) map[string]string {
	top := xenstore.DomainPath(id) + "/"
	nodes := map[string]string{top + xenstore.StatusPath: status}
	for i, p := range pieces {
		nodes[top+xenstore.ReportPath+"/"+strconv.Itoa(i)] = p
	}
	sum := sha256.Sum256([]byte(strings.Join(pieces, "")))
	nodes[top+xenstore.ReportPath] = fmt.Sprintf("%d %x", len(pieces), sum)
	return nodes
}

// TestReportThatIsReplaced: whenever a guest replaces its report by a shorter one, one of the two is read.
func TestReportThatIsReplaced(t *testing.T) {
	for when := range 12 {
		f := &fake{id: 3, nodes: left(3, "STARTING", `{"name":`, `"long"`, `}`)}
		f.before = func(calls int) {
			if calls == when {
				f.nodes = left(3, "READY", `{"name":"short"}`)
			}
		}
		r, err := Toolstack{Run: f.run}.Report(t.Context(), 3)
		if err != nil || r.Name != "long" && r.Name != "short" {
			t.Errorf("replaced before call %d: Report = %q, %v; want either", when, r.Name, err)
		}
	}
}

// TestStatusThatAppears: whenever a guest comes to say something, it has said nothing yet or has said that.
func TestStatusThatAppears(t *testing.T) {
	for when := range 4 {
		f := &fake{id: 3}
		f.before = func(calls int) {
			if calls == when {
				f.nodes = left(3, "READY", `{}`)
			}
		}
		status, err := Toolstack{Run: f.run}.Status(t.Context(), 3)
		if said := err == nil && status == "READY"; !said && !errors.Is(err, xenstore.ErrAbsent) {
			t.Errorf("said before call %d: Status = %q, %v; want it, or that there is none", when, status, err)
		}
	}
}

// TestReportOfLiars: what is no report, or several, is none.
func TestReportOfLiars(t *testing.T) {
	for _, said := range []string{"", "\n", "{}\n{}", "{", "[]"} {
		f := &fake{id: 3, nodes: left(3, "READY", said)}
		if r, err := (Toolstack{Run: f.run}).Await(t.Context(), "fw-1"); err == nil {
			t.Errorf("Await of a guest that left %q = %+v; want an error", said, r)
		}
	}
}

// TestAwait: a guest is waited for while it runs, by whatever number, and no longer.
func TestAwait(t *testing.T) {
	const ready, failed = `{"name":"fw-1","ready":true}`, `{"name":"fw-1","failures":["link"]}`
	for name, c := range map[string]struct {
		then func(f *fake) // after half a minute
		want error
	}{
		"ready":            {func(f *fake) { f.nodes = left(3, contract.ReadyPrefix, ready) }, nil},
		"started again":    {func(f *fake) { f.id, f.nodes = 4, left(4, contract.ReadyPrefix, ready) }, nil},
		"gone":             {func(f *fake) { f.id, f.nodes = -1, nil }, ErrAbsent},
		"gone for seconds": {gap(ready), nil},
		"mute for seconds": {mute(2*time.Second, ready), nil},
		"mute":             {mute(time.Hour, ready), errTool},
		"failed":           {func(f *fake) { f.nodes = left(3, contract.FailedPrefix, failed) }, ErrFailed},
		"silent":           {func(*fake) {}, context.DeadlineExceeded},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := &fake{id: 3, nodes: left(3, xenstore.Starting, "{}")}
				f.watch = func(ctx context.Context) error {
					<-ctx.Done()
					return ctx.Err()
				}
				began, done := time.Now(), false
				f.before = func(int) {
					if !done && time.Since(began) > 30*time.Second {
						done = true
						c.then(f)
					}
				}
				ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
				defer cancel()
				r, err := Toolstack{Run: f.run}.Await(ctx, "fw-1")
				if !errors.Is(err, c.want) || c.want == nil && (err != nil || !r.Ready) {
					t.Errorf("Await = %+v, %v; want %v", r, err, c.want)
				}
				if c.want == ErrFailed && len(r.Failures) != 1 {
					t.Errorf("Await = %+v; want what the guest said last", r)
				}
			})
		})
	}
}

// gap is a guest that xl starts again.
func gap(report string) func(f *fake) {
	return func(f *fake) {
		f.id, f.nodes = -1, nil
		ended := time.Now()
		f.before = func(int) {
			if time.Since(ended) > 2*time.Second {
				f.id, f.nodes = 4, left(4, contract.ReadyPrefix, report)
			}
		}
	}
}

// mute is an xl that can say nothing for so long, in which the guest becomes ready.
func mute(length time.Duration, report string) func(f *fake) {
	return func(f *fake) {
		f.mute, f.nodes = true, left(3, contract.ReadyPrefix, report)
		began := time.Now()
		f.before = func(int) { f.mute = time.Since(began) <= length }
	}
}

// TestIDOfDom0: what is done to guests is not done to the host.
func TestIDOfDom0(t *testing.T) {
	f := &fake{id: 0}
	if id, err := (Toolstack{Run: f.run}).ID(t.Context(), "Domain-0"); !errors.Is(err, ErrAbsent) {
		t.Errorf("ID(Domain-0) = %d, %v; want ErrAbsent", id, err)
	}
	if err := (Toolstack{Run: f.run}).Shutdown(t.Context(), "Domain-0", time.Minute); !errors.Is(err, ErrAbsent) {
		t.Errorf("Shutdown(Domain-0) = %v; want ErrAbsent", err)
	}
}

// TestIDNotKnown: a guest is absent where xl lists the others, and not where it cannot say; one that comes between the
// two questions is there.
func TestIDNotKnown(t *testing.T) {
	f := &fake{id: -1}
	if _, err := (Toolstack{Run: f.run}).ID(t.Context(), "fw-1"); !errors.Is(err, ErrAbsent) {
		t.Errorf("ID of one that is not listed = %v; want %v", err, ErrAbsent)
	}
	f.mute = true
	if _, err := (Toolstack{Run: f.run}).ID(t.Context(), "fw-1"); err == nil || errors.Is(err, ErrAbsent) {
		t.Errorf("ID where xl fails = %v; want an error that is not %v", err, ErrAbsent)
	}
	f = &fake{id: -1}
	f.before = func(calls int) {
		if calls == 1 {
			f.id = 5
		}
	}
	if id, err := (Toolstack{Run: f.run}).ID(t.Context(), "fw-1"); err != nil || id != 5 {
		t.Errorf("ID of one that has come = %d, %v; want 5", id, err)
	}
}
