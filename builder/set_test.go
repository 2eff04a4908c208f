package main

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"rempart/builder/guest/home"
	"rempart/builder/hypervisor"
)

// TestSet lays options on a description: what is named changes, all else stays, and what is wrong is told.
func TestSet(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{"a.raw": "raw", "b.qcow2": qcow2Magic + "rest"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(strings.Repeat(content, 64)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	a, b := filepath.Join(dir, "a.raw"), filepath.Join(dir, "b.qcow2")
	before := func() home.Description {
		return home.Description{Memory: 1 << 27, Firmware: hypervisor.BIOS, Accel: hypervisor.Auto,
			Nets: map[string]string{"lan": "none"}, Keep: []string{"log/rempart"},
			Data: []home.Data{{Name: "www", Path: a, Format: hypervisor.Raw}}}
	}
	for _, c := range []struct {
		args string
		want func(d *home.Description) // nil: refused with what follows
		says string
	}{
		{"--memory 256M", func(d *home.Description) { d.Memory = 256 << 20 }, ""},
		{"--memory profile --cpus 4", func(d *home.Description) { d.Memory, d.VCPUs = 0, 4 }, ""},
		{"--firmware uefi --accel tcg", func(d *home.Description) {
			d.Firmware, d.Accel = hypervisor.UEFI, hypervisor.TCG
		}, ""},
		{"--net wan=user --net lan=tap:t0", func(d *home.Description) {
			d.Nets = map[string]string{"lan": "tap:t0", "wan": "user"}
		}, ""},
		{"--data www=" + b + ",ro --data more=" + a, func(d *home.Description) {
			d.Data = []home.Data{{Name: "www", Path: b, Format: hypervisor.QCOW2, ReadOnly: true},
				{Name: "more", Path: a, Format: hypervisor.Raw}}
		}, ""},
		{"--no-data www", func(d *home.Description) { d.Data = []home.Data{} }, ""},
		{"--keep /var/log/rempart --keep /var/lib/rempart/dhcp", func(d *home.Description) {
			d.Keep = append(d.Keep, "lib/rempart/dhcp")
		}, ""},
		{"--no-keep /var/log/rempart", func(d *home.Description) { d.Keep = []string{} }, ""},
		{"--cpus 0", nil, "want 1 to 64"},
		{"--memory much", nil, "--memory"},
		{"--firmware coreboot", nil, "want one of"},
		{"--accel warp", nil, "want auto"},
		{"--net lan", nil, "want LINK=WHAT"},
		{"--data x=" + dir + "/none", nil, "no such file"},
		{"--no-data x", nil, "no data disk of that name"},
		{"--keep /etc", nil, "--keep"},
		{"--no-keep /var/tmp", nil, "it is not kept"},
	} {
		flags := pflag.NewFlagSet("set", pflag.ContinueOnError)
		s := newSetting(flags)
		if err := flags.Parse(strings.Fields(c.args)); err != nil {
			t.Fatal(err)
		}
		got, untouched := before(), before()
		kept := got
		err := s.change(&got)
		if c.want == nil {
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("set %s = %v; want it refused with %q", c.args, err, c.says)
			}
			continue
		}
		want := before()
		c.want(&want)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("set %s = %+v, %v; want %+v", c.args, got, err, want)
		}
		if !reflect.DeepEqual(kept, untouched) {
			t.Errorf("set %s changed what was there before: %+v", c.args, kept)
		}
	}
}

// TestSetElsewhere: what was changed is told, also of a guest that another program than rempart runs.
func TestSetElsewhere(t *testing.T) {
	makeForeign(t)
	g, err := openCreated("web")
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(g.StateDisk(), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	// The byte that a QEMU holds which writes; see qemu.Writes.
	l := unix.Flock_t{Type: unix.F_RDLCK, Start: 101, Len: 1}
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &l); err != nil {
		t.Fatal(err)
	}
	code, out, errs := rempart("set", "web", "--memory", "256M")
	if code != exitFailed || !strings.Contains(out, "-> 256 MiB") || !strings.Contains(errs, "open for writing") {
		t.Errorf("set = %d, %q, %q; want the change told, and who has its disk", code, out, errs)
	}
}
