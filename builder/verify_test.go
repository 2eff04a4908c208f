package main

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"rempart/builder/guest"
	"rempart/builder/guest/home"
	"rempart/builder/guest/verify"
	"rempart/builder/hypervisor"
	"rempart/builder/master"
)

// TestBackupReleases: a snapshot is ended once, whatever becomes of the file that it is written to.
func TestBackupReleases(t *testing.T) {
	full := errors.New("the snapshot was full")
	for name, dir := range map[string]string{"no folder": filepath.Join(t.TempDir(), "none"), "no disks": t.TempDir()} {
		ended := 0
		file := filepath.Join(dir, "fw.backup")
		_, err := writeBackup(t.Context(), file, &home.Guest{Dir: t.TempDir()}, "/dev/none", func() error {
			ended++
			return full
		}, func(done, total int64) {})
		if err == nil || ended != 1 || strings.Count(err.Error(), full.Error()) != 1 {
			t.Errorf("%s: writeBackup = %v, and the snapshot was ended %d times; want it ended once, and that told", name, err,
				ended)
		}
		if _, err := os.Stat(file); err == nil {
			t.Errorf("%s: there is a backup", name)
		}
	}
}

// TestReleased: what was read of a snapshot that was lost is no difference.
func TestReleased(t *testing.T) {
	full := errors.New("the snapshot was full")
	for _, tt := range []struct {
		found, release error
		want           int
	}{{nil, nil, exitDone}, {errDifferent, nil, exitDifferent}, {nil, full, exitFailed},
		{errDifferent, full, exitFailed}} {
		v := &verification{release: func() error { return tt.release }}
		var errs strings.Builder
		code := report(&console{out: io.Discard, err: &errs}, "verify", v.released(tt.found))
		if code != tt.want || (tt.release != nil) != strings.Contains(errs.String(), full.Error()) {
			t.Errorf("found %v, release %v: exit status %d, %q; want %d", tt.found, tt.release, code, errs.String(), tt.want)
		}
	}
}

// TestSystemDisk: what is compared with the master is what the guest runs from.
func TestSystemDisk(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, master.RawFile), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	m := &guest.Master{Dir: dir, Manifest: &master.Manifest{Outputs: []master.Output{{Name: master.RawFile}}}}
	for _, tt := range []struct {
		d    home.Description
		want string
	}{{home.Description{Name: "fw"}, filepath.Join(dir, master.RawFile)},
		{home.Description{Name: "fw", Volumes: "vg0", Root: true}, "/dev/vg0/fw_root"}} {
		got, err := systemDisk(&home.Guest{Description: tt.d}, m)
		if err != nil || got.Path != tt.want || got.Format != hypervisor.Raw {
			t.Errorf("systemDisk of %+v = %+v, %v; want %s", tt.d, got, err, tt.want)
		}
	}
}

// TestEvidenceWithoutDisks: disks that are gone keep nobody from putting the guest on its master; the report, which
// says so, is the evidence then.
func TestEvidenceWithoutDisks(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "evidence.tar.zst")
	gone := filepath.Join(dir, "gone")
	signed, err := examination{}.evidence(t.Context(), file, &verify.Report{Guest: "fw"},
		hypervisor.Disk{Path: gone, Format: hypervisor.Raw}, gone)
	if err != nil || !strings.HasPrefix(signed, "not signed") {
		t.Errorf("evidence = %q, %v; want it written", signed, err)
	}
	if info, err := os.Stat(file); err != nil || info.Size() == 0 {
		t.Errorf("the evidence is %v, %v; want the report", info, err)
	}
}
