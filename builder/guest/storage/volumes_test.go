package storage

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"rempart/builder/guest/lvm"
)

// reported are volumes whose lvm2 reports what the files vgs and lvs of a folder hold, and does nothing.
func reported(t *testing.T, pool string, free int64, lines ...string) Volumes {
	t.Helper()
	dir := t.TempDir()
	text := fmt.Sprintf("#!/bin/sh\ncat %s/$1 2>/dev/null\nexit 0\n", dir)
	var lvs []string
	for _, l := range lines {
		f := strings.Fields(l) // name, size, attributes, "open"
		lvs = append(lvs, fmt.Sprintf(`{"lv_name":%q,"lv_size":%q,"lv_attr":%q,"lv_active":%q,"lv_device_open":%q,`+
			`"origin":%q,"data_percent":%q,"pool_lv":%q}`, f[0], f[1], f[2], word(f, "active"), word(f, "open"),
			value(f, "origin="), value(f, "used="), value(f, "in=")))
	}
	for name, content := range map[string]string{"lvm": text,
		"vgs": fmt.Sprintf(`{"report":[{"vg":[{"vg_name":"vg0","vg_extent_size":"4194304","vg_free":"%d"}]}]}`, free),
		"lvs": `{"report":[{"lv":[` + strings.Join(lvs, ",") + `]}]}`} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return Volumes{Files: Files{Dir: dir}, Tools: lvm.Tools{Program: filepath.Join(dir, "lvm")}, Group: "vg0", Pool: pool,
		Guest: "fw"}
}

func word(fields []string, want string) string {
	for _, f := range fields {
		if f == want {
			return f
		}
	}
	return ""
}

func value(fields []string, prefix string) string {
	for _, f := range fields {
		if v, ok := strings.CutPrefix(f, prefix); ok {
			return v
		}
	}
	return ""
}

// TestCheck: what is in the way is said before anything begins, with the command that mends it.
func TestCheck(t *testing.T) {
	const good = "fw_var 8388608 -wi-a----- active"
	for _, tt := range []struct {
		name, pool string
		free       int64
		lines      []string
		runs       bool
		want       []string // none: nothing is in the way
	}{
		{"good", "", 64 << 20, []string{good}, false, nil},
		{"runs", "", 64 << 20, []string{good + " open"}, true, nil},
		{"somebody has it open", "", 64 << 20, []string{good + " open"}, false, []string{"vg0/fw_var is in use", "lsof"}},
		{"no room, and read-only", "", 4 << 20, []string{"fw_var 8388608 -ri-a----- active"}, false,
			[]string{"4194304 bytes left, and 8388608 are needed", "vgextend", "rempart quarantine prune fw",
				"lvchange --permission rw vg0/fw_var"}},
		{"inactive", "", 64 << 20, []string{"fw_var 8388608 -wi-------"}, false,
			[]string{"lvchange --activate y vg0/fw_var"}},
		{"good pool", "pool", 0, []string{"pool 83886080 twi-aotz-- active used=10"}, false, nil},
		{"full pool", "pool", 0, []string{"pool 83886080 twi-aotz-- active used=95.5"}, false,
			[]string{"full to 96 %", "lvextend --size +SIZE vg0/pool"}},
		{"pool that leaves what was there", "pool", 0, []string{"pool 83886080 twi-aot--- active"}, false,
			[]string{"lvchange --zero y vg0/pool"}},
		{"no pool", "pool", 0, []string{"pool 83886080 -wi-a----- active"}, false, []string{"lvcreate --type thin-pool"}},
		{"no such pool", "pool", 0, nil, false, []string{"lvcreate --type thin-pool"}},
	} {
		err := reported(t, tt.pool, tt.free, tt.lines...).Check(t.Context(), 5<<20, tt.runs)
		if len(tt.want) == 0 && err != nil {
			t.Errorf("%s: Check = %v; want nothing", tt.name, err)
		}
		for _, want := range tt.want {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: Check = %v; want %q", tt.name, err, want)
			}
		}
	}
}

// TestSealed: a system disk that can be written to is told, and so is which disks are in use.
func TestSealed(t *testing.T) {
	const state = "fw_var 8388608 -wi-ao---- active open"
	for _, tt := range []struct {
		system, want string // of the error; empty: none
		root         bool
		open         int
	}{
		{"fw_root 8388608 sri-a-s--- active", "", true, 1},
		{"fw_root 8388608 Vri-aotz-k active open", "", true, 2},
		{"fw_root 8388608 swi-a-s--- active", "lvchange --permission r vg0/fw_root", true, 1},
		{"fw_root 8388608 swi-a-s--- active", "", false, 1}, // nobody's
		{"other 8388608 -wi-ao---- active open", "", true, 1},
	} {
		v := reported(t, "", 0, state, tt.system)
		v.Root = tt.root
		err := v.Sealed(t.Context())
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("Sealed with %s = %v; want %q", tt.system, err, tt.want)
		}
		if open, err := v.Open(t.Context()); err != nil || len(open) != tt.open || open[0] != "/dev/vg0/fw_var" {
			t.Errorf("Open with %s = %q, %v; want %d", tt.system, open, err, tt.open)
		}
	}
}

// TestNobodyElses: what removing a volume would take with it, or pull from under somebody, stays.
func TestNobodyElses(t *testing.T) {
	v := reported(t, "", 0, "fw_var.0001 8388608 owi-a-s--- active", "mine 4194304 swi-a-s--- active origin=fw_var.0001",
		"fw_var.new 8388608 -wi-ao---- active open")
	aside := Disk{Kind: State, Place: Aside, Entry: "0001"}
	if err := v.Remove(t.Context(), aside); err == nil || !strings.Contains(err.Error(), "lvremove vg0/mine") {
		t.Errorf("Remove of one with a snapshot = %v; want it to stay, and what is to be removed first", err)
	}
	if err := v.Clear(t.Context()); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("Clear of one that is open = %v; want it to stay", err)
	}
	if err := v.Move(t.Context(), aside, Disk{Kind: State, Place: Next}); err == nil {
		t.Error("Move over another = nil; want an error")
	}
	if err := v.Move(t.Context(), Disk{Kind: State}, aside); err != nil {
		t.Errorf("Move of one that was moved already = %v; want nothing", err)
	}
}

// TestSnapshotsOfOthers: a snapshot with room of its own goes with a thin origin too, and only one in the pool does
// not.
func TestSnapshotsOfOthers(t *testing.T) {
	const origin = "fw_var.0001 8388608 Vwi-a-tz-- active in=pool"
	aside := Disk{Kind: State, Place: Aside, Entry: "0001"}
	v := reported(t, "pool", 0, origin, "mine 4194304 swi-a-s--- active origin=fw_var.0001")
	if err := v.Remove(t.Context(), aside); err == nil || !strings.Contains(err.Error(), "lvremove vg0/mine") {
		t.Errorf("Remove of a thin volume with a thick snapshot = %v; want it to stay", err)
	}
	v = reported(t, "pool", 0, origin, "mine 8388608 Vwi-a-tz-- active in=pool origin=fw_var.0001")
	if err := v.Remove(t.Context(), aside); err != nil {
		t.Errorf("Remove of a thin volume with a thin snapshot = %v; want it done", err)
	}
	v = reported(t, "", 0, "fw_var.0001 8388608 ori------- active",
		"mine 8388608 Vwi-a-tz-- active in=pool origin=fw_var.0001")
	if err := v.Remove(t.Context(), aside); err == nil || !strings.Contains(err.Error(), "lvremove vg0/mine") {
		t.Errorf("Remove of a thin volume's external origin = %v; want it to stay", err)
	}
}

// TestOwn: which volumes are this guest's, by their names.
func TestOwn(t *testing.T) {
	v := reported(t, "", 0, "fw_var 1 ----------", "fw_var.0001 1 ----------", "fw_var.failed-0002 1 ----------",
		"fw_var.new 1 ----------", "fw_var.snap 1 ----------", "fw_var2 1 ----------", "fw_var.mine 1 ----------",
		"fw_var.00011 1 ----------", "afw_var 1 ----------", "fwxvar 1 ----------")
	got, err := v.own(t.Context())
	want := "[fw_var.snap fw_var fw_var.0001 fw_var.failed-0002 fw_var.new]"
	if err != nil || fmt.Sprint(got) != want {
		t.Errorf("own = %v, %v; want %s", got, err, want)
	}
	if size, err := v.Size(t.Context(), 4<<20+1); err != nil || size != 8<<20 {
		t.Errorf("Size of 4 MiB and a byte = %d, %v; want two extents", size, err)
	}
}

func TestCheckVolumes(t *testing.T) {
	for where, want := range map[string]string{"vg0": "", "vg0/pool": "", "vg0/": "no name", "": "no name",
		"a/b/c": "no name", "/dev/vg0": "no name"} {
		err := CheckVolumes(where, "fw")
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("CheckVolumes(%q) = %v; want %q", where, err, want)
		}
	}
	if err := CheckVolumes("vg0", "snapshots"); err == nil {
		t.Error("CheckVolumes of a guest whose volumes LVM refuses = nil; want an error")
	}
}
