package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rempart/builder/guest/home"
	"rempart/builder/guest/running"
	"rempart/builder/hypervisor"
	"rempart/builder/hypervisor/xen"
)

// TestHalfMade: what an xl left that was ended on its way is ended. That of one which failed by itself is somebody
// else's guest of the same name.
func TestHalfMade(t *testing.T) {
	bin := t.TempDir()
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	over, cancel := context.WithCancel(t.Context())
	cancel()
	for _, tt := range []struct {
		name, create string
		ctx          context.Context
		ends         bool
	}{
		{"fails", "echo 'Domain with name fw already exists.' >&2; exit 1", t.Context(), false},
		{"is killed", "kill -9 $$", t.Context(), true},
		{"is given up", "exit 1", over, true},
	} {
		called := filepath.Join(t.TempDir(), "called")
		script := fmt.Sprintf(`#!/bin/sh
case "$1" in
create) %s;;
domid) echo 7;;
*) echo "$*" >>%s;;
esac
`, tt.create, called)
		if err := os.WriteFile(filepath.Join(bin, "xl"), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
		err := xen.Toolstack{}.Create(tt.ctx, "fw.cfg")
		if err == nil {
			t.Fatalf("%s: Create = nil; want an error", tt.name)
		}
		if err := halfMade(tt.ctx, xen.Toolstack{}, "fw", fmt.Errorf("guest fw: %w", err)); err != nil {
			t.Errorf("%s: halfMade = %v", tt.name, err)
		}
		did, err := os.ReadFile(called)
		if ends := string(did) == "destroy fw\n"; ends != tt.ends || !ends && !os.IsNotExist(err) {
			t.Errorf("an xl that %s: after it xl is called with %q, %v; want the guest ended: %t", tt.name, did, err, tt.ends)
		}
	}
}

// TestStopUnknown: where it cannot be found out whether a guest has ended it is not said to have.
func TestStopUnknown(t *testing.T) {
	bin, guests, place := t.TempDir(), t.TempDir(), filepath.Join(t.TempDir(), "running")
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	t.Setenv("REMPART_GUESTS", guests)
	script := func(text string) {
		if err := os.WriteFile(filepath.Join(bin, "xl"), []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	g, err := home.Home{Dir: guests}.Create(t.Context(), home.Description{Name: "fw", Store: "/masters",
		Master: strings.Repeat("a", 64), Accel: hypervisor.TCG, Firmware: hypervisor.BIOS, DiskFormat: hypervisor.Raw,
		Xen: &home.Xen{Mode: xen.PV, Loader: xen.Direct}}, false)
	if err != nil {
		t.Fatal(err)
	}
	defer g.Unlock()
	r, err := running.Register(place, "fw")
	if err == nil {
		err = errors.Join(g.Save(), r.Announce(running.Info{Xen: true}), g.Runs(place))
	}
	if err != nil {
		t.Fatal(err)
	}
	found, err := running.Open(place, "fw")
	if err != nil {
		t.Fatal(err)
	}

	script("echo 'no xenstored' >&2; exit 1")
	if how, err := stopXen(t.Context(), found, time.Minute); err == nil || !strings.Contains(err.Error(), "no xenstored") {
		t.Errorf("stopXen where xl fails = %q, %v; want what it says", how, err)
	}
	// The locks of what runs cannot be asked for: their folder is none.
	script(`case "$1" in list) echo '[]';; *) exit 1;; esac`)
	if err := errors.Join(r.Leave(), os.RemoveAll(place), os.WriteFile(place, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	if how, err := stopXen(t.Context(), found, time.Minute); !errors.Is(err, unix.ENOTDIR) {
		t.Errorf("stopXen where the locks cannot be asked for = %q, %v; want %v", how, err, unix.ENOTDIR)
	}
	script("exec sleep 600") // until it is ended
	if err := awaitXen(t.Context(), found); !errors.Is(err, unix.ENOTDIR) {
		t.Errorf("awaitXen where the locks cannot be asked for = %v; want %v", err, unix.ENOTDIR)
	}
	if end, killed := g.LastEnd(); end != nil || !killed {
		t.Errorf("LastEnd = %+v, %v; want none written down", end, killed)
	}
}
