package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"rempart/test/xen/order"
)

// awaitFile waits for a device node, which the kernel makes when its driver is done.
func awaitFile(name string) error {
	for end := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		_, err := os.Stat(name)
		if !errors.Is(err, fs.ErrNotExist) || time.Now().After(end) {
			return err
		}
	}
}

// children are the processes that somebody waits for; others, which daemons leave behind, are reaped.
var children = struct {
	sync.Mutex
	ended map[int]chan unix.WaitStatus
}{ended: map[int]chan unix.WaitStatus{}}

// start runs a program to its end and returns what it said.
func start(cmd *exec.Cmd) ([]byte, error) {
	out := &limited{}
	cmd.Stdout, cmd.Stderr = out, out
	status, err := wait(cmd, &task{})
	if err == nil && status != 0 {
		err = fmt.Errorf("exit status %d", status)
	}
	return out.Bytes(), err
}

// wait runs a program to its end. It is not exec.Cmd's Wait, for that would have to fight for the process with reap.
// Output goes through files: a daemon that keeps a pipe open would keep a reader of it for ever.
// How it ends early is up to t.
func wait(cmd *exec.Cmd, t *task) (status int, err error) {
	sinks := map[*limited]*os.File{}
	file := func(w any) (*os.File, error) {
		l, ok := w.(*limited)
		if !ok {
			return nil, nil
		}
		if sinks[l] == nil {
			f, err := os.CreateTemp("/run", "said")
			if err != nil {
				return nil, err
			}
			os.Remove(f.Name())
			sinks[l] = f
		}
		return sinks[l], nil
	}
	stdout, err := file(cmd.Stdout)
	if err != nil {
		return 0, err
	}
	stderr, err := file(cmd.Stderr)
	if err != nil {
		return 0, err
	}
	cmd.Stdout, cmd.Stderr = stdout, stderr
	if in, ok := cmd.Stdin.(*bytes.Reader); ok {
		f, err := os.CreateTemp("/run", "asked")
		if err != nil {
			return 0, err
		}
		defer f.Close()
		os.Remove(f.Name())
		if _, err := in.WriteTo(f); err != nil {
			return 0, err
		}
		if _, err := f.Seek(0, 0); err != nil {
			return 0, err
		}
		cmd.Stdin = f
	}
	defer func() {
		for l, f := range sinks {
			if _, seekErr := f.Seek(0, 0); seekErr == nil {
				_, _ = l.ReadFrom(f)
			}
			f.Close()
		}
	}()
	children.Lock()
	if err := cmd.Start(); err != nil {
		children.Unlock()
		return 0, err
	}
	ended := make(chan unix.WaitStatus, 1)
	children.ended[cmd.Process.Pid] = ended
	children.Unlock()
	t.began(cmd.Process.Pid)
	ws := <-ended
	t.over()
	if ws.Exited() {
		return ws.ExitStatus(), nil
	}
	return -1, nil
}

// reap waits for every process that ends.
func reap() {
	for {
		var ws unix.WaitStatus
		pid, err := unix.Wait4(-1, &ws, 0, nil)
		if err != nil { // ECHILD: there is none now
			time.Sleep(10 * time.Millisecond)
			continue
		}
		children.Lock()
		if ended := children.ended[pid]; ended != nil {
			ended <- ws
			delete(children.ended, pid)
		}
		children.Unlock()
	}
}

// task is a program that may be ended before it has begun, while it runs, and after it is over.
type task struct {
	mu       sync.Mutex
	pid      int // 0: it does not run
	canceled bool
}

func (t *task) began(pid int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.pid = pid; t.canceled {
		t.kill()
	}
}

func (t *task) over() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.pid = 0
}

func (t *task) cancel() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.canceled = true
	t.kill()
}

// kill ends the program and what it started; the lock is held.
func (t *task) kill() {
	if t.pid != 0 {
		_ = unix.Kill(-t.pid, unix.SIGKILL) // fails only when all have ended
	}
}

// limited keeps the first order.MaxOutput bytes.
type limited struct{ bytes.Buffer }

func (l *limited) ReadFrom(f *os.File) (int64, error) {
	b := make([]byte, order.MaxOutput)
	n, err := f.Read(b)
	l.Write(b[:max(n, 0)])
	return int64(n), err
}

// serve carries out orders until the port is gone.
func serve() error {
	port, err := openPort()
	if err != nil {
		return err
	}
	s := &server{port: port, running: map[int]*task{}}
	s.answer(order.Answer{})
	lines := bufio.NewScanner(port)
	lines.Buffer(nil, order.MaxLine)
	for lines.Scan() {
		var o order.Order
		if err := json.Unmarshal(lines.Bytes(), &o); err != nil {
			return fmt.Errorf("order: %w", err)
		}
		if o.Cancel != 0 {
			s.cancel(o.Cancel)
			continue
		}
		// Known before the next order is read, which may be the one to cancel it.
		t := &task{}
		s.mu.Lock()
		s.running[o.ID] = t
		s.mu.Unlock()
		go s.carryOut(o, t)
	}
	return lines.Err()
}

func openPort() (*os.File, error) {
	names, err := filepath.Glob("/sys/class/virtio-ports/*/name")
	if err != nil {
		return nil, err
	}
	for _, file := range names {
		if b, err := os.ReadFile(file); err == nil && strings.TrimSpace(string(b)) == order.Port {
			return os.OpenFile(filepath.Join("/dev", filepath.Base(filepath.Dir(file))), os.O_RDWR, 0)
		}
	}
	return nil, fmt.Errorf("there is no virtio-serial port %s", order.Port)
}

type server struct {
	port    *os.File
	mu      sync.Mutex // held for each write, and for running
	running map[int]*task
}

func (s *server) answer(a order.Answer) {
	line, err := json.Marshal(a)
	if err != nil {
		line = []byte(`{"error":"the answer could not be written"}`)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := s.port.Write(append(line, '\n')); err != nil {
		fmt.Println("dom0: answering:", err)
	}
}

func (s *server) carryOut(o order.Order, t *task) {
	a := order.Answer{ID: o.ID}
	var err error
	switch {
	case o.Put != "":
		name := filepath.Join(root, o.Put)
		if err = os.MkdirAll(filepath.Dir(name), 0o755); err == nil {
			err = os.WriteFile(name, o.Data, os.FileMode(o.Mode))
		}
	case len(o.Run) > 0:
		a, err = run(o, t)
	}
	s.mu.Lock()
	delete(s.running, o.ID)
	s.mu.Unlock()
	if err != nil {
		a.Error = err.Error()
	}
	s.answer(a)
}

func run(o order.Order, t *task) (order.Answer, error) {
	// A shell finds the program by PATH in dom0's root, which a process outside cannot.
	args := append([]string{"/bin/sh", "-c", `exec "$@"`, "sh"}, o.Run...)
	cmd := command(args)
	out, errs := &limited{}, &limited{}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(o.Stdin), out, errs
	status, err := wait(cmd, t)
	return order.Answer{ID: o.ID, Status: status, Stdout: out.Bytes(), Stderr: errs.Bytes()}, err
}

func (s *server) cancel(id int) {
	s.mu.Lock()
	t := s.running[id]
	s.mu.Unlock()
	if t != nil {
		t.cancel()
	}
}
