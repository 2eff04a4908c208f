package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

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
