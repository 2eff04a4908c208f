package console

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rempart/firstboot/ssh"
)

// echo is a guest whose one command repeats its words.
type echo struct{}

func (echo) Prompt() string { return "gw [read-only]" }

func (echo) Run(_ context.Context, c ssh.Call) int {
	fmt.Fprintln(c.Stdout, "heard "+strings.Join(c.Args, "|"))
	return 0
}

func (echo) Shell(context.Context, string, int, int) (ssh.Shell, error) { return nil, nil }

// openConsole makes a terminal as a guest's console is one: its far end, and the one the child has.
func openConsole(t *testing.T) (far, near *os.File) {
	t.Helper()
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Skipf("SKIPPED, NOT PASSED: %v", err)
	}
	far = os.NewFile(uintptr(fd), "far")
	t.Cleanup(func() { far.Close() })
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetUint32(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	nearFD, err := unix.Open(fmt.Sprintf("/dev/pts/%d", n), unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	near = os.NewFile(uintptr(nearFD), "near")
	t.Cleanup(func() { near.Close() })
	if err := raw(nearFD); err != nil {
		t.Fatal(err)
	}
	return far, near
}

func TestConsole(t *testing.T) {
	far, near := openConsole(t)
	ctx, cancel := context.WithCancel(context.Background())
	log := &lines{said: make(chan string, 100)}
	ended := make(chan error, 1)
	go func() { ended <- attend(ctx, near, echo{}, slog.New(slog.NewTextHandler(log, nil)), time.Hour) }()
	seen := ""
	await := func(text string) {
		t.Helper()
		b := make([]byte, 1000)
		for !strings.Contains(seen, text) {
			n, err := far.Read(b)
			if seen += string(b[:n]); err != nil {
				t.Fatalf("waiting for %q: %v in %q", text, err, seen)
			}
		}
		_, seen, _ = strings.Cut(seen, text)
	}
	enter := func(text string) {
		t.Helper()
		if _, err := io.WriteString(far, text); err != nil {
			t.Fatal(err)
		}
	}
	// Until somebody presses Enter the console is others': what they write stands in lines of its own.
	enter("noise")
	if _, err := io.WriteString(near, "READY gw\n"); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 1000)
	n, err := io.ReadAtLeast(far, b, len("READY gw\r\n"))
	if string(b[:n]) != "READY gw\r\n" || err != nil {
		t.Fatalf("before Enter the console says %q, %v; want the line of PID 1 and nothing else", b[:n], err)
	}
	for range 3 { // who leaves it gives it back: no key typed from then on is lost
		enter("\r")
		await("gw [read-only]> ")
		enter("say a 'b c'\r")
		await("heard say|a|b c\r")
		await("gw [read-only]> ")
		enter("\x04")
		for !strings.Contains(<-log.said, "is left") {
		}
		if _, err := io.WriteString(near, "READY again\n"); err != nil {
			t.Fatal(err)
		}
		await("READY again\r\n")
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("attend = %v", err)
	}
}

// TestConsoleGoesQuiet: a prompt that nobody types at is left.
func TestConsoleGoesQuiet(t *testing.T) {
	far, near := openConsole(t)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	log := &lines{said: make(chan string, 10)}
	ended := make(chan error, 1)
	go func() { ended <- attend(ctx, near, echo{}, slog.New(slog.NewTextHandler(log, nil)), time.Millisecond) }()
	if _, err := io.WriteString(far, "\r"); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"takes the prompt", "is left"} {
		if got := <-log.said; !strings.Contains(got, want) {
			t.Errorf("the log says %q; want %q", got, want)
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("attend = %v", err)
	}
}

type lines struct{ said chan string }

func (l *lines) Write(p []byte) (int, error) { l.said <- string(p); return len(p), nil }

func TestTerminal(t *testing.T) {
	for active, want := range map[string]string{"ttyS0\n": "dev/ttyS0", "tty0 hvc0\n": "dev/hvc0", "\n": "",
		"../x\n": ""} {
		root := t.TempDir()
		file := filepath.Join(root, activeFile)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(active), 0o644); err != nil {
			t.Fatal(err)
		}
		got, err := terminal(root)
		if want != "" {
			want = filepath.Join(root, want)
		}
		if got != want || (err != nil) != (want == "") {
			t.Errorf("terminal with %q = %q, %v; want %q", active, got, err, want)
		}
	}
}
