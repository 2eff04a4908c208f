// Package host is a real Xen host in software: Xen and a dom0 made of Debian packages, in a QEMU without hardware
// virtualisation. Tests have programs run in dom0, `xl` foremost, and so have guests of Xen.
//
// QEMU emulates AMD's SVM with nested paging, which is why PVH and HVM guests run. Two such hosts at once on two cores
// are too many: a package starts one.
//
// What it deliberately does not do: decide what is right. Tests do.
package host

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"

	"rempart/test/xen/order"
)

// Host is a running Xen host.
type Host struct {
	Dir string // of its files; removed by Close

	cmd     *exec.Cmd
	console *os.File
	conn    net.Conn
	gone    chan struct{} // closed when QEMU has ended
	there   chan struct{} // closed when dom0 takes orders

	mu      sync.Mutex
	last    int
	waiting map[int]chan order.Answer
	lost    error
}

// Disk is a disk of dom0, in the order given /dev/vdb and so on.
type Disk struct {
	Path     string // raw
	ReadOnly bool
}

// MAC is that of dom0's one NIC, which has no cable: there is a NIC with a driver to be named.
const MAC = "52:54:00:0a:0b:0c"

// memory of the host and of dom0: the rest is for guests.
const (
	hostMemory = "2048M"
	dom0Memory = "640M"
)

// BootPatience is how long Xen and dom0 may take to take orders. It bounds waiting for failures.
const BootPatience = 10 * time.Minute

// Start builds a host and boots it with disks; it returns once dom0 takes orders.
func Start(ctx context.Context, disks []Disk) (_ *Host, err error) {
	dir, err := os.MkdirTemp("", "rempart-xen-")
	if err != nil {
		return nil, err
	}
	h := &Host{Dir: dir, gone: make(chan struct{}), there: make(chan struct{}), waiting: map[int]chan order.Answer{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, h.Close())
		}
	}()
	made, err := build(ctx, dir)
	if err != nil {
		return nil, err
	}
	if err := h.boot(made, disks); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, BootPatience)
	defer cancel()
	select {
	case <-h.there:
		return h, nil
	case <-h.gone:
		return nil, fmt.Errorf("the Xen host ended before it took orders:\n%s", h.Console())
	case <-ctx.Done():
		return nil, fmt.Errorf("the Xen host takes no orders: %w\n%s", context.Cause(ctx), h.Console())
	}
}

// boot starts QEMU and connects with dom0.
func (h *Host) boot(made image, disks []Disk) error {
	socket := filepath.Join(h.Dir, "orders")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	defer listener.Close()
	if h.console, err = os.Create(filepath.Join(h.Dir, "console")); err != nil {
		return err
	}
	args := []string{"-accel", "tcg,thread=multi", "-cpu", "qemu64,+svm,+npt", "-m", hostMemory, "-smp", "2",
		"-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio", "-kernel", made.xen,
		"-append", "console=com1 com1=115200,8n1 dom0_mem=" + dom0Memory + ",max:" + dom0Memory + " dom0_max_vcpus=2",
		"-initrd", made.kernel + " console=hvc0 quiet," + made.initrd,
		"-chardev", "socket,id=orders,path=" + socket, "-device", "virtio-serial-pci",
		"-device", "virtserialport,chardev=orders,name=" + order.Port}
	args = append(args, "-device", "virtio-net-pci,romfile=,mac="+MAC)
	for i, d := range append([]Disk{{made.root, true}}, disks...) {
		mode := "off"
		if d.ReadOnly {
			mode = "on"
		}
		args = append(args, "-drive", fmt.Sprintf("if=none,id=disk%d,format=raw,file=%s,readonly=%s", i, d.Path, mode),
			"-device", fmt.Sprintf("virtio-blk-pci,drive=disk%d", i))
	}
	h.cmd = exec.Command("qemu-system-x86_64", args...)
	h.cmd.Stdout, h.cmd.Stderr = h.console, h.console
	h.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	started := make(chan error)
	go func() {
		// The kernel sends Pdeathsig when the thread that started the process ends (prctl(2)).
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := h.cmd.Start()
		started <- err
		if err == nil {
			_ = h.cmd.Wait() // whoever waits for an answer is told what the console said
		}
		close(h.gone)
	}()
	if err := <-started; err != nil {
		return err
	}
	if err := listener.(*net.UnixListener).SetDeadline(time.Now().Add(BootPatience)); err != nil {
		return err
	}
	if h.conn, err = listener.Accept(); err != nil {
		return fmt.Errorf("QEMU does not connect: %w\n%s", err, h.Console())
	}
	go h.listen()
	return nil
}

// listen hands answers to those who wait for them.
func (h *Host) listen() {
	lines := bufio.NewScanner(h.conn)
	lines.Buffer(nil, order.MaxLine)
	for lines.Scan() {
		var a order.Answer
		if json.Unmarshal(lines.Bytes(), &a) != nil {
			continue
		}
		if a.ID == 0 {
			close(h.there)
			continue
		}
		h.mu.Lock()
		if c := h.waiting[a.ID]; c != nil {
			c <- a
			delete(h.waiting, a.ID)
		}
		h.mu.Unlock()
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lost = errors.New("dom0 answers no more")
	for id, c := range h.waiting {
		close(c)
		delete(h.waiting, id)
	}
}

// carryOut sends an order and waits for its answer.
func (h *Host) carryOut(ctx context.Context, o order.Order) (order.Answer, error) {
	answer := make(chan order.Answer, 1)
	h.mu.Lock()
	if h.lost != nil {
		h.mu.Unlock()
		return order.Answer{}, h.lost
	}
	h.last++
	o.ID = h.last
	h.waiting[o.ID] = answer
	err := h.send(o)
	h.mu.Unlock()
	if err != nil {
		return order.Answer{}, err
	}
	canceled := ctx.Done()
	for {
		select {
		case a, ok := <-answer:
			switch {
			case !ok:
				return a, fmt.Errorf("%q: dom0 answers no more:\n%s", o.Run, h.Console())
			case ctx.Err() != nil:
				return a, fmt.Errorf("%q: %w; until then it said:\n%s%s", o.Run, context.Cause(ctx), a.Stdout, a.Stderr)
			case a.Error != "":
				return a, fmt.Errorf("%q: %s", o.Run, a.Error)
			}
			return a, nil
		case <-canceled:
			canceled = nil
			h.mu.Lock()
			err := h.send(order.Order{Cancel: o.ID})
			h.mu.Unlock()
			if err != nil {
				return order.Answer{}, err
			}
		}
	}
}

// send writes one line; the mutex is held.
func (h *Host) send(o order.Order) error {
	line, err := json.Marshal(o)
	if err == nil {
		_, err = h.conn.Write(append(line, '\n'))
	}
	return err
}

// Run runs a program in dom0 and returns what it said on standard output. One that fails is an error with what it said
// on standard error.
func (h *Host) Run(ctx context.Context, stdin []byte, args ...string) ([]byte, error) {
	a, err := h.carryOut(ctx, order.Order{Run: args, Stdin: stdin})
	if err != nil {
		return a.Stdout, err
	}
	if a.Status != 0 {
		return a.Stdout, fmt.Errorf("%q: exit status %d: %s", args, a.Status, bytes.TrimSpace(append(a.Stderr, a.Stdout...)))
	}
	return a.Stdout, nil
}

// Put writes a file of dom0.
func (h *Host) Put(ctx context.Context, name string, mode os.FileMode, content []byte) error {
	_, err := h.carryOut(ctx, order.Order{Put: name, Mode: uint32(mode), Data: content})
	return err
}

// Console is what Xen and dom0's kernel have said, the end of it.
func (h *Host) Console() string {
	const most = 8 << 10
	b, err := os.ReadFile(filepath.Join(h.Dir, "console"))
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-most):])
}

// Close ends the host, at once, and removes its files.
func (h *Host) Close() error {
	if h.cmd != nil && h.cmd.Process != nil {
		_ = h.cmd.Process.Kill() // fails only when it has ended
		<-h.gone
	}
	if h.conn != nil {
		h.conn.Close()
	}
	if h.console != nil {
		h.console.Close()
	}
	return os.RemoveAll(h.Dir)
}
