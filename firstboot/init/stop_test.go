package pid1

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestRequests(t *testing.T) {
	for request, want := range map[string]int{
		`{"verb":"poweroff"}`: syscall.LINUX_REBOOT_CMD_POWER_OFF,
		`{"verb":"reboot"}`:   syscall.LINUX_REBOOT_CMD_RESTART,
	} {
		t.Run(request, func(t *testing.T) {
			g := startGuest(t, "", oneLink())
			if err := os.WriteFile(filepath.Join(g.root, "host"), []byte(request), 0o600); err != nil {
				t.Fatal(err)
			}
			select {
			case got := <-g.ended:
				if got != want {
					t.Errorf("reboot(%#x); want %#x", got, want)
				}
			case <-time.After(time.Minute):
				t.Fatal("the guest does not end")
			}
			for _, s := range g.sup.States() {
				if s.PID != 0 {
					t.Errorf("%s still runs as %d", s.Name, s.PID)
				}
			}
		})
	}
}

func TestSignals(t *testing.T) {
	for command, want := range map[string]ending{"poweroff": powerOff, "reboot": restart, "halt": halt} {
		sig, ok := SignalFor(command)
		if !ok {
			t.Fatalf("SignalFor(%s) is unknown", command)
		}
		signals := make(chan os.Signal, 1)
		signals <- sig
		if got := (&guest{}).waitForStop(signals); got != want {
			t.Errorf("%s ends in %+v; want %+v", command, got, want)
		}
	}
	if _, ok := SignalFor("init"); ok {
		t.Error("SignalFor(init) is known")
	}
}

// gate is a console that takes a line whenever it is let.
type gate struct {
	let  chan struct{}
	took []string
}

func (g *gate) Write(b []byte) (int, error) {
	<-g.let
	g.took = append(g.took, string(b))
	return len(b), nil
}

// TestDrain: the end waits until the console has taken all that was said, and not for one that takes nothing.
func TestDrain(t *testing.T) {
	g := &gate{let: make(chan struct{})}
	c := newConsole(g)
	for _, line := range []string{"one", "two", "three"} {
		c.say(line)
	}
	c.drain(time.Millisecond) // it takes nothing
	close(g.let)
	c.drain(time.Hour)
	if len(g.took) != 3 || !strings.Contains(g.took[2], "three") {
		t.Errorf("when drain returns the console has taken %q; want one, two, three", g.took)
	}
}

// tally is a console that counts lines.
type tally struct{ lines int }

func (t *tally) Write(b []byte) (int, error) {
	t.lines++
	return len(b), nil
}

// TestDrainOvertakesNothing: a wait that begins when the console has just run out of lines is for the next line too.
// The moment is short: it takes so many to meet it, and the race detector to meet it each time.
func TestDrainOvertakesNothing(t *testing.T) {
	w := &tally{}
	c := newConsole(w)
	for i := range 200_000 {
		c.say("word")
		c.drain(time.Hour)
		if w.lines != i+1 {
			t.Fatalf("when drain returns the console has taken %d lines; want %d", w.lines, i+1)
		}
	}
}
