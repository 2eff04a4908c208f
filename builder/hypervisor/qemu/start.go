package qemu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"rempart/builder/hypervisor"
	"rempart/firstboot/contract"
)

// firstFD is the number the first of exec.Cmd.ExtraFiles gets in the new process.
const firstFD = 3

// Guest is a running QEMU.
type Guest struct {
	Machine hypervisor.Machine
	// Console is the guest's serial port, nil when the machine names a path for it. The caller reads it all the
	// time; QEMU drops nothing and a full socket stalls the guest.
	Console net.Conn
	// Wires are our ends of the links of kind Wire, by index of the link; nil for other kinds.
	Wires []net.Conn

	cmd     *exec.Cmd
	monitor *Monitor
	log     *slog.Logger
	stderr  *tail

	mu      sync.Mutex
	verdict End // what is known so far of how it ends
	reports func(contract.Report)

	exited  chan struct{} // closed when the process has ended, failure holding how
	failure error
	done    chan struct{} // closed when verdict is final
}

// Options say what to start a guest with.
type Options struct {
	Binary  string // path of QEMU
	Log     *slog.Logger
	Reports func(contract.Report) // called for each report, from one goroutine; may be nil
	Held    *os.File              // QEMU has it open until it ends, and does nothing with it: a lock; nil: none
}

// Start runs m. Channels that are zero and links of kind Wire are connected by descriptors QEMU inherits. QEMU is
// killed when ctx ends, and by the kernel when this process dies.
func Start(ctx context.Context, m hypervisor.Machine, o Options) (*Guest, error) {
	g := &Guest{Machine: m, log: o.Log, reports: o.Reports, stderr: &tail{},
		exited: make(chan struct{}), done: make(chan struct{})}
	var theirs []*os.File
	var ours []net.Conn
	fail := func(err error) (*Guest, error) {
		for _, f := range theirs {
			f.Close()
		}
		for _, c := range ours {
			c.Close()
		}
		return nil, fmt.Errorf("start guest %s: %w", m.Name, err)
	}
	connect := func() (net.Conn, int, error) {
		our, their, err := socketPair()
		if err != nil {
			return nil, 0, err
		}
		theirs, ours = append(theirs, their), append(ours, our)
		return our, firstFD + len(theirs) - 1, nil
	}
	var control, monitor net.Conn
	for _, c := range []struct {
		channel *hypervisor.Channel
		conn    *net.Conn
	}{{&m.Serial, &g.Console}, {&m.Control, &control}, {&m.Monitor, &monitor}} {
		if !c.channel.IsZero() {
			continue
		}
		conn, fd, err := connect()
		if err != nil {
			return fail(err)
		}
		*c.conn, c.channel.FD = conn, fd
	}
	if monitor == nil {
		return fail(errors.New("the monitor must be an inherited descriptor"))
	}
	g.Wires = make([]net.Conn, len(m.NICs))
	m.NICs = append([]hypervisor.NIC(nil), m.NICs...)
	for i := range m.NICs {
		if m.NICs[i].Backend.Kind != hypervisor.Wire {
			continue
		}
		conn, fd, err := connect()
		if err != nil {
			return fail(err)
		}
		g.Wires[i], m.NICs[i].Backend.FD = conn, fd
	}
	args, err := Args(m)
	if err != nil {
		return fail(err)
	}
	g.cmd = exec.CommandContext(ctx, o.Binary, args...)
	g.cmd.ExtraFiles = theirs
	if o.Held != nil {
		g.cmd.ExtraFiles = append(slices.Clip(theirs), o.Held)
	}
	g.cmd.Stderr = g.stderr
	// Its own process group: a Ctrl-C at the terminal is ours to handle, in order.
	g.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	g.log.Debug("starting QEMU", "binary", o.Binary, "args", strings.Join(args, " "))
	started := make(chan error)
	go g.run(started)
	if err := <-started; err != nil {
		return fail(err)
	}
	for _, f := range theirs {
		f.Close()
	}
	g.monitor, err = NewMonitor(ctx, monitor, g.event)
	if err != nil {
		g.kill()
		<-g.exited
		for _, c := range ours {
			c.Close()
		}
		if said := g.stderr.String(); said != "" {
			err = fmt.Errorf("%s says: %s", o.Binary, said)
		}
		return nil, fmt.Errorf("start guest %s: %w", m.Name, err)
	}
	go g.conclude()
	if control != nil {
		go g.listen(control)
	}
	return g, nil
}

// run starts QEMU and waits for it on one operating system thread: the kernel sends Pdeathsig when the thread that
// started the process ends, not when the process does (prctl(2), PR_SET_PDEATHSIG).
func (g *Guest) run(started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := g.cmd.Start(); err != nil {
		close(g.exited)
		started <- err
		return
	}
	started <- nil
	g.failure = g.cmd.Wait()
	close(g.exited)
}

// conclude makes the verdict final: when the process has ended and everything it had said on its monitor is read.
func (g *Guest) conclude() {
	<-g.exited
	<-g.monitor.Done()
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.verdict.Cause != Running:
	case g.failure != nil:
		g.verdict = End{Crashed, strings.TrimSpace(g.failure.Error() + ": " + g.stderr.String())}
	default:
		g.verdict.Cause = Quit
	}
	close(g.done)
}

// listen reads what the guest reports. A guest that writes nonsense is not listened to any more.
func (g *Guest) listen(control net.Conn) {
	defer control.Close()
	err := ReadReports(control, func(r contract.Report) {
		if g.reports != nil {
			g.reports(r)
		}
	})
	if err != nil {
		select {
		case <-g.done:
		case <-time.After(closingTime): // a reset connection is how QEMU ends
			g.log.Warn("no longer listening to the guest's reports", "guest", g.Machine.Name, "why", err)
		}
	}
}

// closingTime is how long the channels of a QEMU that ends may be seen to break before it has ended.
const closingTime = 2 * time.Second

// socketPair returns our end and the end for the new process of a connected stream.
func socketPair() (net.Conn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socketpair: %w", err)
	}
	our := os.NewFile(uintptr(fds[0]), "qemu")
	conn, err := net.FileConn(our)
	our.Close()
	if err != nil {
		unix.Close(fds[1])
		return nil, nil, fmt.Errorf("socketpair: %w", err)
	}
	return conn, os.NewFile(uintptr(fds[1]), "qemu"), nil
}

// tail keeps the last of what a program writes.
type tail struct {
	mu  sync.Mutex
	buf []byte
}

// maxTail is enough for QEMU's longest complaints.
const maxTail = 4096

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p...)
	if n := len(t.buf) - maxTail; n > 0 {
		t.buf = append(t.buf[:0], t.buf[n:]...)
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(bytes.TrimSpace(t.buf))
}
