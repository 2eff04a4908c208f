package session

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"rempart/firstboot/contract"
	"rempart/profiles"
)

// program builds the shell, with its other names beside it.
func program(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "shell")
	build := exec.Command("go", "build", "-o", path, "rempart/firstboot/shell")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	for _, name := range []string{"cat", "grep", "ls", "guest"} {
		if err := os.Symlink("shell", filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	return path
}

// serve starts the child's server and returns its socket.
func serve(t *testing.T, program string, allowed uint32) string {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "socket")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	s := &server{program: program, home: t.TempDir(), log: slog.New(slog.DiscardHandler), allowed: []uint32{allowed},
		env: []string{"PATH=" + filepath.Dir(program)}}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { s.serve(ctx, l); ended <- nil }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("serve = %v", err)
		}
	})
	return socket
}

// typist types at a shell and waits for what it shows.
type typist struct {
	t    *testing.T
	s    *Shell
	seen string
}

func (y *typist) await(text string) {
	y.t.Helper()
	b := make([]byte, 1000)
	for !strings.Contains(y.seen, text) {
		n, err := y.s.Read(b)
		if y.seen += string(b[:n]); err != nil {
			y.t.Fatalf("waiting for %q: %v in %q", text, err, y.seen)
		}
	}
	_, y.seen, _ = strings.Cut(y.seen, text)
}

func (y *typist) enter(text string) {
	y.t.Helper()
	if _, err := io.WriteString(y.s, text); err != nil {
		y.t.Fatal(err)
	}
}

// interrupt types Ctrl-C and waits for the prompt after it. The kernel ends what runs first and then throws away what
// nobody has read yet (isig in n_tty.c), which may be that prompt: who sees none presses Return, as people do.
func (y *typist) interrupt() {
	y.t.Helper()
	y.enter("\x03")
	seen, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-seen:
				return
			case <-time.After(5 * time.Second):
				_, _ = io.WriteString(y.s, "\r")
			}
		}
	}()
	defer func() { close(seen); <-ended }()
	y.await(" $ ")
}

// TestShell sits at a shell: its prompt says what the kernel says of the root, Ctrl-C ends what runs and nothing else,
// the size of the window arrives, programs are joined by pipes, and its end and status are told.
func TestShell(t *testing.T) {
	socket := serve(t, program(t), uint32(os.Getuid()))
	s, err := Open(context.Background(), socket, "xterm", 80, 24)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	y := &typist{t: t, s: s}
	root := "[" + map[bool]string{true: "read-only", false: "WRITABLE"}[readOnlyRoot(t)] + "] "
	y.await(root)
	y.await(" $ ")
	y.enter("x=1; for i in a b; do echo \"$i$x\"; done | grep -n b\r")
	y.await("2:b1\r\n")
	y.await(" $ ")
	y.enter("echo 'two\rlines'\r")
	y.await("> ")
	y.await("two\r\nlines\r\n")
	// What a command says first shows that the terminal is the command's: what is typed before is typed at the prompt,
	// where Return is another byte and Ctrl-C no signal.
	y.enter("echo ready; cat\r")
	y.await("\nready\r\n")
	y.enter("typed\r")
	y.await("typed\r\ntyped\r\n") // the terminal's echo, and cat's
	y.interrupt()
	y.enter("echo on\r")
	y.await("\non\r\n")
	y.enter("echo ready; while true; do true; done\r")
	y.await("\nready\r\n")
	y.interrupt()
	y.enter("false\r")
	y.await("(1) $ ")
	y.enter("nosuchcommand\r") // goes to the guest's own commands, of which there are none here
	y.await("nobody in the guest carries out commands now")
	if err := s.Resize(132, 50); err != nil {
		t.Error(err)
	}
	y.enter("cd /\r")
	y.await(root + "/ $ ")
	y.enter("exit 7\r")
	if _, err := io.Copy(io.Discard, s); err != nil {
		t.Errorf("the end = %v", err)
	}
	if status, err := s.Wait(); status != 7 || err != nil {
		t.Errorf("Wait = %d, %v; want 7", status, err)
	}
}

// readOnlyRoot asks what is mounted, by another way than the shell does.
func readOnlyRoot(t *testing.T) bool {
	t.Helper()
	b, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	readOnly := false
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 3 && f[1] == "/" {
			readOnly = f[3] == "ro" || strings.HasPrefix(f[3], "ro,")
		}
	}
	return readOnly
}

// TestShellEndsWithItsClient: nothing is left running when the person is gone.
func TestShellEndsWithItsClient(t *testing.T) {
	socket := serve(t, program(t), uint32(os.Getuid()))
	for range maxSessions + 2 { // more than there are places: each is given back
		s, err := Open(context.Background(), socket, "xterm", 80, 24)
		if err != nil {
			t.Fatal(err)
		}
		y := &typist{t: t, s: s}
		y.await(" $ ")
		y.enter("cat\r")
		y.await("cat\r\n")
		s.master.Close()
		_ = s.conn.CloseWrite()
		if _, err := s.Wait(); err != nil {
			t.Fatalf("a shell whose terminal hung up: %v", err)
		}
		s.conn.Close()
	}
}

// TestBounds: strangers get none, and there are no more than may be.
func TestBounds(t *testing.T) {
	path := program(t)
	if s, err := Open(context.Background(), serve(t, path, 4242), "xterm", 80, 24); err == nil {
		s.Close()
		t.Error("a stranger got a shell")
	}
	socket := serve(t, path, uint32(os.Getuid()))
	for range maxSessions {
		s, err := Open(context.Background(), socket, "bad name\n;", 80, 24)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
	}
	if s, err := Open(context.Background(), socket, "xterm", 80, 24); err == nil {
		s.Close()
		t.Errorf("shell %d was started", maxSessions+1)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Open(ctx, socket, "xterm", 80, 24); !errors.Is(err, context.Canceled) {
		t.Errorf("Open that is given up = %v; want %v", err, context.Canceled)
	}
}

// TestPlaces: a shell may write to its folder on each data disk that is not read-only, and run what is on those with
// exec.
func TestPlaces(t *testing.T) {
	root := t.TempDir()
	p, err := profiles.Parse("p.yaml", []byte(`rempart: 1
name: gw
admin: {from: lan, shell: true}
links: {lan0: {address: 10.0.0.1/24}}
zones: {lan: lan0}
disks: {logs: /srv/logs, tools: {at: /srv/tools, exec: true, read-only: true}}
`))
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(root, contract.ProfilePath)
	if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, b, 0o600)); err != nil {
		t.Fatal(err)
	}
	write, run := places(root)
	if !slices.Equal(write, []string{filepath.Join(root, "srv/logs/admin")}) ||
		!slices.Equal(run, []string{filepath.Join(root, "srv/tools")}) {
		t.Errorf("places = %q, %q; want its folder on logs, and the programs of tools", write, run)
	}
}

// TestNotStarted: what the kernel does not start has a status (POSIX, 2.8.2: 126), and does not end the shell.
func TestNotStarted(t *testing.T) {
	name := filepath.Join(t.TempDir(), "prog")
	if err := os.WriteFile(name, []byte("#!/nonexistent/interpreter\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(program(t), "-c", name+"; echo status $?; "+name+" || echo still here").CombinedOutput()
	want := "shell: " + name + ": no such file or directory\n"
	if want = want + "status 126\n" + want + "still here\n"; err != nil || string(out) != want {
		t.Errorf("the shell says %q, %v; want %q", out, err, want)
	}
}
