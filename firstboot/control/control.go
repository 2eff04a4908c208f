// Package control is the guest's end of the hypervisor's channels, two virtio-serial ports. By the first it sends the
// report as one line of JSON each time it changes and when the host connects, and takes a few requests as lines. The
// second it joins with the admin child, which carries out commands; see package ctl. It also listens for the power
// button, which is the same thing said by ACPI. Under Xen xenstore stands for the first; see package xenstore.
//
// The host is trusted, yet its lines are bounded and parsed strictly. What it deliberately does not do: act. It asks
// PID 1, or passes on to the admin child.
package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"rempart/firstboot/child"
	"rempart/firstboot/contract"
	"rempart/firstboot/power"
)

// Spec is the child.
func Spec() child.Spec {
	return child.Spec{
		Name:        "control",
		Run:         run,
		UID:         contract.UIDControl,
		Read:        []string{"/sys", "/dev"}, // to find the port and the buttons; opening them takes their ownership
		Devices:     devices,
		Feed:        true,
		OOMScore:    200,
		MemoryLimit: 8 << 20,
	}
}

// devices are the ports for reports and for commands, Xen's store, and what may be a power button.
func devices(root string) []string {
	nodes, _ := filepath.Glob(filepath.Join(root, "dev/input/event*"))
	for _, name := range []string{contract.ControlPort, contract.CommandPort} {
		if port, ok := findPort(root, name); ok {
			nodes = append(nodes, port)
		}
	}
	if store, ok := xenstoreDevice(root); ok {
		nodes = append(nodes, store)
	}
	return nodes
}

// findPort returns the device node of the virtio-serial port of that name
// (Documentation/ABI/testing/sysfs-class-virtio-ports).
func findPort(root, name string) (string, bool) {
	names, _ := filepath.Glob(filepath.Join(root, "sys/class/virtio-ports/*/name"))
	for _, file := range names {
		if b, err := os.ReadFile(file); err == nil && strings.TrimSpace(string(b)) == name {
			return filepath.Join(root, "dev", filepath.Base(filepath.Dir(file))), true
		}
	}
	return "", false
}

func run(ctx context.Context, env *child.Env) error {
	buttons := power.Buttons(filepath.Join(env.Root, "dev"))
	go watchButtons(ctx, env, buttons)
	go keepCommandPort(ctx, env)
	path, ok := findPort(env.Root, contract.ControlPort)
	if store, there := xenstoreDevice(env.Root); !ok && there {
		return serveXenstore(ctx, env, store)
	}
	if !ok {
		env.Log.Info("the hypervisor offers no control channel", "port", contract.ControlPort)
		env.Ready()
		return drain(ctx, env)
	}
	// Not blocking: a host that does not read must not hold us up.
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOCTTY, 0)
	if err != nil {
		return fmt.Errorf("control port %s: %w", path, err)
	}
	defer unix.Close(fd)
	env.Ready()
	p := &port{fd: fd, tell: env.Tell, log: env.Log}
	return p.serve(ctx, env.Reports)
}

// drain takes reports nobody asks for, until the child is to end.
func drain(ctx context.Context, env *child.Env) error {
	for {
		select {
		case _, ok := <-env.Reports:
			if !ok {
				return nil
			}
		case <-ctx.Done():
			return nil
		}
	}
}

func watchButtons(ctx context.Context, env *child.Env, buttons []*os.File) {
	for len(buttons) > 0 && ctx.Err() == nil {
		pressed, err := power.Pressed(buttons, -1)
		if err != nil {
			env.Log.Warn("the power button is not watched any more", "error", err)
			return
		}
		if pressed {
			env.Log.Info("power button")
			env.Tell(child.KeyRequest, child.Request{Verb: "poweroff"})
		}
	}
}

// Waits of the port.
const (
	tick = 50 * time.Millisecond  // how soon a new report or a command is seen
	away = 250 * time.Millisecond // the port says by POLLHUP at once that no host is connected: look again this often
	// maxPending bounds what waits for a host that does not read; beyond, older reports are of no use to anybody.
	maxPending = 4 * child.MaxReport
)

// port is the open control port.
type port struct {
	fd        int
	tell      func(key string, value any)
	log       *slog.Logger
	connected bool
	last      []byte // the newest report, with its newline
	pending   []byte // bytes on their way to the host; whole lines, the first perhaps begun
	input     []byte // the beginning of a command
	overlong  bool   // the rest of an overlong line is being skipped
}

// serve runs until ctx is done or reports end.
func (p *port) serve(ctx context.Context, reports <-chan contract.Report) error {
	for {
		wait := tick
		if !p.connected {
			wait = away
		}
		select {
		case r, ok := <-reports:
			if !ok {
				return nil
			}
			if err := p.keep(r); err != nil {
				return err
			}
		case <-ctx.Done():
			p.flush()
			return nil
		case <-time.After(wait):
		}
		if err := p.turn(); err != nil {
			return err
		}
	}
}

// keep makes a report the newest.
func (p *port) keep(r contract.Report) error {
	b, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("report: %w", err)
	}
	p.last = append(b, '\n')
	if p.connected {
		p.send()
	}
	return nil
}

func (p *port) send() {
	if p.last != nil && len(p.pending)+len(p.last) <= maxPending {
		p.pending = append(p.pending, p.last...)
	}
}

// turn looks at the port once: is the host there, has it said something, does it take what waits.
func (p *port) turn() error {
	fds := []unix.PollFd{{Fd: int32(p.fd), Events: unix.POLLIN | unix.POLLOUT}}
	if _, err := unix.Poll(fds, 0); err != nil {
		if errors.Is(err, unix.EINTR) {
			return nil
		}
		return os.NewSyscallError("poll", err)
	}
	events := fds[0].Revents
	if events&(unix.POLLERR|unix.POLLNVAL) != 0 {
		return errors.New("the control port is gone")
	}
	if events&unix.POLLHUP != 0 {
		p.connected, p.pending, p.input, p.overlong = false, nil, nil, false
		return nil
	}
	if !p.connected {
		p.connected = true
		p.send()
	}
	if events&unix.POLLIN != 0 {
		p.receive()
	}
	if events&unix.POLLOUT != 0 {
		p.flush()
	}
	return nil
}

// flush writes what the port takes now.
func (p *port) flush() {
	for len(p.pending) > 0 {
		n, err := unix.Write(p.fd, p.pending)
		if n <= 0 || err != nil {
			return
		}
		p.pending = p.pending[n:]
	}
}

// receive reads what is there and carries out every whole line.
func (p *port) receive() {
	var b [4096]byte
	n, err := unix.Read(p.fd, b[:])
	if err != nil || n <= 0 {
		return
	}
	for rest := b[:n]; len(rest) > 0; {
		line, after, ended := bytes.Cut(rest, []byte{'\n'})
		rest = after
		if len(p.input)+len(line) > MaxCommand {
			p.input, p.overlong = nil, true
			line = nil
		}
		if !p.overlong {
			p.input = append(p.input, line...)
		}
		if !ended {
			return
		}
		if p.overlong {
			p.log.Warn("command refused: too long", "most", MaxCommand)
		} else if len(p.input) > 0 {
			p.command(string(p.input))
		}
		p.input, p.overlong = nil, false
	}
}

func (p *port) command(line string) {
	r, err := ParseCommand(line)
	switch {
	case err != nil:
		p.log.Warn("command refused", "error", err)
	case r.Verb == verbStatus:
		p.send()
	default:
		p.tell(child.KeyRequest, r)
	}
}
