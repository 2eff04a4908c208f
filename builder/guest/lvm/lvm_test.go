package lvm

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

var update = flag.Bool("update", false, "write the golden files anew")

// tools are a program that writes down how it was called, and reports what it finds in files of the folder.
func tools(t *testing.T) (Tools, string) {
	t.Helper()
	dir := t.TempDir()
	program := filepath.Join(dir, "lvm")
	text := fmt.Sprintf("#!/bin/sh\ncd %s || exit 9\nfor a; do printf '%%s ' \"$a\"; done >>called\necho >>called\n"+
		"[ ! -e fails ] || { cat fails >&2; exit 5; }\n[ ! -e \"$1\" ] || cat \"$1\"\n", dir)
	if err := os.WriteFile(program, []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	return Tools{Program: program}, dir
}

func give(t *testing.T, dir, name, content string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// What lvm 2.03.16 reports.
const (
	groupReport = `{"report": [{"vg": [{"vg_name":"vg0", "vg_extent_size":"4194304", "vg_free":"1069547520"}]}]}`
	twoVolumes  = `{"report": [{"lv": [
		{"lv_name":"fw_var", "lv_size":"8388608", "lv_attr":"-wi-ao----", "pool_lv":"", "origin":"",
			"lv_active":"active", "lv_device_open":"open", "data_percent":""},
		{"lv_name":"pool", "lv_size":"83886080", "lv_attr":"twi-aotz--", "pool_lv":"", "origin":"",
			"lv_active":"active", "lv_device_open":"open", "data_percent":"12.50"},
		{"lv_name":"fw_var.snap", "lv_size":"8388608", "lv_attr":"Vri---tz-k", "pool_lv":"pool", "origin":"fw_var",
			"lv_active":"", "lv_device_open":"", "data_percent":""},
		{"lv_name":"lost", "lv_size":"4194304", "lv_attr":"sri-I-s---", "pool_lv":"", "origin":"fw_var",
			"lv_active":"active", "lv_device_open":"", "data_percent":"100.00"}]}]}`
)

// TestArgs: how each command is called.
func TestArgs(t *testing.T) {
	l, dir := tools(t)
	give(t, dir, "lvs", twoVolumes)
	give(t, dir, "vgs", groupReport)
	ctx := t.Context()
	_, err := l.Group(ctx, "vg0")
	if err := errors.Join(err, l.Create(ctx, "vg0", "fw_var", 8<<20),
		l.CreateThin(ctx, "vg0", "pool", "fw_var", 8<<20),
		l.Snapshot(ctx, "vg0", "fw_var", "fw_var.snap", 4<<20, true),
		l.SnapshotThin(ctx, "vg0", "fw_var", "fw_var.snap", false), l.Rename(ctx, "vg0", "fw_var.new", "fw_var"),
		l.Extend(ctx, "vg0", "fw_var", 8<<20), l.SetReadOnly(ctx, "vg0", "master"),
		l.Remove(ctx, "vg0", "fw_var.0001")); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(dir, "called"))
	if err != nil {
		t.Fatal(err)
	}
	golden := filepath.Join("testdata", "called")
	if *update {
		if err := errors.Join(os.MkdirAll("testdata", 0o755), os.WriteFile(golden, got, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	if want, err := os.ReadFile(golden); err != nil || !bytes.Equal(got, want) {
		t.Errorf("lvm was called\n%s\nwant, %v,\n%s", got, err, want)
	}
}

// TestReadBack: a volume that is not as it was asked for is an error.
func TestReadBack(t *testing.T) {
	l, dir := tools(t)
	give(t, dir, "lvs", twoVolumes)
	for what, err := range map[string]error{
		"12582912": l.Create(t.Context(), "vg0", "fw_var", 12<<20),
		"there: false": l.CreateThin(t.Context(), "vg0", "pool",
			"other", 8<<20),
		"16777216": l.Extend(t.Context(), "vg0", "fw_var", 16<<20),
	} {
		if err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("a volume that is another = %v; want an error with %s", err, what)
		}
	}
}

func TestReports(t *testing.T) {
	l, dir := tools(t)
	give(t, dir, "lvs", twoVolumes)
	give(t, dir, "vgs", groupReport)
	all, err := l.Volumes(t.Context(), "vg0")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []Volume{
		{Name: "fw_var", Size: 8 << 20, Active: true, Open: true},
		{Name: "pool", Size: 80 << 20, Active: true, Open: true, IsPool: true, Zero: true, Used: 12.5},
		{Name: "fw_var.snap", Size: 8 << 20, Pool: "pool", Origin: "fw_var", Zero: true, ReadOnly: true},
		{Name: "lost", Size: 4 << 20, Origin: "fw_var", Active: true, ReadOnly: true, Invalid: true, Used: 100},
	} {
		if got := all[want.Name]; got != want {
			t.Errorf("Volumes[%s] = %+v; want %+v", want.Name, got, want)
		}
	}
	if g, err := l.Group(t.Context(), "vg0"); err != nil || g != (Group{"vg0", 4 << 20, 1069547520}) {
		t.Errorf("Group = %+v, %v; want what is reported", g, err)
	}
	if _, err := l.Group(t.Context(), "vg1"); !errors.Is(err, ErrReport) {
		t.Errorf("Group of another = %v; want %v", err, ErrReport)
	}
	for _, bad := range []string{"", "{", `{"report":[{"lv":[{"lv_name":"a","lv_size":"1.5","lv_attr":"-wi-ao----"}]}]}`,
		`{"report":[{"lv":[{"lv_name":"a","lv_size":"-1","lv_attr":"-wi-ao----"}]}]}`,
		`{"report":[{"lv":[{"lv_name":"a","lv_size":"1","lv_attr":"-wi"}]}]}`,
		`{"report":[{"lv":[{"lv_name":"a","lv_size":"1","lv_attr":"-wi-ao----","data_percent":"NaN"}]}]}`} {
		if _, err := parseVolumes([]byte(bad)); !errors.Is(err, ErrReport) {
			t.Errorf("parseVolumes(%q) = %v; want %v", bad, err, ErrReport)
		}
	}
}

func FuzzReports(f *testing.F) {
	f.Add([]byte(twoVolumes))
	f.Add([]byte(groupReport))
	f.Fuzz(func(t *testing.T, b []byte) {
		all, err := parseVolumes(b)
		for name, v := range all {
			if err != nil || name == "" || v.Size < 0 || !(v.Used >= 0 && v.Used <= 100) {
				t.Errorf("parseVolumes took %+v, %v", v, err)
			}
		}
		if g, err := parseGroup(b, "vg0"); err == nil && (g.Extent <= 0 || g.Free < 0) {
			t.Errorf("parseGroup took %+v", g)
		}
	})
}

// TestFailure: what lvm complains about is in the error, and that it is not there says what to do.
func TestFailure(t *testing.T) {
	l, dir := tools(t)
	give(t, dir, "fails", "  Volume group \"vg0\" not found\n  Cannot process volume group vg0\n")
	if _, err := l.Group(t.Context(), "vg0"); err == nil ||
		!strings.Contains(err.Error(), `Volume group "vg0" not found Cannot process`) {
		t.Errorf("Group that fails = %v; want what was complained about, in a line", err)
	}
	give(t, dir, "fails", "\n")
	if _, err := l.Group(t.Context(), "vg0"); err == nil || !strings.HasSuffix(err.Error(), "exit status 5") {
		t.Errorf("Group that fails without a word = %v; want its status, and nothing behind it", err)
	}
	t.Setenv("PATH", t.TempDir())
	if _, err := (Tools{}).Volumes(t.Context(), "vg0"); !errors.Is(err, ErrMissing) {
		t.Errorf("Volumes without lvm2 = %v; want %v", err, ErrMissing)
	}
}

// TestLock: a command holds the lock it is given until its own end, whatever becomes of who started it.
func TestLock(t *testing.T) {
	dir := t.TempDir()
	pipe := filepath.Join(dir, "pipe")
	lock, err := os.Create(filepath.Join(dir, "lock"))
	if err == nil {
		err = errors.Join(unix.Mkfifo(pipe, 0o600), unix.Flock(int(lock.Fd()), unix.LOCK_EX))
	}
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	fd := int(lock.Fd())
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	program := filepath.Join(dir, "lvm")
	text := fmt.Sprintf("#!/bin/sh\necho begun >%s\nread end <%[1]s\n", pipe)
	if err := os.WriteFile(program, []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- Tools{Program: program, Lock: lock}.Rename(t.Context(), "vg0", "a", "b") }()
	if b, err := os.ReadFile(pipe); err != nil || string(b) != "begun\n" {
		t.Fatalf("the command says %q, %v", b, err)
	}
	// As the end of this process would close it; the number stays, for the sake of the file above.
	if err := unix.Dup3(int(null.Fd()), fd, unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	again, err := os.Open(lock.Name())
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if err := unix.Flock(int(again.Fd()), unix.LOCK_EX|unix.LOCK_NB); !errors.Is(err, unix.EWOULDBLOCK) {
		t.Errorf("while the command runs the lock can be taken: %v", err)
	}
	if err := os.WriteFile(pipe, []byte("end\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Errorf("Rename = %v", err)
	}
	if err := unix.Flock(int(again.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		t.Errorf("after the command's end the lock cannot be taken: %v", err)
	}
}

func TestNames(t *testing.T) {
	long := strings.Repeat("g", 102)
	for _, tt := range []struct {
		group, name, want string // of the error; empty: none
	}{
		{"vg0", "fw_var", ""},
		{"vg-0", "fw-1_var.failed-0001", ""},
		{"", "fw_var", "no name of LVM"},
		{"-vg", "fw_var", "no name of LVM"},
		{"..", "fw_var", "no name of LVM"},
		{"vg/0", "fw_var", "no name of LVM"},
		{"vg0", "snapshot-1_var", "keeps names"},
		{"vg0", "pvmove_var", "keeps names"},
		{long, "fw_var.failed-0001", "128 bytes"},
		{long[:101], "fw_var.failed-0001", ""},
		{"vg0", "a" + strings.Repeat("-", 63), "137 bytes"},
	} {
		err := CheckName(tt.group, tt.name)
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("CheckName(%q, %q) = %v; want %q", tt.group, tt.name, err, tt.want)
		}
	}
}
