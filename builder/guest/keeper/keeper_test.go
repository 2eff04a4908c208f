package keeper

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"rempart/builder/hypervisor/qemu"
	"rempart/firstboot/contract"
)

// patience bounds waiting for failures.
const patience = 30 * time.Second

// tame is a guest that does what a test says.
type tame struct {
	ready  chan error
	done   chan struct{}
	once   sync.Once
	report contract.Report
}

func (g *tame) AwaitReady(context.Context) error {
	select {
	case err := <-g.ready:
		return err
	case <-g.done:
		return errors.New("it ended before")
	}
}

func (g *tame) Report() contract.Report { return g.report }
func (g *tame) Done() <-chan struct{}   { return g.done }
func (g *tame) PID() int                { return 7 }
func (g *tame) Stop(context.Context, time.Duration) qemu.End {
	g.once.Do(func() { close(g.done) })
	return qemu.End{Cause: qemu.PoweredOff}
}

// keep serves a guest at a socket until the test ends.
func keep(t *testing.T) (g *tame, screen *Screen, typed net.Conn, socket string) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "k")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	g = &tame{ready: make(chan error, 1), done: make(chan struct{})}
	screen = &Screen{}
	ours, theirs := net.Pipe()
	k := New(context.Background(), g, theirs, screen, "tcg")
	served := make(chan struct{})
	go func() {
		k.Serve(listener)
		close(served)
	}()
	t.Cleanup(func() {
		g.Stop(context.Background(), 0)
		ours.Close()
		select {
		case <-served:
		case <-time.After(patience):
			t.Error("the keeper goes on after its guest")
		}
	})
	return g, screen, ours, socket
}

func ask(t *testing.T, socket, do string) Answer {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	a, err := Ask(ctx, socket, Request{Do: do})
	if err != nil {
		t.Fatalf("%s: %v", do, err)
	}
	return a
}

func TestLife(t *testing.T) {
	g, _, _, socket := keep(t)
	if a := ask(t, socket, DoStatus); a.Phase != Starting || a.PID != 7 || a.Accel != "tcg" || a.Since.IsZero() {
		t.Errorf("status at first = %+v; want it to start, process 7, tcg", a)
	}
	ctx, cancel := context.WithCancel(t.Context())
	left := make(chan error, 1)
	go func() {
		_, err := Ask(ctx, socket, Request{Do: DoReady})
		left <- err
	}()
	cancel() // waiting may be given up
	if err := <-left; !errors.Is(err, context.Canceled) {
		t.Errorf("waiting that was given up = %v; want %v", err, context.Canceled)
	}
	g.ready <- nil
	if a := ask(t, socket, DoReady); a.Phase != Ready {
		t.Errorf("after ready: %+v", a)
	}
	if a := ask(t, socket, DoStop); a.Phase != Ended || a.Why != "" {
		t.Errorf("after stop: %+v; want ended", a)
	}
}

// TestLargeReport: a guest that says as much as it may, in what JSON writes longest, can be asked for and stopped.
func TestLargeReport(t *testing.T) {
	g, _, _, socket := keep(t)
	g.report = contract.Report{Settled: true, Failures: []string{strings.Repeat("<", 256<<10)}} // before anybody asks
	g.ready <- errors.New(g.report.Failures[0])
	if a := ask(t, socket, DoReady); a.Phase != Failed || len(a.Report.Failures) != 1 ||
		len(a.Report.Failures[0]) != 256<<10 {
		t.Errorf("it is %s, with %d failures; want it failed, with the long one", a.Phase, len(a.Report.Failures))
	}
	ask(t, socket, DoStop)
}

func TestFailed(t *testing.T) {
	g, _, _, socket := keep(t)
	g.ready <- errors.New("the policy cannot be loaded")
	if a := ask(t, socket, DoReady); a.Phase != Failed || a.Why != "the policy cannot be loaded" {
		t.Errorf("ready of one that failed = %+v", a)
	}
}

func TestConsole(t *testing.T) {
	_, screen, typed, socket := keep(t)
	screen.Write([]byte("before\n"))
	console, err := Attach(t.Context(), socket)
	if err != nil {
		t.Fatal(err)
	}
	defer console.Close()
	expect := func(want string) {
		t.Helper()
		got := make([]byte, len(want))
		if _, err := io.ReadFull(console, got); err != nil || string(got) != want {
			t.Errorf("the console says %q, %v; want %q", got, err, want)
		}
	}
	expect("before\n")
	screen.Write([]byte("after\n"))
	expect("after\n")
	go console.Write([]byte("ls\n"))
	got := make([]byte, 3)
	if _, err := io.ReadFull(typed, got); err != nil || string(got) != "ls\n" {
		t.Errorf("the guest read %q, %v; want ls", got, err)
	}
	ask(t, socket, DoStop)
	if rest, err := io.ReadAll(console); err != nil || len(rest) != 0 {
		t.Errorf("after the end the console has %q, %v; want its end", rest, err)
	}
}

// TestStoppedViewers: viewers that read no more, as a terminal does that was stopped, keep neither their seats nor the
// keeper from its end.
func TestStoppedViewers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &tame{ready: make(chan error, 1), done: make(chan struct{})}
		screen := &Screen{}
		k := New(t.Context(), g, io.Discard, screen, "tcg")
		calls := &calls{make(chan net.Conn), make(chan struct{})}
		served := make(chan struct{})
		go func() {
			k.Serve(calls)
			close(served)
		}()
		for range maxCallers + 1 { // one more than there are seats
			ours, theirs := net.Pipe()
			defer ours.Close()
			calls.conns <- theirs
			go func() {
				if _, err := ours.Write([]byte(`{"do":"console"}` + "\n")); err == nil {
					_, _ = bufio.NewReader(ours).ReadString('\n') // the answer, and nothing after it
				}
			}()
		}
		synctest.Wait()
		screen.Write([]byte("words"))
		g.ready <- nil
		g.Stop(t.Context(), 0)
		select {
		case <-served:
		case <-time.After(patience):
			t.Error("the keeper goes on after its guest")
		}
	})
}

// calls is a listener whose callers come by a channel.
type calls struct {
	conns chan net.Conn
	gone  chan struct{}
}

func (c *calls) Accept() (net.Conn, error) {
	select {
	case conn := <-c.conns:
		return conn, nil
	case <-c.gone:
		return nil, net.ErrClosed
	}
}

func (c *calls) Close() error   { close(c.gone); return nil }
func (c *calls) Addr() net.Addr { return nil }

func TestRefused(t *testing.T) {
	_, _, _, socket := keep(t)
	for _, line := range []string{"x\n", `{"do":"format"}` + "\n", strings.Repeat("x", 2*maxRequest)} {
		conn, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		conn.SetDeadline(time.Now().Add(patience))
		go conn.Write([]byte(line)) // the whole of the last is never read
		b := make([]byte, 10)
		if _, err := io.ReadFull(conn, b); err != nil || !bytes.HasPrefix(b, []byte(`{"error":`)) {
			t.Errorf("the answer to %.30q begins with %q, %v; want an error", line, b, err)
		}
		conn.Close()
	}
}

// TestScreenIsBounded: neither a talkative guest nor a viewer who sleeps costs more than is allowed.
func TestScreenIsBounded(t *testing.T) {
	s := &Screen{}
	asleep, _ := s.Watch()
	for range 2 * maxBehind {
		s.Write(bytes.Repeat([]byte("x"), 1024))
	}
	pieces := 0
	for range asleep {
		pieces++
	}
	if pieces != maxBehind {
		t.Errorf("a viewer who slept has %d pieces; want %d, and then the end", pieces, maxBehind)
	}
	late, leave := s.Watch()
	if first := <-late; len(first) != maxScroll {
		t.Errorf("who comes late sees %d bytes; want %d", len(first), maxScroll)
	}
	leave()
	leave()
	s.Close()
	if _, ok := <-late; ok {
		t.Error("the end is not the end")
	}
}
