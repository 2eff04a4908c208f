package main

import (
	"path/filepath"
	"testing"

	"rempart/builder/guest/home"
)

// TestProofSettings: what is proven is the master in question, and nothing of the guest that lasts is written.
func TestProofSettings(t *testing.T) {
	g := &home.Guest{Dir: "/guests/fw", Description: home.Description{Name: "fw", Volumes: "vg0", Root: true,
		State: 1 << 26, Data: []home.Data{{Name: "own", Path: "/own.raw"}}}}
	if s := g.Settings(); s.System != "/dev/vg0/fw_root" || s.State != "/dev/vg0/fw_var" || len(s.Data) != 1 {
		t.Fatalf("Settings = %+v; want its volumes and its data disk", s)
	}
	s := proofSettings(g, "/work")
	if s.System != "" || s.State != "" || len(s.Data) != 0 || !s.RebootEnds ||
		s.Identity != filepath.Join("/work", filepath.Base(g.Identity())) {
		t.Errorf("proofSettings = %+v; want the master's own system disk, no state, no data disks, and another identity disk",
			s)
	}
}
