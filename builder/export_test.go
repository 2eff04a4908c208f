package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rempart/builder/guest/home"
)

// TestWriteFile: whole or not at all.
func TestWriteFile(t *testing.T) {
	name := filepath.Join(t.TempDir(), "file")
	text := func(s string) func(f *os.File) error {
		return func(f *os.File) error {
			_, err := f.WriteString(s)
			return err
		}
	}
	if err := writeFile(name, text("one")); err != nil {
		t.Fatal(err)
	}
	err := writeFile(name, func(f *os.File) error {
		_ = text("two")(f)
		return os.ErrClosed
	})
	if b, _ := os.ReadFile(name); err == nil || string(b) != "one" {
		t.Errorf("after a failure (%v) the file holds %q; want what it held", err, b)
	}
	if entries, err := os.ReadDir(filepath.Dir(name)); err != nil || len(entries) != 1 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
	if err := writeFile(filepath.Join(name, "below"), text("x")); err == nil {
		t.Error("a file below a file was written")
	}
	if err := writeFile(filepath.Dir(name), text("x")); err == nil {
		t.Error("a folder was written")
	}
	// What is no file is neither replaced nor synchronised, and a link leads on.
	link := filepath.Join(t.TempDir(), "link")
	for target, want := range map[string]string{name: "two", "/dev/null": ""} {
		if err := os.Symlink(target, link); err != nil {
			t.Fatal(err)
		}
		if err := writeFile(link, text("two")); err != nil {
			t.Errorf("a link to %s: %v", target, err)
		}
		to, err := os.Readlink(link)
		if b, _ := os.ReadFile(target); err != nil || to != target || string(b) != want {
			t.Errorf("a link to %s leads to %q, %v, which holds %q; want %q", target, to, err, b, want)
		}
		if err := os.Remove(link); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mkfifo(link, 0o600); err != nil {
		t.Fatal(err)
	}
	pipe, err := os.OpenFile(link, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer pipe.Close()
	if err := writeFile(link, text("three")); err != nil {
		t.Errorf("a pipe: %v", err)
	}
	if err := pipe.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 16)
	if n, err := pipe.Read(b); err != nil || string(b[:n]) != "three" {
		t.Errorf("the pipe brought %q, %v; want three", b[:n], err)
	}
}

// TestExportUsage: what is wrong with the options is said before any master is looked for.
func TestExportUsage(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"export"}, "one master"},
		{[]string{"export", "fw-1"}, `--to ""`},
		{[]string{"export", "fw-1", "--to", "ova"}, "want xl or root"},
		{[]string{"export", "/nonexistent", "--to", "xl"}, "manifest.json"},
		{[]string{"host"}, "--output"},
		{[]string{"host", "--output", "/nonexistent/x"}, "there is no bridge"},
		{[]string{"host", "--output", "/nonexistent/x", "--bridge", "br0", "--address", "br1=10.0.0.1/24"},
			"no --bridge br1"},
		{[]string{"host", "--output", "/nonexistent/x", "--bridge", "br0", "--address", "br0=10.0.0.1"}, "prefix length"},
		{[]string{"host", "--output", "/nonexistent/x", "--bridge", "br0", "--nic", "eth0"}, "NAME=MAC"},
		{[]string{"host", "--output", "/nonexistent/x", "--bridge", "br0", "--emergency", "eth0=x"}, "--emergency"},
		{[]string{"host", "--output", "/nonexistent/x", "--bridge", "br0", "--gateway", "br0=x"}, "BRIDGE=ADDRESS"},
		{[]string{"host", "--output", "/nonexistent/x", "--bridge", "br0", "--address", "br0=10.0.0.2/24", "--gateway",
			"br0=10.0.0.1", "--gateway", "br0=fd00::1"}, "has the gateway 10.0.0.1 already"},
	} {
		_, _, errs := rempart(c.args...)
		if !strings.Contains(errs, c.want) {
			t.Errorf("rempart %q says %q; want %q in it", c.args, errs, c.want)
		}
	}
}

// TestExportSize: a guest is as large under Xen as it was made, unless an option says something else.
func TestExportSize(t *testing.T) {
	g := &home.Guest{Description: home.Description{Memory: 200<<20 + 1, VCPUs: 4}}
	for _, tt := range []struct{ given, want xlOptions }{
		{xlOptions{}, xlOptions{vcpus: 4, memory: "201M"}},
		{xlOptions{vcpus: 2, memory: "1G"}, xlOptions{vcpus: 2, memory: "1G"}},
	} {
		got := tt.given
		got.of(g)
		if got.vcpus != tt.want.vcpus || got.memory != tt.want.memory {
			t.Errorf("of a guest with 4 processors, given %d and %q: %d and %q; want %d and %q", tt.given.vcpus,
				tt.given.memory, got.vcpus, got.memory, tt.want.vcpus, tt.want.memory)
		}
	}
}
