package clock

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"rempart/firstboot/child"
	"rempart/firstboot/contract"
	"rempart/profiles"
)

// chronyd finds the program, installed or unpacked by test/setup.
func chronyd(t *testing.T) string {
	t.Helper()
	tools, err := filepath.Abs("../../bin/tools")
	if err != nil {
		t.Fatal(err)
	}
	for _, root := range []string{"/", tools} {
		if program := filepath.Join(root, "usr/sbin/chronyd"); isFile(program) {
			if os.Geteuid() != 0 {
				t.Skip("SKIPPED, NOT PASSED: chronyd runs as root only")
			}
			return program
		}
	}
	t.Skip("SKIPPED, NOT PASSED: there is no chronyd; `test/setup test` brings it")
	return ""
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}

// freePort is a UDP port nobody has on 127.0.0.1.
func freePort(t *testing.T) uint16 {
	t.Helper()
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	return netip.MustParseAddrPort(conn.LocalAddr().String()).Port()
}

// startChrony runs chronyd as a server that tells the time of this machine, at stratum 5, and touches no clock.
func startChrony(t *testing.T, program string) uint16 {
	t.Helper()
	dir, port := t.TempDir(), freePort(t)
	conf := fmt.Sprintf("local stratum 5\nallow 127.0.0.0/8\nbindaddress 127.0.0.1\nport %d\ncmdport 0\n"+
		"bindcmdaddress /\npidfile %s/pid\n", port, dir)
	file := filepath.Join(dir, "conf")
	if err := os.WriteFile(file, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "-x", "-d", "-u", "root", "-f", file)
	var said strings.Builder
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		if t.Failed() {
			t.Log(said.String())
		}
	})
	return port
}

// TestAskChrony: the most used server is understood.
func TestAskChrony(t *testing.T) {
	a := newAsker()
	a.port = startChrony(t, chronyd(t))
	a.lookup = func(context.Context, string) ([]netip.Addr, error) {
		return []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("::ffff:127.0.0.1")}, nil
	}
	var answers []Answer
	for range 20 { // it takes a moment to start, and each question that comes too early is refused at once
		answers = a.round(t.Context(), []string{"ntp.example", "127.0.0.1"})
		if len(answers) != 1 {
			t.Fatalf("round = %+v; want one answer of one server", answers)
		}
		if answers[0].Err == nil {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	s := answers[0].Sample
	if answers[0].Err != nil || s.Offset.Abs() > 100*time.Millisecond || s.Stratum != 5 || s.Distance > time.Second {
		t.Errorf("round = %+v; want stratum 5 and this machine's time", answers[0])
	}
}

// TestChronyAsks: it believes our answers, and not those of a guest that does not know the time.
func TestChronyAsks(t *testing.T) {
	program := chronyd(t)
	for _, synced := range []bool{true, false} {
		conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			t.Fatal(err)
		}
		s := &server{reference: func() Reference {
			if !synced {
				return Reference{}
			}
			return reference(Sample{Server: netip.MustParseAddr("192.0.2.1"), Stratum: 2}, time.Now())
		}}
		ended := make(chan error, 1)
		go func() { ended <- s.serve(conn, "udp4", 0) }()
		port := netip.MustParseAddrPort(conn.LocalAddr().String()).Port()
		out, err := exec.Command(program, "-Q", "-t", "4", "-u", "root", "-f", "/dev/null",
			fmt.Sprintf("server 127.0.0.1 port %d iburst maxsamples 1", port), "cmdport 0",
			"pidfile "+t.TempDir()+"/pid").CombinedOutput()
		wrong := regexp.MustCompile(`System clock wrong by (-?[0-9.]+) seconds`).FindSubmatch(out)
		if (wrong != nil) != synced {
			t.Errorf("synchronised %v: chronyd -Q = %v:\n%s", synced, err, out)
		}
		if wrong != nil {
			var off float64
			if _, err := fmt.Sscan(string(wrong[1]), &off); err != nil || off < -0.1 || off > 0.1 {
				t.Errorf("chronyd sees us off by %s s", wrong[1])
			}
		}
		if s.answered.Load() == 0 {
			t.Error("no question was answered")
		}
		conn.Close()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

// machine is a clock that is only written down.
type machine struct{ did chan string }

func (m machine) Step(offset time.Duration) error {
	m.did <- "step " + offset.Round(time.Minute).String()
	return nil
}
func (m machine) Steer(offset, _ time.Duration) error {
	m.did <- "steer " + offset.Round(time.Second).String()
	return nil
}
func (m machine) Crawl() error { m.did <- "crawl"; return nil }

// TestRun runs the child against chronyd, and then with nobody to ask.
func TestRun(t *testing.T) {
	port := startChrony(t, chronyd(t))
	root := t.TempDir()
	for _, dir := range []string{runDir, keepDir} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	start := func(port uint16) (did chan string, ready chan bool, told chan string, stop func()) {
		did, ready, told = make(chan string, 100), make(chan bool, 10), make(chan string, 100)
		env := &child.Env{Root: root, Log: slog.New(slog.DiscardHandler), Ready: func() { ready <- true },
			Profile: &profiles.Profile{NTP: &profiles.NTP{Servers: []string{"127.0.0.1"}}},
			Tell:    func(key string, value any) { told <- fmt.Sprint(key, " ", value) }}
		a := newAsker()
		a.port = port
		k := newKeeper(env, machine{did}, a)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- k.run(ctx) }()
		return did, ready, told, func() {
			cancel()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
	}
	did, ready, _, stop := start(port)
	<-ready
	stop()
	if got := drain(did); !slices.Equal(got, []string{"steer 0s", "steer 0s"}) {
		t.Errorf("the clock was adjusted by %q; want it left to run at the start, and steered once", got)
	}
	if known := lastKnown(filepath.Join(root, keepDir)); time.Since(known) > time.Minute {
		t.Errorf("the time kept is %v", known)
	}
	b, err := os.ReadFile(filepath.Join(root, contract.TimeStatus))
	if err != nil || !strings.Contains(string(b), `"synced":true`) || !strings.Contains(string(b), `"stratum":6`) {
		t.Errorf("status = %s, %v; want synced at stratum 6", b, err)
	}

	// A restart of the child, and nobody answers: it does not wait, and says so.
	_, ready, told, stop := start(freePort(t))
	if got := <-told; !strings.HasPrefix(got, "warning the clock is not kept: no time server answers") {
		t.Errorf("with nobody to ask it tells %q", got)
	}
	<-ready
	stop()
}

func drain(c chan string) (all []string) {
	for len(c) > 0 {
		all = append(all, <-c)
	}
	return all
}

func TestLastKnown(t *testing.T) {
	dir := t.TempDir()
	now := time.Unix(Released+1000, 0)
	if err := keep(dir, now); err != nil {
		t.Fatal(err)
	}
	if got := lastKnown(dir); !got.Equal(now) {
		t.Errorf("lastKnown = %v; want %v", got, now)
	}
	for _, text := range []string{"", "x", "-1", "0", "99999999999", "1793491199", "9223372036854775808", "1e9"} {
		if err := os.WriteFile(filepath.Join(dir, keepFile), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := lastKnown(dir).Unix(); got != Released {
			t.Errorf("lastKnown of %q = %d; want the release", text, got)
		}
	}
}
