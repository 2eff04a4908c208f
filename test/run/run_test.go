// Package run tests `rempart run` as a person meets it: on a terminal and without one, as an ordinary user, with links
// plugged into a socket and a tap, through an orderly end, an end by signal, a timeout and a panic.
package run

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rempart/builder/master"
	"rempart/builder/virtualnet"
	"rempart/firstboot/contract"
	"rempart/test/rig"
)

const profile = "home-firewall"

// binary is a copy of rempart where an ordinary user reaches it. It is made once, before any test runs: a file that is
// being written cannot be run, nor can one while another test's new process still holds it open for writing.
var binary string

func TestMain(m *testing.M) {
	if os.Getpid() == 1 { // another system's guest
		rig.Inside(m, prepareInside, "-test.run=^TestForeign$")
	}
	code := 1
	dir, err := copied()
	if err == nil {
		binary = filepath.Join(dir, "rempart")
		code = m.Run()
	} else {
		fmt.Println("a copy of bin/rempart (did `make` run?):", err)
	}
	os.RemoveAll(dir)
	rig.Clean()
	os.Exit(code)
}

// copied makes a folder with the copy.
func copied() (dir string, err error) {
	if dir, err = os.MkdirTemp("", "rempart-run-"); err != nil {
		return "", err
	}
	b, err := os.ReadFile(filepath.Join(rig.Top(), "bin", "rempart"))
	return dir, errors.Join(err, os.Chmod(dir, 0o755), os.WriteFile(filepath.Join(dir, "rempart"), b, 0o755))
}

// screen keeps what a program writes and lets a test wait for it.
type screen struct {
	mu      sync.Mutex
	text    bytes.Buffer
	changed chan struct{}
}

func newScreen() *screen { return &screen{changed: make(chan struct{})} }

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.text.Write(p)
	close(s.changed)
	s.changed = make(chan struct{})
	return len(p), nil
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// await waits, bounded, until the screen shows text.
func (s *screen) await(t *testing.T, text string) {
	t.Helper()
	deadline := time.After(rig.Patience)
	for {
		s.mu.Lock()
		found, changed := strings.Contains(s.text.String(), text), s.changed
		s.mu.Unlock()
		if found {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("%q did not appear within %v; the screen shows:\n%s", text, rig.Patience, s)
		}
	}
}

// program is a running rempart.
type program struct {
	cmd  *exec.Cmd
	done chan error
}

// start runs rempart as an ordinary user where the test is root: nobody may need root to run a guest.
func start(t *testing.T, cmd *exec.Cmd) *program {
	t.Helper()
	p := &program{cmd: cmd, done: make(chan error, 1)}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { p.done <- cmd.Wait() }()
	t.Cleanup(func() {
		if cmd.ProcessState == nil {
			cmd.Process.Kill() // QEMU goes with it
		}
	})
	return p
}

// exit waits for the end and returns the exit status.
func (p *program) exit(t *testing.T, s *screen) int {
	t.Helper()
	select {
	case err := <-p.done:
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		return p.cmd.ProcessState.ExitCode()
	case <-time.After(rig.Patience):
		t.Fatalf("rempart did not end within %v; the screen shows:\n%s", rig.Patience, s)
		return -1
	}
}

const nobody = 65534

// ordinary makes cmd run as an ordinary user, with dir its own.
func ordinary(t *testing.T, cmd *exec.Cmd, dir string) {
	t.Helper()
	if os.Geteuid() != 0 {
		return
	}
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Credential = &syscall.Credential{Uid: nobody, Gid: nobody}
	if err := os.Chown(dir, nobody, nobody); err != nil {
		t.Fatal(err)
	}
}

// place returns a copy of the master where an ordinary user reaches it.
func place(t *testing.T) (dir string) {
	t.Helper()
	m := rig.Build(t, profile)
	base, err := os.MkdirTemp("", "rempart-run-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(base) })
	if err := os.Chmod(base, 0o755); err != nil {
		t.Fatal(err)
	}
	dir = filepath.Join(base, "home", "fw")
	if err := os.CopyFS(dir, os.DirFS(m.Dir)); err != nil {
		t.Fatal(err)
	}
	return dir
}

// apart gives a program a place of its own for the guests it runs: they all have one name.
func apart(cmd *exec.Cmd, dir string) *exec.Cmd {
	cmd.Env = append(os.Environ(), "XDG_RUNTIME_DIR="+filepath.Dir(dir))
	return cmd
}

// openTerminal makes a pseudo-terminal and returns its two ends.
func openTerminal(t *testing.T) (ours, theirs *os.File) {
	t.Helper()
	ours, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ours.Close() })
	if err := unix.IoctlSetPointerInt(int(ours.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(ours.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	theirs, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { theirs.Close() })
	return ours, theirs
}

// TestTerminal boots on a terminal with the dmz link on a socket, talks to the guest there, and leaves by Ctrl-].
func TestTerminal(t *testing.T) {
	t.Parallel()
	dir := place(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	answered := make(chan struct{})
	go dmz(t, listener, answered)

	ours, theirs := openTerminal(t)
	before, err := unix.IoctlGetTermios(int(theirs.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary, "run", dir, "--firmware", "direct", "--accel", "tcg",
		"--net", "dmz0=socket:connect="+listener.Addr().String())
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "TERM=xterm"}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = theirs, theirs, theirs
	ordinary(t, cmd, filepath.Dir(dir))
	s := newScreen()
	go io.Copy(s, ours)
	p := start(t, cmd)
	s.await(t, "\n"+contract.ReadyPrefix)
	select {
	case <-answered:
	case <-time.After(rig.Patience):
		t.Errorf("the guest's dmz0 did not answer ARP through the socket")
	}
	if _, err := ours.Write([]byte{0x1d}); err != nil { // Ctrl-]
		t.Fatal(err)
	}
	if code := p.exit(t, s); code != 0 {
		t.Errorf("exit status %d after Ctrl-]; want 0\n%s", code, s)
	}
	s.await(t, "powered off") // what was written last may still be on its way through the terminal
	after, err := unix.IoctlGetTermios(int(theirs.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	if *after != *before {
		t.Errorf("the terminal was left as %+v; want %+v", *after, *before)
	}
	if state, err := filepath.Glob(dir + "*.state.raw"); err != nil || len(state) != 1 {
		t.Errorf("state disks %v, %v; want one beside the master", state, err)
	}
}

// dmz puts a host on the other end of the socket and closes answered when the guest's dmz0 tells its MAC address.
func dmz(t *testing.T, listener net.Listener, answered chan struct{}) {
	conn, err := listener.Accept()
	if err != nil {
		return // the test is over
	}
	segment := virtualnet.NewSegment("dmz0", slog.New(slog.DiscardHandler))
	var once sync.Once
	segment.Observe(func(_ time.Time, frame []byte, fromGuest bool) {
		const arpReply = "\x08\x06\x00\x01\x08\x00\x06\x04\x00\x02" // RFC 826: type, hardware, protocol, sizes, operation
		if fromGuest && len(frame) >= 32 && string(frame[12:22]) == arpReply &&
			bytes.Equal(frame[28:32], []byte{10, 9, 0, 1}) {
			once.Do(func() { close(answered) })
		}
	})
	host, err := segment.NewHost("dmz", net.HardwareAddr{2, 0, 0, 0, 0, 7},
		[]netip.Prefix{netip.MustParsePrefix("10.9.0.7/24")})
	if err != nil {
		t.Error(err)
		return
	}
	segment.PlugGuest(conn)
	t.Cleanup(segment.Close)
	// Nobody answers the ping, the policy drops it; the question who has the address is what matters.
	ctx := t.Context()
	for ctx.Err() == nil {
		select {
		case <-answered:
			return
		default:
		}
		_ = host.Ping(ctx, netip.MustParseAddr("10.9.0.7"), netip.MustParseAddr("10.9.0.1"), []byte("rempart"), time.Second)
	}
}

// TestSignal ends a guest without a terminal by SIGTERM: in order, with no QEMU left behind.
func TestSignal(t *testing.T) {
	t.Parallel()
	dir := place(t)
	cmd := exec.Command(binary, "run", dir, "--firmware", "microvm", "--accel", "tcg")
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	s := newScreen()
	cmd.Stdout, cmd.Stderr = s, s
	ordinary(t, cmd, filepath.Dir(dir))
	p := start(t, cmd)
	s.await(t, "\n"+contract.ReadyPrefix)
	if !strings.Contains(s.String(), "tcg") {
		t.Errorf("it was not said that the guest runs in software:\n%s", s)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code := p.exit(t, s); code != 0 || !strings.Contains(s.String(), "has ended") {
		t.Errorf("exit status %d after SIGTERM; want 0 and a word about the end\n%s", code, s)
	}
	processes, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range processes {
		cmdline, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if err == nil && bytes.Contains(cmdline, []byte(dir)) && bytes.Contains(cmdline, []byte("qemu")) {
			t.Errorf("process %s is left: %q", e.Name(), cmdline)
		}
	}
}

// TestTimeout asks for READY sooner than any guest can be.
func TestTimeout(t *testing.T) {
	t.Parallel()
	dir := place(t)
	cmd := apart(exec.Command(binary, "run", dir, "--firmware", "direct", "--accel", "tcg", "--timeout", "200ms"), dir)
	s := newScreen()
	cmd.Stdout, cmd.Stderr = s, s
	if code := start(t, cmd).exit(t, s); code != 1 || !strings.Contains(s.String(), "200ms have passed") {
		t.Errorf("exit status %d with a timeout nobody can meet; want 1 and a word about it\n%s", code, s)
	}
}

// TestPanic runs masters whose root is corrupt: the kernel panics, and rempart says so and ends, also on microvm,
// which has no device to report a panic by.
func TestPanic(t *testing.T) {
	t.Parallel()
	dir := place(t)
	m := rig.Build(t, profile)
	for _, r := range m.Manifest.Disk.Regions {
		if r.Name != "partition root" {
			continue
		}
		f, err := os.OpenFile(filepath.Join(dir, master.RawFile), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		// Behind the superblock that EROFS keeps at 1024: the profile can still be read from outside.
		b := []byte{0}
		if _, err := f.ReadAt(b, r.Offset+100); err != nil {
			t.Fatal(err)
		}
		b[0] ^= 1
		if _, err := f.WriteAt(b, r.Offset+100); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	for _, firmware := range []string{"direct", "microvm"} {
		t.Run(firmware, func(t *testing.T) {
			cmd := apart(exec.Command(binary, "run", dir, "--firmware", firmware, "--format", "raw", "--accel", "tcg"), dir)
			s := newScreen()
			cmd.Stdout, cmd.Stderr = s, s
			if code := start(t, cmd).exit(t, s); code != 1 || !strings.Contains(s.String(), "panicked") {
				t.Errorf("exit status %d for a guest that panics; want 1 and a word about it\n%s", code, s)
			}
		})
	}
}

// TestTap plugs a link into a tap, in a network namespace of its own.
func TestTap(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED, NOT PASSED: making a tap in a new network namespace needs root")
	}
	dir := place(t)
	const script = `
set -e
ip link set lo up
ip tuntap add dev rmptap0 mode tap
ip address add 10.9.0.7/24 dev rmptap0
ip link set rmptap0 up
"$0" run "$1" --firmware direct --accel tcg --net dmz0=tap:rmptap0 --net lan0=none &
guest=$!
trap 'kill -TERM $guest; wait $guest' EXIT
tries=0
until ip neigh show 10.9.0.1 dev rmptap0 | grep -q lladdr; do
	tries=$((tries + 1)); [ $tries -lt 120 ] || { echo "no answer on the tap"; exit 1; }
	ping -c 1 -W 1 10.9.0.1 >/dev/null 2>&1 || true
done
echo "the tap answers"
`
	cmd := apart(exec.Command("/bin/sh", "-c", script, binary, dir), dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	s := newScreen()
	cmd.Stdout, cmd.Stderr = s, s
	if code := start(t, cmd).exit(t, s); code != 0 || !strings.Contains(s.String(), "the tap answers") {
		t.Errorf("exit status %d; want 0 and an answer on the tap\n%s", code, s)
	}
}
