package xen

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestHeld: what xl leaves behind has the lock until it ends, and nobody else.
func TestHeld(t *testing.T) {
	dir := t.TempDir()
	end := filepath.Join(dir, "end")
	if out, err := exec.Command("mkfifo", end).CombinedOutput(); err != nil {
		t.Fatalf("mkfifo: %v\n%s", err, out)
	}
	script := "#!/bin/sh\n(read over <" + end + ") </dev/null >/dev/null 2>&1 &\n"
	if err := os.WriteFile(filepath.Join(dir, "xl"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	name := filepath.Join(dir, "lock")
	lock, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	whole := unix.Flock_t{Type: unix.F_WRLCK}
	if err := unix.FcntlFlock(lock.Fd(), unix.F_OFD_SETLK, &whole); err != nil {
		t.Fatal(err)
	}
	if err := (Toolstack{Held: lock}).Create(t.Context(), "fw.cfg"); err != nil {
		t.Fatal(err)
	}
	lock.Close()
	other, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if err := unix.FcntlFlock(other.Fd(), unix.F_OFD_SETLK, &whole); err == nil {
		t.Error("the lock is free while what xl left is there")
	}
	if err := os.WriteFile(end, []byte("over\n"), 0); err != nil {
		t.Fatal(err)
	}
	if err := unix.FcntlFlock(other.Fd(), unix.F_OFD_SETLKW, &whole); err != nil {
		t.Errorf("after its end the lock cannot be had: %v", err)
	}
}

// TestLinger: what xl leaves behind with xl's own output is not waited for, whether xl ended by itself or was ended.
func TestLinger(t *testing.T) {
	for name, c := range map[string]struct {
		script string
		over   bool
	}{
		"by itself": {"echo said", false},
		"ended":     {"echo said; read over <%s", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			begun, end := filepath.Join(dir, "begun"), filepath.Join(dir, "end")
			if out, err := exec.Command("mkfifo", begun, end).CombinedOutput(); err != nil {
				t.Fatalf("mkfifo: %v\n%s", err, out)
			}
			xl := filepath.Join(dir, "xl")
			script := "#!/bin/sh\n(echo >" + begun + "; read over <" + end + ") &\n" + strings.ReplaceAll(c.script, "%s", end) +
				"\n"
			if err := os.WriteFile(xl, []byte(script), 0o755); err != nil {
				t.Fatal(err)
			}
			// Both ends: what reads it ends with the test and not before, and no open waits.
			hold, err := os.OpenFile(end, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer hold.Close()
			started, err := os.OpenFile(begun, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer started.Close()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if c.over {
				go func() {
					_, _ = started.Read(make([]byte, 1))
					cancel()
				}()
			}
			out, err := (Toolstack{}).local(ctx, nil, xl, "create")
			if c.over != errors.Is(err, context.Canceled) || !c.over && (err != nil || string(out) != "said\n") {
				t.Errorf("local = %q, %v; want what it said, or that it was ended: %v", out, err, c.over)
			}
			if _, err := hold.WriteString("over\nover\n"); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestHost(t *testing.T) {
	dir := t.TempDir()
	kind := filepath.Join(dir, "sys/hypervisor/type")
	if Host(dir) {
		t.Error("Host of a machine without a hypervisor = true; want false")
	}
	if err := os.MkdirAll(filepath.Dir(kind), 0o755); err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]bool{"xen\n": true, "kvm\n": false, "": false} {
		if err := os.WriteFile(kind, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := Host(dir); got != want {
			t.Errorf("Host with %q = %v; want %v", text, got, want)
		}
	}
}
