package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"rempart/builder/disk"
	"rempart/builder/disk/qcow2"
	"rempart/builder/guest"
	"rempart/builder/guest/home"
	"rempart/builder/guest/running"
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
		}, nil, func(done, total int64) {})
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

// TestLookAtSystem: a packed system disk is the master's when its file is, or when what is in it is; nothing else.
func TestLookAtSystem(t *testing.T) {
	const size = 1 << 20
	content := bytes.Repeat([]byte("a master's byte "), size/16)
	other := bytes.Clone(content)
	other[70_000] ^= 1
	d := master.Disk{Size: size, Regions: []master.Region{{Name: "all", Length: size}}}
	if err := d.Fill(t.Context(), bytes.NewReader(content), 4096); err != nil {
		t.Fatal(err)
	}
	file := packed(t, content, qcow2.Options{})
	sum := sha256.Sum256(file)
	m := &guest.Master{Manifest: &master.Manifest{Disk: d, Outputs: []master.Output{{Name: master.Qcow2File,
		Size: int64(len(file)), SHA256: hex.EncodeToString(sum[:])}}}}
	for name, c := range map[string]struct {
		file        []byte
		clean, read bool
	}{
		"as it was written":         {file, true, true},
		"packed in another way":     {packed(t, content, qcow2.Options{Compression: qcow2.Zstd}), true, true},
		"another byte in it":        {packed(t, other, qcow2.Options{}), false, true},
		"a byte behind the file":    {append(bytes.Clone(file), 1), true, true},
		"the beginning of the file": {file[:len(file)/2], false, false}, // what cannot be unpacked is told as an error
	} {
		m.Dir = t.TempDir()
		path := filepath.Join(m.Dir, master.Qcow2File)
		if err := os.WriteFile(path, c.file, 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := lookAtSystem(t.Context(), hypervisor.Disk{Path: path, Format: hypervisor.QCOW2}, m)
		if c.read && (err != nil || got.IsClean() != c.clean || got.Size != size) ||
			!c.read && err == nil && got.IsClean() {
			t.Errorf("%s: lookAtSystem = %+v, %v; want it read %v, clean %v", name, got, err, c.read, c.clean)
		}
	}
}

// packed is a qcow2 file.
func packed(t *testing.T, content []byte, o qcow2.Options) []byte {
	t.Helper()
	s := disk.NewSparse(int64(len(content)))
	err := s.Put(0, bytes.NewReader(content), int64(len(content)))
	f, createErr := os.Create(filepath.Join(t.TempDir(), "packed"))
	if err := errors.Join(err, createErr); err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := qcow2.Write(t.Context(), f, s, o); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	return b
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

// TestVerifyDataOfRunning: that data disks are not looked at is said, also where a snapshot shows the state disk.
func TestVerifyDataOfRunning(t *testing.T) {
	guests, place := t.TempDir(), t.TempDir()
	g, err := home.Home{Dir: guests}.Create(t.Context(), home.Description{Name: "fw", Store: "/masters",
		Master: strings.Repeat("a", 64), Accel: hypervisor.TCG, Firmware: hypervisor.BIOS}, false)
	if err != nil {
		t.Fatal(err)
	}
	defer g.Unlock()
	r, err := running.Register(place, "fw")
	if err == nil {
		err = errors.Join(g.Save(), r.Announce(running.Info{Master: "/m"}), g.Runs(place))
	}
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		data []home.Data
		want string
	}{
		"none": {},
		"one":  {[]home.Data{{Name: "d", Path: "/d", Format: hypervisor.Raw}}, "fw runs: its data disks"},
	} {
		var errs bytes.Buffer
		g.Data = c.data
		v := verification{}
		if err := v.dataOf(&console{err: &errs}, g, nil); err != nil || len(v.data) > 0 ||
			!strings.HasPrefix(errs.String(), c.want) || c.want == "" && errs.Len() > 0 {
			t.Errorf("with %s: dataOf = %v, of %d disks, %q; want %q", name, err, len(v.data), errs.String(), c.want)
		}
	}
	if err := r.Forget(); err != nil {
		t.Fatal(err)
	}
}
