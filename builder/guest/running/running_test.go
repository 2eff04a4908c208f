package running

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestLife(t *testing.T) {
	place := t.TempDir()
	if _, err := Open(place, "fw-1"); !errors.Is(err, ErrAbsent) {
		t.Errorf("Open before = %v; want %v", err, ErrAbsent)
	}
	g, err := Register(place, "fw-1")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(place, "fw-1"); !errors.Is(err, ErrAbsent) {
		t.Errorf("Open of one that is only about to run = %v; want %v", err, ErrAbsent)
	}
	if err := g.Announce(Info{PID: 7, SSH: "127.0.0.1:2222"}); err != nil {
		t.Fatal(err)
	}
	if _, err := Register(place, "fw-1"); !errors.Is(err, ErrRuns) {
		t.Errorf("a second of the name = %v; want %v", err, ErrRuns)
	}
	got, err := Open(place, "fw-1")
	if err != nil || got.Info != g.Info || got.Commands() != g.Commands() {
		t.Errorf("Open = %+v, %v; want %+v", got, err, g.Info)
	}
	if names := List(place); !slices.Equal(names, []string{"fw-1"}) {
		t.Errorf("List = %q; want fw-1", names)
	}
	if _, err := Open(place, "fw-2"); !errors.Is(err, ErrAbsent) || !strings.Contains(err.Error(), "fw-1") {
		t.Errorf("Open of another = %v; want %v and the name of the one there is", err, ErrAbsent)
	}
	if err := g.Forget(); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(place, "fw-1"); !errors.Is(err, ErrAbsent) {
		t.Errorf("Open after = %v; want %v", err, ErrAbsent)
	}
}

// TestStale: what a killed process left is no guest, and in nobody's way.
func TestStale(t *testing.T) {
	place := t.TempDir()
	g, err := Register(place, "fw-1")
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Announce(Info{PID: 1}); err != nil {
		t.Fatal(err)
	}
	g.lock.Close() // as the kernel does when the process ends
	g.machine.Close()
	for _, name := range []string{g.Commands(), g.Console()} {
		if err := os.WriteFile(name, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Open(place, "fw-1"); !errors.Is(err, ErrAbsent) || len(List(place)) != 0 {
		t.Errorf("Open of what was left = %v, and List has %q; want %v and none", err, List(place), ErrAbsent)
	}
	again, err := Register(place, "fw-1")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(again.Commands()); err == nil {
		t.Error("the socket of the one that was killed is still there: QEMU could not listen")
	}
	if err := again.Forget(); err != nil {
		t.Error(err)
	}
}

// TestHypervisorOutlives: a guest whose keeper was killed runs until its hypervisor has gone, and nobody is ended for
// having the number that the keeper had.
func TestHypervisorOutlives(t *testing.T) {
	place := t.TempDir()
	g, err := Register(place, "fw-1")
	if err != nil {
		t.Fatal(err)
	}
	hypervisor := exec.Command("cat") // which has the lock, and ends when its input does
	hypervisor.ExtraFiles = []*os.File{g.Machine()}
	in, err := hypervisor.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := hypervisor.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := hypervisor.Start(); err != nil {
		t.Fatal(err)
	}
	if err := g.Announce(Info{PID: hypervisor.Process.Pid}); err != nil { // by now another's number
		t.Fatal(err)
	}
	g.lock.Close() // as the kernel does when the process ends
	g.machine.Close()
	left, err := Open(place, "fw-1")
	if err != nil || !slices.Equal(List(place), []string{"fw-1"}) {
		t.Fatalf("Open while the hypervisor runs = %v, List %q; want the guest", err, List(place))
	}
	if _, err := Register(place, "fw-1"); !errors.Is(err, ErrRuns) {
		t.Errorf("Register while the hypervisor runs = %v; want %v", err, ErrRuns)
	}
	if err := left.Kill(); err != nil {
		t.Error(err)
	}
	line := make([]byte, 6)
	if _, err := io.WriteString(in, "alive\n"); err != nil {
		t.Errorf("after Kill the process that has the keeper's number is gone: %v", err)
	} else if _, err := io.ReadFull(out, line); err != nil || string(line) != "alive\n" {
		t.Errorf("after Kill the process that has the keeper's number said %q, %v", line, err)
	}
	in.Close()
	if err := left.AwaitEnd(t.Context()); err != nil {
		t.Error(err)
	}
	if err := hypervisor.Wait(); err != nil {
		t.Error(err)
	}
	again, err := Register(place, "fw-1")
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Forget(); err != nil {
		t.Error(err)
	}
}

// TestAskingTakesNothing: whoever looks for guests keeps none from starting, however often it looks just then.
func TestAskingTakesNothing(t *testing.T) {
	place := t.TempDir()
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				_, _ = Open(place, "fw-1")
				List(place)
			}
		}
	}()
	for range 500 {
		g, err := Register(place, "fw-1")
		if err != nil {
			t.Errorf("Register while others look = %v", err)
			break
		}
		if err := g.Forget(); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	<-stopped
}

// TestAwaitEnd: who waits for a guest's end learns of it, may give up, and is in no way of the next start.
func TestAwaitEnd(t *testing.T) {
	place := t.TempDir()
	for range 50 {
		g, err := Register(place, "fw-1")
		if err != nil {
			t.Fatalf("Register after those who waited have seen the end = %v; want the name to be free", err)
		}
		if err := g.Announce(Info{PID: 7}); err != nil {
			t.Fatal(err)
		}
		found, err := Open(place, "fw-1")
		if err != nil {
			t.Fatal(err)
		}
		given, giveUp := context.WithCancelCause(t.Context())
		giveUp(errors.New("Ctrl-C"))
		if err := found.AwaitEnd(given); err == nil || err.Error() != "Ctrl-C" {
			t.Errorf("AwaitEnd that was given up = %v; want why", err)
		}
		ends := make(chan error)
		for range 10 {
			go func() { ends <- found.AwaitEnd(t.Context()) }()
		}
		if err := g.Forget(); err != nil {
			t.Fatal(err)
		}
		if err := <-ends; err != nil { // the first; others still wait
			t.Errorf("AwaitEnd = %v", err)
		}
		next, err := Register(place, "fw-1")
		if err != nil {
			t.Fatalf("Register while others wait = %v; want the name to be free", err)
		}
		if err := next.Forget(); err != nil {
			t.Fatal(err)
		}
		for range 9 {
			if err := <-ends; err != nil {
				t.Errorf("AwaitEnd = %v", err)
			}
		}
	}
}

func TestNames(t *testing.T) {
	for _, name := range []string{"", "..", "a/b", "A", strings.Repeat("a", 64)} {
		if _, err := Register(t.TempDir(), name); err == nil {
			t.Errorf("Register(%q) = nil error; want one", name)
		}
		if _, err := Open(t.TempDir(), name); err == nil {
			t.Errorf("Open(%q) = nil error; want one", name)
		}
	}
	if _, err := Register(filepath.Join(t.TempDir(), strings.Repeat("long/", 30)), "x"); err == nil {
		t.Error("a place too deep for a socket was taken")
	}
}
