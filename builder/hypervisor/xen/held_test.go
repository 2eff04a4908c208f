package xen

import (
	"os"
	"os/exec"
	"path/filepath"
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
