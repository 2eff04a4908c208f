// Package session is the child that starts shells for administrators who are in already. Whoever let them in connects
// to its socket, says what terminal the person has, and is handed the master of a new pseudo-terminal: bytes and the
// size of the window then go there directly. What comes back by the socket is how the shell ended.
//
// A shell is a process of this child, and so has what this child has: a user id of its own, no capability, the paths
// below and no others, and a control group whose bounds all shells share. It sees what everybody in the guest may see:
// the root, its own processes, what is mounted. It may write to /tmp and to its own directory, both in memory. All that
// needs rights goes by the guest's own commands, which are the admin child's to carry out.
//
// What it deliberately does not do: let anybody in, or run anything but the shell.
package session

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"rempart/firstboot/child"
	"rempart/firstboot/contract"
	"rempart/firstboot/door"
)

// Spec is the child.
func Spec() child.Spec {
	d := &daemon{}
	return child.Spec{
		Name: "shell",
		Run:  d.run,
		Needed: func(root string) bool {
			p, _, err := child.ReadProfile(root)
			return err == nil && p.Admin.Shell
		},
		Follows:     true,
		AfterReady:  true,
		UID:         contract.UIDShell,
		Own:         []string{contract.ShellDir},
		Read:        []string{"/"}, // of which its user id sees what everybody may
		Write:       []string{"/tmp", "/dev/ptmx", "/dev/pts", "/dev/tty", "/dev/null"},
		Exec:        []string{contract.ShellPath},
		Places:      places,
		OOMScore:    700,
		MemoryLimit: 24 << 20,
	}
}

// places are a folder of its own on each data disk that may be written to, and all of those that may be run.
func places(root string) (write, exec []string) {
	p, _, err := child.ReadProfile(root)
	if err != nil {
		return nil, nil
	}
	for i := range p.Disks {
		d := &p.Disks[i]
		if !d.ReadOnly {
			write = append(write, filepath.Join(root, d.Mount, contract.DataShell))
		}
		if d.Exec {
			exec = append(exec, filepath.Join(root, d.Mount))
		}
	}
	return write, exec
}

// Bounds of sessions.
const (
	maxSessions = 4
	maxTerm     = 64 // bytes of the name of a terminal
	greeting    = 5 * time.Second
)

// clients are who may ask for a shell: the SSH server, the console, and root.
var clients = []uint32{contract.UIDRoot, contract.UIDSSH, contract.UIDConsole}

// daemon is what outlives a change of the profile: shells go on, since the one who changes it may sit at one of them.
type daemon struct {
	stop  context.CancelFunc // ends what is served; nil: nothing is
	ended chan struct{}
}

// run serves by the profile of env, and leaves what it serves as it is when that changes. When the process ends PID 1
// ends with it whatever it started.
func (d *daemon) run(ctx context.Context, env *child.Env) error {
	switch {
	case !env.Profile.Admin.Shell:
		d.close()
	case d.stop == nil:
		if err := d.open(env); err != nil {
			return err
		}
	}
	env.Ready()
	<-ctx.Done()
	return nil
}

// close ends all shells, and starts no more.
func (d *daemon) close() {
	if d.stop != nil {
		d.stop()
		<-d.ended
		d.stop = nil
	}
}

// open starts shells for who asks from now on.
func (d *daemon) open(env *child.Env) error {
	path := filepath.Join(env.Root, contract.ShellSocket)
	s := &server{program: filepath.Join(env.Root, contract.ShellPath), home: filepath.Join(env.Root, contract.ShellDir),
		log: env.Log, allowed: clients}
	l, err := s.door().Listen(path)
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(context.Background()) // of the process, not of this profile
	d.stop, d.ended = stop, make(chan struct{})
	go func() {
		defer close(d.ended)
		s.serve(ctx, l) // which only ends when it is told to
	}()
	return nil
}

// server starts shells.
type server struct {
	program string
	args    []string // before the shell's own, in tests
	env     []string // besides the usual, in tests
	home    string
	log     *slog.Logger
	allowed []uint32
}

// door is the socket, and who may come in.
func (s *server) door() door.Door {
	return door.Door{Name: "shell socket", Allowed: s.allowed, Most: maxSessions, Log: s.log}
}

func (s *server) serve(ctx context.Context, l door.Listener) {
	s.door().Serve(ctx, l, func(ctx context.Context, conn *net.UnixConn, _ uint32) {
		if err := s.session(ctx, conn); err != nil {
			s.log.Warn("shell", "error", err)
		}
	})
}

// session is one shell, for as long as it runs and the client is there.
func (s *server) session(ctx context.Context, conn *net.UnixConn) error {
	if err := conn.SetReadDeadline(time.Now().Add(greeting)); err != nil {
		return err
	}
	kind, err := bufio.NewReader(io.LimitReader(conn, maxTerm+1)).ReadString('\n')
	if kind = strings.TrimSuffix(kind, "\n"); err != nil || !plainTerm(kind) {
		return errors.New("whoever asks for a shell says nothing of a terminal")
	}
	master, slave, err := openTerminal()
	if err != nil {
		return err
	}
	defer master.Close()
	defer slave.Close()
	cmd := exec.Command(s.program, s.args...)
	cmd.Dir = s.home
	cmd.Env = append([]string{"PATH=/usr/bin:/usr/sbin", "HOME=" + s.home, "TMPDIR=/tmp", "TERM=" + kind, "GOMAXPROCS=2"},
		s.env...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 0}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting a shell: %w", err)
	}
	slave.Close()
	s.log.Info("shell", "pid", cmd.Process.Pid)
	defer s.log.Info("shell has ended", "pid", cmd.Process.Pid)
	_, _, err = conn.WriteMsgUnix([]byte{handed}, unix.UnixRights(int(master.Fd())), nil)
	master.Close() // the client's is the last: when it closes, the terminal hangs up
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		_ = conn.SetReadDeadline(time.Time{})
		_, _ = conn.Read(make([]byte, 1)) // nothing more is said: this is the client's end
	}()
	ended := make(chan struct{})
	var killer sync.WaitGroup
	killer.Go(func() {
		select {
		case <-ended:
			return
		case <-gone:
		case <-ctx.Done():
		}
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGHUP)
		select {
		case <-ended:
		case <-time.After(hangUp):
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		}
	})
	_ = cmd.Wait()                                      // how it ended says ProcessState
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // what it left in the background
	close(ended)
	killer.Wait()
	status := cmd.ProcessState.ExitCode()
	if status < 0 || status > 255 {
		status = 1
	}
	if err == nil {
		_, err = conn.Write([]byte{byte(status)})
	}
	if errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET) {
		err = nil // nobody waits any more
	}
	return err
}

// handed is the byte that a terminal comes with.
const handed = 't'

// hangUp is how long a shell may take to end after its terminal has hung up.
const hangUp = 2 * time.Second

// plainTerm tells whether a text is the name of a terminal and nothing a program would stumble over.
func plainTerm(s string) bool {
	return s != "" && len(s) <= maxTerm &&
		strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-+._") == ""
}

// openTerminal opens a pseudo-terminal (pts(4)).
func openTerminal() (master, slave *os.File, err error) {
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("pseudo-terminal: %w", err)
	}
	master = os.NewFile(uintptr(fd), "/dev/ptmx")
	err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	var n uint32
	if err == nil {
		n, err = unix.IoctlGetUint32(fd, unix.TIOCGPTN)
	}
	if err == nil {
		slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("pseudo-terminal: %w", err), master.Close())
	}
	return master, slave, nil
}
