package main

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"rempart/builder/guest/progress"
	"rempart/builder/guest/reprovision"
)

// TestWatch: a command at work is told of while it lasts, by two at once, and how it ended afterwards; one that was
// killed with what there is to do.
func TestWatch(t *testing.T) {
	makeForeign(t)
	if code, out, errs := rempart("watch", "web"); code != exitDone || !strings.Contains(out, "nothing is at work") {
		t.Errorf("watch of one that nothing was done to = %d, %q, %q; want that said", code, out, errs)
	}
	if code, _, errs := rempart("watch", "nosuch"); code != exitFailed || !strings.Contains(errs, "no guest") {
		t.Errorf("watch of no guest = %d, %q; want it refused", code, errs)
	}
	g, err := lockUnchanged("web", "rempart upgrade")
	if err != nil {
		t.Fatal(err)
	}
	defer g.Unlock()
	began, end := make(chan struct{}), make(chan struct{})
	ended := make(chan error, 1)
	go func() {
		ended <- atWork(&console{out: io.Discard, err: io.Discard}, g, "rempart upgrade", func(c *console) error {
			io.WriteString(c.err, "rempart: stopping web\n")
			close(began)
			<-end
			io.WriteString(c.out, "a \x1b[31mred word\n")
			return errors.New("it was not READY\x07")
		})
	}()
	<-began
	if _, out, _ := rempart("status", "web"); !strings.Contains(out, "rempart upgrade, process") ||
		!strings.Contains(out, "rempart watch web") {
		t.Errorf("status meanwhile = %q; want what is at work, and how to watch it", out)
	}
	type result struct {
		code      int
		out, errs string
	}
	results := make(chan result, 2)
	for range 2 {
		saw := &awaited{text: "stopping web", seen: make(chan struct{})}
		go func() {
			var errs bytes.Buffer
			code := run(t.Context(), &console{in: strings.NewReader(""), out: saw, err: &errs}, []string{"watch", "web"})
			results <- result{code, saw.all.String(), errs.String()}
		}()
		<-saw.seen
	}
	close(end)
	if err := <-ended; err == nil || !strings.Contains(err.Error(), "not READY") {
		t.Errorf("atWork = %v; want the error of what it did", err)
	}
	later := result{}
	later.code, later.out, later.errs = rempart("watch", "web")
	for _, r := range []result{<-results, <-results, later} {
		if r.code != exitFailed || !strings.Contains(r.out, "a ?[31mred word\n") || strings.Contains(r.out, "rempart: ") ||
			!strings.Contains(r.errs, "it was not READY?\n") {
			t.Errorf("watch = %d, %q, %q; want all lines, printable, and the status and error of the command", r.code, r.out,
				r.errs)
		}
	}
	if strings.Contains(later.out, "is at work") || !strings.Contains(later.out, "was at work") {
		t.Errorf("watch afterwards = %q; want it told as over", later.out)
	}
	if _, out, _ := rempart("status", "web"); strings.Contains(out, "AT WORK") {
		t.Errorf("status afterwards = %q; want nothing at work", out)
	}
	if err := atWork(&console{out: io.Discard, err: io.Discard}, g, "rempart upgrade", func(*console) error {
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if code, out, errs := rempart("watch", "web"); code != exitDone || !strings.Contains(out, "  done\n") {
		t.Errorf("watch of one that ended well = %d, %q, %q; want 0, and so said", code, out, errs)
	}
}

// awaited is a writer that tells when a text has been written.
type awaited struct {
	text string
	all  bytes.Buffer
	seen chan struct{}
}

func (a *awaited) Write(b []byte) (int, error) {
	before := strings.Contains(a.all.String(), a.text)
	a.all.Write(b)
	if !before && strings.Contains(a.all.String(), a.text) {
		close(a.seen)
	}
	return len(b), nil
}

// TestWatchDied: what is to be done is told of a process that was killed, as of its words only what is there: a change
// that waits is to be finished, all else to be called again.
func TestWatchDied(t *testing.T) {
	makeForeign(t)
	g, err := lockUnchanged("web", "a test")
	if err != nil {
		t.Fatal(err)
	}
	defer g.Unlock()
	// As a power cut leaves it: the words of one that got no further.
	words := `{"work":{"command":"rempart reprovision","pid":4711,"began":"2026-01-02T03:04:05Z"}}` + "\n" +
		`{"at":"2026-01-02T03:04:06Z","said":"rempart: stopping web"}` + "\n" + `{"at":"2026-01-02T03:0`
	if err := os.WriteFile(filepath.Join(g.Dir, progress.File), []byte(words), 0o600); err != nil {
		t.Fatal(err)
	}
	code, out, errs := rempart("watch", "web")
	if code != exitFailed || !strings.Contains(out, "stopping web") || !strings.Contains(errs, "process 4711") ||
		!strings.Contains(errs, "call it again") {
		t.Errorf("watch = %d, %q, %q; want what was said, whose process is gone, and what to do", code, out, errs)
	}
	var said bytes.Buffer
	o, err := transactionOptions(&console{err: &said}, g, time.Minute, signingKey{})
	if err == nil {
		_, err = reprovision.Begin(t.Context(), g, reprovision.Plan{Kind: reprovision.Reprovision, To: g.Master,
			State: reprovision.Empty, Size: g.State}, o)
	}
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"rempart resume web", "rempart rollback web", "last step: begun"}
	code, _, errs = rempart("watch", "web")
	for _, w := range append(want, "process 4711") {
		if code != exitFailed || !strings.Contains(errs, w) {
			t.Errorf("watch with a change that waits = %d, %q; want %q in it", code, errs, w)
		}
	}
	if err := os.Remove(filepath.Join(g.Dir, progress.File)); err != nil { // as an older rempart left it
		t.Fatal(err)
	}
	code, _, errs = rempart("watch", "web")
	for _, w := range want {
		if code != exitFailed || !strings.Contains(errs, w) {
			t.Errorf("watch without any words = %d, %q; want %q in it", code, errs, w)
		}
	}
}

// TestAtWorkWithoutRoom: that nothing can be written down stops nothing.
func TestAtWorkWithoutRoom(t *testing.T) {
	makeForeign(t)
	g, err := lockUnchanged("web", "a test")
	if err != nil {
		t.Fatal(err)
	}
	defer g.Unlock()
	if err := os.Mkdir(filepath.Join(g.Dir, progress.File), 0o700); err != nil { // which no file takes the place of
		t.Fatal(err)
	}
	var errs bytes.Buffer
	done := false
	if err := atWork(&console{out: io.Discard, err: &errs}, g, "rempart resume", func(*console) error {
		done = true
		return nil
	}); err != nil || !done || !strings.Contains(errs.String(), "will not tell of this") {
		t.Errorf("atWork = %v, done %t, %q; want it done, and a warning", err, done, errs.String())
	}
}
