// Package link_test runs the link child on real interfaces, in network namespaces of its own, against foreign
// programs: ip(8) builds and judges, ping(8) watches for lost packets, ISC dhcpd and dnsmasq give leases.
package link_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"rempart/firstboot/child"
	"rempart/firstboot/contract"
	"rempart/firstboot/dhcp"
	"rempart/firstboot/link"
	"rempart/firstboot/ra"
	"rempart/profiles"
	"rempart/test/netns"
)

// The test binary is three programs: the test as it was started, the test inside namespaces of its own, and the link
// child inside a namespace of the lab.
const (
	insideEnv  = "REMPART_TEST_INSIDE"
	childEnv   = "REMPART_TEST_CHILD" // profile as JSON
	kindEnv    = "REMPART_TEST_KIND"  // which child; empty: link
	rootEnv    = "REMPART_TEST_ROOT"
	childPath  = "/run/link.test" // a copy that an unprivileged user may execute
	patience   = time.Minute      // for what has to come: of a busy machine it takes many times what it needs
	linger     = 10 * time.Second // for what programs leave behind
	childUser  = "901"
	childGrant = "+net_admin,+net_raw,+net_bind_service"
)

func TestMain(m *testing.M) {
	if p := os.Getenv(childEnv); p != "" {
		os.Exit(runChild(p))
	}
	if os.Geteuid() != 0 {
		fmt.Println("SKIPPED: the tests of links make network namespaces, which only root may: run them with sudo")
		os.Exit(0)
	}
	if os.Getenv(insideEnv) == "" {
		os.Exit(reexec())
	}
	if err := furnish(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	// The tests wait more than they work.
	flag.Parse()
	if err := flag.Set("test.parallel", "8"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// reexec runs this binary again in a network and a mount namespace of its own.
func reexec() int {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), insideEnv+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID,
		Pdeathsig:  syscall.SIGKILL,
	}
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// furnish gives the new namespaces a /run, where ip(8) keeps its namespaces, a /proc and a /sys of their own.
func furnish() error {
	for _, m := range []struct {
		source, target, kind string
		flags                uintptr
	}{
		{"none", "/", "", syscall.MS_REC | syscall.MS_PRIVATE},
		{"tmpfs", "/run", "tmpfs", 0},
		{"proc", "/proc", "proc", 0},
		{"sysfs", "/sys", "sysfs", 0},
	} {
		if err := syscall.Mount(m.source, m.target, m.kind, m.flags, ""); err != nil {
			return fmt.Errorf("mounting %s: %w", m.target, err)
		}
	}
	b, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return err
	}
	return os.WriteFile(childPath, b, 0o755)
}

// told is a line the child says.
type told struct {
	Key   string          `json:"key"`
	Value json.RawMessage `json:"value"`
}

// runChild is the link child, or another, as PID 1 would run it, with lines of JSON on stdout in place of PID 1.
func runChild(profile string) int {
	var p profiles.Profile
	if err := json.Unmarshal([]byte(profile), &p); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	var mu sync.Mutex
	say := func(key string, value any) {
		mu.Lock()
		defer mu.Unlock()
		b, err := json.Marshal(value)
		if err != nil {
			panic(err)
		}
		_ = json.NewEncoder(os.Stdout).Encode(told{key, b})
	}
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer cancel()
	run := link.Run
	switch os.Getenv(kindEnv) {
	case "ra":
		run = ra.Run
	case "dhcp":
		run = dhcp.Spec().Run
	}
	err := run(ctx, &child.Env{
		Profile: &p,
		Log:     slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Root:    os.Getenv(rootEnv),
		Ready:   func() { say("ready", true) },
		Tell:    say,
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// lab is a set of network namespaces that goes when the test ends.
type lab struct {
	t    *testing.T
	root string // of the guest
	id   int64  // namespaces are named by it, so that labs stand side by side
}

var labs atomic.Int64

// space is the name ip(8) knows a namespace by.
func (l *lab) space(name string) string { return fmt.Sprintf("%s-%d", name, l.id) }

func newLab(t *testing.T, spaces ...string) *lab {
	t.Helper()
	t.Parallel()
	netns.Tool(t, "ip", "iproute2")
	l := &lab{t: t, id: labs.Add(1), root: filepath.Join("/run", "root-"+strings.ReplaceAll(t.Name(), "/", "-"))}
	for _, dir := range []string{l.root, filepath.Join(l.root, contract.LinkDir),
		filepath.Join(l.root, "run/rempart/ra")} {
		if err := os.MkdirAll(dir, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chown(filepath.Join(l.root, contract.LinkDir), contract.UIDLink, contract.UIDLink); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(filepath.Join(l.root, "run/rempart/ra"), contract.UIDRA, contract.UIDRA); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"proc", "sys"} {
		if err := os.Symlink("/"+d, filepath.Join(l.root, d)); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { _ = os.RemoveAll(l.root) })
	for _, s := range append([]string{"fw"}, spaces...) {
		l.must("ip", "netns", "add", l.space(s))
		t.Cleanup(func() { l.must("ip", "netns", "del", l.space(s)) })
		l.in(s, "sysctl", "-qw", "net.ipv6.conf.all.accept_dad=0", "net.ipv6.conf.default.accept_dad=0")
		if s != "fw" {
			l.in(s, "ip", "link", "set", "lo", "up")
			continue
		}
		l.in(s, "sysctl", "-qw", "net.ipv6.conf.all.accept_dad=1", "net.ipv6.conf.default.accept_dad=1")
	}
	return l
}

// try runs a program and returns what it says.
func (l *lab) try(name string, args ...string) (string, error) {
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out), nil
}

func (l *lab) must(name string, args ...string) string {
	l.t.Helper()
	out, err := l.try(name, args...)
	if err != nil {
		l.t.Fatal(err)
	}
	return out
}

// in runs a program in a namespace.
func (l *lab) in(space string, args ...string) string {
	l.t.Helper()
	return l.must("ip", append([]string{"netns", "exec", l.space(space)}, args...)...)
}

// wire puts a cable between the guest's NIC (name, MAC) and another namespace, whose end is up with addresses.
func (l *lab) wire(name, mac, space, peer string, addresses ...string) {
	l.t.Helper()
	l.must("ip", "link", "add", name, "netns", l.space("fw"), "address", mac, "type", "veth",
		"peer", "name", peer, "netns", l.space(space))
	for _, a := range addresses {
		l.in(space, "ip", "address", "add", a, "dev", peer)
	}
	l.in(space, "ip", "link", "set", peer, "up")
}

// background starts a program in a namespace and stops it, by its pid, when the test ends.
func (l *lab) background(space string, args ...string) *process {
	l.t.Helper()
	p := &process{cmd: exec.Command("ip", append([]string{"netns", "exec", l.space(space)}, args...)...)}
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.out
	p.cmd.WaitDelay = linger // for programs whose children outlive them
	if err := p.cmd.Start(); err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() {
		p.stop()
		if l.t.Failed() {
			l.t.Logf("%s said:\n%s", args[0], p.out.String())
		}
	})
	return p
}

type process struct {
	cmd  *exec.Cmd
	out  buffer
	once sync.Once
}

// stop kills it and waits.
func (p *process) stop() {
	p.once.Do(func() {
		_ = p.cmd.Process.Kill()
		_ = p.cmd.Wait()
	})
}

// buffer is a bytes.Buffer for two goroutines.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// guest is the running link child.
type guest struct {
	lab   *lab
	cmd   *exec.Cmd
	log   buffer
	begun time.Time

	mu     sync.Mutex
	ready  bool
	links  []contract.LinkReport
	warns  []string
	exited bool
}

// start runs the link child in the namespace fw, with the user and the capabilities it has in a guest.
func (l *lab) start(p *profiles.Profile) *guest {
	l.t.Helper()
	return l.startChild("", p, childUser, childGrant)
}

func (l *lab) startChild(kind string, p *profiles.Profile, user, grant string) *guest {
	l.t.Helper()
	netns.Tool(l.t, "setpriv", "util-linux")
	b, err := json.Marshal(p)
	if err != nil {
		l.t.Fatal(err)
	}
	g := &guest{lab: l, begun: time.Now()}
	g.cmd = exec.Command("ip", "netns", "exec", l.space("fw"), "setpriv", "--reuid="+user, "--regid="+user,
		"--clear-groups", "--no-new-privs", "--bounding-set=-all,"+grant, "--inh-caps=-all,"+grant,
		"--ambient-caps=-all,"+grant, childPath)
	g.cmd.Env = append(os.Environ(), childEnv+"="+string(b), rootEnv+"="+l.root, kindEnv+"="+kind)
	g.cmd.Stderr = &g.log
	out, err := g.cmd.StdoutPipe()
	if err != nil {
		l.t.Fatal(err)
	}
	if err := g.cmd.Start(); err != nil {
		l.t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		g.listen(out)
	}()
	l.t.Cleanup(func() {
		g.kill(syscall.SIGKILL)
		<-done
		if l.t.Failed() {
			l.t.Logf("the child said:\n%s", g.log.String())
		}
	})
	return g
}

func (g *guest) listen(out io.Reader) {
	s := bufio.NewScanner(out)
	for s.Scan() {
		var line told
		if err := json.Unmarshal(s.Bytes(), &line); err != nil {
			continue
		}
		g.mu.Lock()
		switch line.Key {
		case "ready":
			g.ready = true
		case "links":
			g.links = nil
			_ = json.Unmarshal(line.Value, &g.links)
		case "warning":
			var w string
			_ = json.Unmarshal(line.Value, &w)
			g.warns = append(g.warns, w)
		}
		g.mu.Unlock()
	}
	_ = g.cmd.Wait()
	g.mu.Lock()
	g.exited = true
	g.mu.Unlock()
}

// kill sends a signal and waits for the end.
func (g *guest) kill(sig syscall.Signal) {
	_ = g.cmd.Process.Signal(sig)
	g.wait("end", func() bool { return g.exited })
}

// wait polls for something about the guest.
func (g *guest) wait(what string, done func() bool) {
	g.lab.t.Helper()
	g.lab.eventually(what, patience, func() bool {
		g.mu.Lock()
		defer g.mu.Unlock()
		return done()
	})
}

func (g *guest) waitReady() {
	g.lab.t.Helper()
	g.wait("ready", func() bool { return g.ready })
}

// waitLink waits until the report about a link satisfies the test.
func (g *guest) waitLink(name, what string, good func(contract.LinkReport) bool) {
	g.lab.t.Helper()
	g.wait("link "+name+": "+what, func() bool {
		return slices.ContainsFunc(g.links, func(r contract.LinkReport) bool { return r.Name == name && good(r) })
	})
}

func (l *lab) eventually(what string, within time.Duration, good func() bool) {
	l.t.Helper()
	for end := time.Now().Add(within); ; time.Sleep(10 * time.Millisecond) {
		if good() {
			return
		}
		if time.Now().After(end) {
			l.t.Fatalf("waited %s in vain for: %s", within, what)
		}
	}
}

// addresses are what ip(8) says is on an interface of the guest, without what the kernel adds to it.
func (l *lab) addresses(dev string) []string {
	l.t.Helper()
	var got []string
	for line := range strings.Lines(l.in("fw", "ip", "-o", "address", "show", "dev", dev, "scope", "global")) {
		f := strings.Fields(line)
		got = append(got, f[3])
	}
	return got
}

// routes are what ip(8) says are the guest's routes of a family. The kernel's own are left out, and those for what
// belongs to a link that has gone.
func (l *lab) routes(family string) []string {
	l.t.Helper()
	var got []string
	for line := range strings.Lines(l.in("fw", "ip", family, "route", "show")) {
		if !strings.Contains(line, "proto kernel") && !strings.Contains(line, "metric 4294967295") {
			got = append(got, strings.Join(strings.Fields(line), " "))
		}
	}
	return got
}

func (l *lab) sysctl(path string) string {
	l.t.Helper()
	return strings.TrimSpace(l.in("fw", "cat", "/proc/sys/net/"+path))
}
