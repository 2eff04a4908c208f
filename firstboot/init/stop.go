package pid1

import (
	"context"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"rempart/firstboot/child"
)

// Bounds of the stop. A host that asked for it waits for tens of seconds before it pulls the plug.
const (
	stopChildren = 15 * time.Second
	stopOthers   = 100 * time.Millisecond // orphans hold nothing that needs longer
	lastWords    = 500 * time.Millisecond // of a child, from its pipe
	lastLines    = 2 * time.Second        // on the console: what is queued takes as long at 115200 baud
)

// ending is how a guest ends.
type ending struct {
	word string
	cmd  int // of reboot(2)
}

var (
	powerOff = ending{"power off", unix.LINUX_REBOOT_CMD_POWER_OFF}
	restart  = ending{"restart", unix.LINUX_REBOOT_CMD_RESTART}
	halt     = ending{"halt", unix.LINUX_REBOOT_CMD_HALT}
)

// SignalFor returns the signal that asks PID 1 for an ending by the name of the command that sends it; the signals are
// those of busybox init: SIGUSR2 power off, SIGTERM restart, SIGUSR1 halt.
func SignalFor(command string) (syscall.Signal, bool) {
	switch command {
	case "poweroff", "shutdown":
		return syscall.SIGUSR2, true
	case "reboot":
		return syscall.SIGTERM, true
	case "halt":
		return syscall.SIGUSR1, true
	}
	return 0, false
}

// waitForStop serves requests until one, or a signal, ends the guest.
func (g *guest) waitForStop(signals <-chan os.Signal) ending {
	for {
		select {
		case sig := <-signals:
			switch sig {
			case syscall.SIGUSR2, syscall.SIGPWR:
				return powerOff
			case syscall.SIGUSR1:
				return halt
			case syscall.SIGTERM, syscall.SIGINT:
				return restart
			}
		case r := <-g.requests:
			var end *ending
			g.warn("request", func() error { end = g.serve(r); return nil })
			if end != nil {
				return *end
			}
		}
	}
}

// killable are the signals the host may send to a child.
var killable = []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT,
	syscall.SIGABRT, syscall.SIGSEGV, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGSTOP, syscall.SIGCONT}

// serve carries one request out; it returns how to end the guest when that was asked for.
func (g *guest) serve(r child.Request) *ending {
	switch r.Verb {
	case "poweroff":
		return &powerOff
	case "reboot":
		return &restart
	case "kill":
		sig := syscall.Signal(r.Signal)
		if !slices.Contains(killable, sig) || g.sup == nil {
			g.log.Warn("request refused", "verb", r.Verb, "signal", r.Signal)
			return nil
		}
		if err := g.sup.Signal(r.Child, sig); err != nil {
			g.log.Warn("request refused", "error", err)
			return nil
		}
		g.log.Info("child was sent a signal, as the host asked", "child", r.Child, "signal", unix.SignalName(sig))
	case "confinement":
		g.sayConfinement()
	default:
		g.log.Warn("request refused", "verb", oneLine(r.Verb))
	}
	return nil
}

// stop ends everything in order and the machine with it. The policy stays in the kernel to the end.
func (g *guest) stop(end ending) {
	g.log.Info("stopping: " + end.word)
	g.fact(func(f *facts) { f.stopping = true })
	ctx, cancel := context.WithTimeout(context.Background(), stopChildren)
	defer cancel()
	if g.sup != nil {
		g.warn("stop", func() error {
			g.log.Info("children stopped", "in_order", strings.Join(g.sup.Stop(ctx), " "))
			return nil
		})
	}
	if g.Root == "/" && os.Getpid() == 1 {
		_ = unix.Kill(-1, syscall.SIGTERM)
		time.Sleep(stopOthers)
		_ = unix.Kill(-1, syscall.SIGKILL)
	}
	g.warn("data disks", func() error { g.leaveDisks(); return nil })
	g.warn("state", func() error { g.leaveState(); return nil })
	unix.Sync()
	g.log.Info(end.word)
	g.console.drain(lastLines)
	for {
		if err := g.System.Reboot(end.cmd); err == nil {
			return
		}
		g.log.Error("the machine does not end; switch it off")
		time.Sleep(time.Minute)
	}
}
