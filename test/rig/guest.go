package rig

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"rempart/builder/hypervisor/qemu"
	"rempart/firstboot/contract"
)

func (g *Guest) readReports() {
	// A guest that writes nonsense falls silent here, and whoever waits for a report says what it last heard.
	_ = qemu.ReadReports(g.control, func(r contract.Report) {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.last, g.heard = r, true
		g.wake()
	})
}

func (g *Guest) readConsole() {
	buf := make([]byte, 4096)
	for {
		n, err := g.Guest.Console.Read(buf)
		g.mu.Lock()
		g.console.Write(buf[:n])
		g.wake()
		g.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// wake tells all who wait; the mutex is held.
func (g *Guest) wake() {
	close(g.changed)
	g.changed = make(chan struct{})
}

// ConsoleText is all the guest has written on its console.
func (g *Guest) ConsoleText() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.console.String()
}

// Report is the last report; false when there was none.
func (g *Guest) Report() (contract.Report, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.last, g.heard
}

// await waits until ok, called whenever something changed, says so. It returns why it gave up.
func (g *Guest) await(what string, ok func() bool) error {
	deadline := time.NewTimer(g.patience)
	defer deadline.Stop()
	for {
		g.mu.Lock()
		done, changed := ok(), g.changed
		g.mu.Unlock()
		if done {
			return nil
		}
		select {
		case <-changed:
		case <-g.Guest.Done():
			// What it said last may still be on its way here: a guest that was READY and then ended was READY.
			<-g.silent
			g.mu.Lock()
			done := ok()
			g.mu.Unlock()
			if done {
				return nil
			}
			return fmt.Errorf("waiting for %s: the guest ended: %+v", what, g.Guest.Wait())
		case <-deadline.C:
			r, heard := g.Report()
			return fmt.Errorf("waiting for %s: not within %v; last report (%v): %+v", what, g.patience, heard, r)
		}
	}
}

// Await waits for a report that ok accepts.
func (g *Guest) Await(what string, ok func(contract.Report) bool) contract.Report {
	g.tb.Helper()
	if err := g.await(what, func() bool { return g.heard && ok(g.last) }); err != nil {
		g.fail(err)
	}
	r, _ := g.Report()
	return r
}

// AwaitReady waits until the guest says that everything its profile declares works.
func (g *Guest) AwaitReady() contract.Report {
	g.tb.Helper()
	return g.Await(contract.ReadyPrefix, func(r contract.Report) bool { return r.Ready })
}

// TryReady is AwaitReady for those who want to know whether a guest gets there.
func (g *Guest) TryReady() (contract.Report, error) {
	err := g.await(contract.ReadyPrefix, func() bool { return g.heard && g.last.Ready })
	r, _ := g.Report()
	return r, err
}

// AwaitConsole waits until the console has text.
func (g *Guest) AwaitConsole(text string) {
	g.tb.Helper()
	if err := g.await(fmt.Sprintf("%q on the console", text), func() bool {
		return strings.Contains(g.console.String(), text)
	}); err != nil {
		g.fail(err)
	}
}

// AwaitEnd waits until QEMU has gone.
func (g *Guest) AwaitEnd() qemu.End {
	g.tb.Helper()
	select {
	case <-g.Guest.Done():
		return g.Guest.Wait()
	case <-time.After(Patience):
		g.fail(fmt.Errorf("waiting for the guest's end: not within %v", Patience))
		return qemu.End{}
	}
}

// Order sends the guest a line on its control channel.
func (g *Guest) Order(line string) {
	g.tb.Helper()
	if _, err := fmt.Fprintln(g.control, line); err != nil {
		g.fail(fmt.Errorf("control channel: %w", err))
	}
}

// PowerOff presses the power button and waits for the orderly end.
func (g *Guest) PowerOff() {
	g.tb.Helper()
	if end := g.Guest.Stop(context.Background(), Patience); end.Cause != qemu.PoweredOff {
		g.fail(fmt.Errorf("after the power button the guest ended by %+v; want %q", end, qemu.PoweredOff))
	}
}

// Cut ends QEMU as a power failure ends a machine: at once, nothing in it gets another instruction.
func (g *Guest) Cut() {
	g.tb.Helper()
	if err := syscall.Kill(g.PID(), syscall.SIGKILL); err != nil {
		g.fail(fmt.Errorf("cutting the power: %w", err))
	}
	g.AwaitEnd()
}

// fail ends the test with the end of the console.
func (g *Guest) fail(err error) {
	g.tb.Helper()
	const lines = 60
	all := strings.Split(g.ConsoleText(), "\n")
	g.tb.Fatalf("%v\nthe console's last lines:\n%s", err, strings.Join(all[max(0, len(all)-lines):], "\n"))
}

// Artifacts makes the folder where what a failed test leaves outlives it: below $REMPART_ARTIFACTS, else in /tmp.
func Artifacts(tb testing.TB) (string, error) {
	dir := os.Getenv("REMPART_ARTIFACTS")
	if dir == "" {
		dir = filepath.Join(os.TempDir(), "rempart-artifacts")
	}
	dir = filepath.Join(dir, strings.NewReplacer("/", "-", " ", "_").Replace(tb.Name()))
	return dir, os.MkdirAll(dir, 0o700)
}

// keep stores the console of a failed test.
func (g *Guest) keep(from string) {
	dir, err := Artifacts(g.tb)
	if err == nil {
		dir = filepath.Join(dir, filepath.Base(from))
		err = os.MkdirAll(dir, 0o700)
	}
	if err != nil {
		g.tb.Log(err)
		return
	}
	name := filepath.Join(dir, "console.log")
	if err := os.WriteFile(name, []byte(g.ConsoleText()), 0o600); err != nil {
		g.tb.Log(err)
		return
	}
	g.tb.Logf("the console is kept in %s", name)
}
