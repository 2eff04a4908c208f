package control

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rempart/firstboot/child"
	"rempart/firstboot/contract"
)

func TestParseCommand(t *testing.T) {
	for line, want := range map[string]child.Request{
		"status":              {Verb: "status"},
		"poweroff\r":          {Verb: "poweroff"},
		" reboot ":            {Verb: "reboot"},
		"kill link":           {Verb: "kill", Child: "link", Signal: int(syscall.SIGTERM)},
		"kill link KILL":      {Verb: "kill", Child: "link", Signal: int(syscall.SIGKILL)},
		"kill dhcp-1 sigquit": {Verb: "kill", Child: "dhcp-1", Signal: int(syscall.SIGQUIT)},
	} {
		if got, err := ParseCommand(line); err != nil || got != want {
			t.Errorf("ParseCommand(%q) = %+v, %v; want %+v", line, got, err, want)
		}
	}
	for _, line := range []string{"", " ", "halt", "status now", "kill", "kill link KILL now", "kill link 9",
		"kill link NOSUCH",
		"kill ../x", "kill Link", "POWEROFF", strings.Repeat("x", MaxCommand+1), "kill " + strings.Repeat("x", 33)} {
		if got, err := ParseCommand(line); err == nil {
			t.Errorf("ParseCommand(%.40q) = %+v; want an error", line, got)
		}
	}
}

func FuzzParseCommand(f *testing.F) {
	f.Add("kill link SIGKILL")
	f.Add("status")
	f.Fuzz(func(t *testing.T, line string) {
		r, err := ParseCommand(line)
		if err == nil && (r.Verb == "kill") != (r.Child != "" && r.Signal > 0) {
			t.Errorf("ParseCommand(%q) = %+v", line, r)
		}
	})
}

// wire is a port served over a socket pair, which behaves as the port does while a host is connected.
type wire struct {
	host    net.Conn
	lines   *bufio.Scanner
	reports chan contract.Report
	mu      sync.Mutex
	told    []child.Request
}

func newWire(t *testing.T) *wire {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fds[0]), "host")
	host, err := net.FileConn(f)
	f.Close()
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{host: host, lines: bufio.NewScanner(host), reports: make(chan contract.Report)}
	w.lines.Buffer(nil, child.MaxReport)
	p := &port{fd: fds[1], log: slog.New(slog.NewTextHandler(io.Discard, nil)), tell: func(key string, value any) {
		w.mu.Lock()
		defer w.mu.Unlock()
		if key != child.KeyRequest {
			t.Errorf("told %q", key)
		}
		w.told = append(w.told, value.(child.Request))
	}}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.serve(ctx, w.reports) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve = %v", err)
		}
		host.Close()
		unix.Close(fds[1])
	})
	return w
}

// read returns the next report the host sees.
func (w *wire) read(t *testing.T) contract.Report {
	t.Helper()
	if err := w.host.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if !w.lines.Scan() {
		t.Fatalf("no report: %v", w.lines.Err())
	}
	var r contract.Report
	if err := json.Unmarshal(w.lines.Bytes(), &r); err != nil {
		t.Fatalf("report %.100q: %v", w.lines.Bytes(), err)
	}
	return r
}

func (w *wire) requests(t *testing.T, want int) []child.Request {
	t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		w.mu.Lock()
		got := append([]child.Request(nil), w.told...)
		w.mu.Unlock()
		if len(got) >= want {
			return got
		}
	}
	t.Fatalf("%d requests never came", want)
	return nil
}

func TestReportsReachTheHost(t *testing.T) {
	w := newWire(t)
	for _, name := range []string{"one", "two"} {
		w.reports <- contract.Report{Name: name}
		if got := w.read(t); got.Name != name {
			t.Errorf("the host sees %+v; want %s", got, name)
		}
	}
	if _, err := io.WriteString(w.host, "status\n"); err != nil {
		t.Fatal(err)
	}
	if got := w.read(t); got.Name != "two" {
		t.Errorf("status = %+v; want the last report", got)
	}
}

func TestCommandsReachPID1(t *testing.T) {
	w := newWire(t)
	// In pieces, several at once, with junk and an endless line in between.
	for _, part := range []string{"kill li", "nk KILL\nreb", "oot\n\x00\xff junk\n", strings.Repeat("x", 100_000),
		"\npoweroff\n"} {
		if _, err := io.WriteString(w.host, part); err != nil {
			t.Fatal(err)
		}
	}
	got := w.requests(t, 3)
	want := []child.Request{{Verb: "kill", Child: "link", Signal: 9}, {Verb: "reboot"}, {Verb: "poweroff"}}
	for i := range want {
		if got[i] != want[i] || len(got) != len(want) {
			t.Fatalf("requests = %+v; want %+v", got, want)
		}
	}
}

// TestHostThatDoesNotRead: the child goes on, holds a bounded amount, and every line the host reads later is whole.
func TestHostThatDoesNotRead(t *testing.T) {
	w := newWire(t)
	big := make([]string, 2000)
	for i := range big {
		big[i] = strings.Repeat("w", 50)
	}
	for range 60 { // 6 MB, six times what may wait
		select {
		case w.reports <- contract.Report{Name: "big", Warnings: big}:
		case <-time.After(time.Minute):
			t.Fatal("the child is stuck")
		}
	}
	for range 3 {
		if got := w.read(t); got.Name != "big" || len(got.Warnings) != len(big) {
			t.Errorf("the host reads %+v", got.Name)
		}
	}
}

func TestFindPort(t *testing.T) {
	root := t.TempDir()
	if _, ok := findPort(root, contract.ControlPort); ok {
		t.Error("findPort of nothing found something")
	}
	for node, name := range map[string]string{"vport1p1": "org.qemu.guest_agent.0", "vport1p2": contract.ControlPort} {
		dir := filepath.Join(root, "sys/class/virtio-ports", node)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "name"), []byte(name+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got, ok := findPort(root, contract.ControlPort); !ok || got != filepath.Join(root, "dev/vport1p2") {
		t.Errorf("findPort = %q, %v; want vport1p2", got, ok)
	}
}
