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
	"syscall"
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
	status, err := wait(cmd)
	if err == nil && status != 0 {
		err = fmt.Errorf("exit status %d", status)
	}
	return out.Bytes(), err
}

// wait runs a program to its end. It is not exec.Cmd's Wait, for that would have to fight for the process with reap.
// Output goes through files: a daemon that keeps a pipe open would keep a reader of it for ever.
func wait(cmd *exec.Cmd) (status int, err error) {
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
	ws := <-ended
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
	s := &server{port: port, running: map[int]*exec.Cmd{}}
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
		go s.carryOut(o)
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
	running map[int]*exec.Cmd
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

func (s *server) carryOut(o order.Order) {
	a := order.Answer{ID: o.ID}
	var err error
	switch {
	case o.Put != "":
		name := filepath.Join(root, o.Put)
		if err = os.MkdirAll(filepath.Dir(name), 0o755); err == nil {
			err = os.WriteFile(name, o.Data, os.FileMode(o.Mode))
		}
	case len(o.Run) > 0:
		a, err = s.run(o)
	}
	if err != nil {
		a.Error = err.Error()
	}
	s.answer(a)
}

func (s *server) run(o order.Order) (order.Answer, error) {
	// A shell finds the program by PATH in dom0's root, which a process outside cannot.
	args := append([]string{"/bin/sh", "-c", `exec "$@"`, "sh"}, o.Run...)
	cmd := command(args)
	out, errs := &limited{}, &limited{}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(o.Stdin), out, errs
	s.mu.Lock()
	s.running[o.ID] = cmd
	s.mu.Unlock()
	status, err := wait(cmd)
	s.mu.Lock()
	delete(s.running, o.ID)
	s.mu.Unlock()
	return order.Answer{ID: o.ID, Status: status, Stdout: out.Bytes(), Stderr: errs.Bytes()}, err
}

func (s *server) cancel(id int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if cmd := s.running[id]; cmd != nil && cmd.Process != nil {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // fails only when it has ended
	}
}
