package qemu

import (
	"context"
	"encoding/json"
	"fmt"
	"time"
)

// Cause is why a guest ended.
type Cause string

// The causes.
const (
	Running    Cause = ""            // it has not ended
	PoweredOff Cause = "powered off" // the guest switched itself off
	Reset      Cause = "reset"       // the guest asked for a restart and Machine.RebootEnds is set
	Panicked   Cause = "panicked"    // the guest's kernel gave up
	Quit       Cause = "quit"        // the host ended it
	Crashed    Cause = "crashed"     // QEMU itself failed
)

// End tells how a guest ended.
type End struct {
	Cause  Cause
	Detail string // for people; may be empty
}

// Err is nil for an end that was asked for.
func (e End) Err() error {
	switch e.Cause {
	case Panicked, Crashed, Reset:
		if e.Detail != "" {
			return fmt.Errorf("the guest %s: %s", e.Cause, e.Detail)
		}
		return fmt.Errorf("the guest %s", e.Cause)
	}
	return nil
}

// shutdownReasons are those of QEMU's ShutdownCause (qapi/run-state.json) that are not the host's doing.
var shutdownReasons = map[string]Cause{
	"guest-shutdown":           PoweredOff,
	"guest-reset":              Reset,
	"guest-panic":              Panicked,
	"host-error":               Crashed,
	"host-qmp-quit":            Quit,
	"host-signal":              Quit,
	"host-ui":                  Quit,
	"host-qmp-system-reset":    Quit,
	"subsystem-reset":          Reset,
	"snapshot-load":            Quit,
	"none":                     Quit,
	"host-qmp-system-shutdown": Quit,
}

// event keeps what QEMU tells about the end.
func (g *Guest) event(e Event) {
	g.log.Debug("QEMU event", "guest", g.Machine.Name, "event", e.Name, "data", string(e.Data))
	switch e.Name {
	case "GUEST_PANICKED":
		g.end(Panicked, "the kernel reported it through pvpanic; the console shows why")
	case "GUEST_CRASHLOADED":
		g.end(Panicked, "the kernel crashed and loaded its crash kernel")
	case "SHUTDOWN":
		var data struct {
			Reason string `json:"reason"`
		}
		// Data of an unknown shape leaves the reason empty, which is an end nobody explained.
		_ = json.Unmarshal(e.Data, &data)
		cause, known := shutdownReasons[data.Reason]
		if !known {
			cause = Quit
		}
		g.end(cause, "")
	case "BLOCK_IO_ERROR":
		g.log.Error("a disk of the guest cannot be read or written", "guest", g.Machine.Name, "what", string(e.Data))
	}
}

// end notes why the guest ends. The first cause stays: a panic is followed by a shutdown.
func (g *Guest) end(cause Cause, detail string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.verdict.Cause == Running {
		g.verdict = End{Cause: cause, Detail: detail}
	}
}

// Panicked tells the guest object that its kernel panicked, as seen on the console. Machines without a pvpanic
// (microvm) have no other sign, and their kernel would spin for ever: QEMU is ended.
func (g *Guest) Panicked(line string) {
	g.end(Panicked, line)
	time.AfterFunc(panicTime, g.kill)
}

// panicTime is how long a panicked kernel may go on talking: its backtrace is what a person wants to see.
const panicTime = time.Second

func (g *Guest) kill() { _ = g.cmd.Process.Kill() } // fails only when it is gone already

// Done is closed when QEMU has gone.
func (g *Guest) Done() <-chan struct{} { return g.done }

// PID is QEMU's process id.
func (g *Guest) PID() int { return g.cmd.Process.Pid }

// Monitor is the guest's QMP connection.
func (g *Guest) Monitor() *Monitor { return g.monitor }

// Wait waits until QEMU has gone and tells why.
func (g *Guest) Wait() End {
	<-g.done
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.verdict
}

// pressEvery is how often the power button is pressed until the guest goes: a guest that is still booting misses
// what comes before it listens.
const pressEvery = 2 * time.Second

// press holds on to the power button until the guest has gone or patience ends.
func (g *Guest) press(ctx context.Context, patience time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for g.monitor.Execute(ctx, "system_powerdown", nil, nil) == nil {
		select {
		case <-g.done:
			return
		case <-time.After(pressEvery):
		case <-ctx.Done():
			g.log.Warn("the guest did not answer its power button; ending QEMU", "guest", g.Machine.Name, "waited", patience)
			return
		}
	}
}

// quitTime bounds each of the two last steps of Stop.
const quitTime = 5 * time.Second

// Stop ends the guest in order: its power button, and when it has not gone after patience QEMU's quit, and when even
// that does not help a kill. It returns how the guest ended.
func (g *Guest) Stop(ctx context.Context, patience time.Duration) End {
	if patience > 0 {
		g.press(ctx, patience)
	}
	select {
	case <-g.done:
		return g.Wait()
	default:
	}
	g.end(Quit, "")
	// Whatever ctx says, an end must be reached: the disks are flushed by quit.
	quit, cancel := context.WithTimeout(context.WithoutCancel(ctx), quitTime)
	defer cancel()
	_ = g.monitor.Execute(quit, "quit", nil, nil) // a closed monitor is what we want
	select {
	case <-g.done:
	case <-quit.Done():
		g.kill()
	}
	return g.Wait()
}
