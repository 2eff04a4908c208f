package home

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"rempart/builder/guest/running"
	"rempart/builder/hypervisor"
	"rempart/firstboot/contract"
	"rempart/profiles"
)

// raw makes an image, sparse, with a few bytes.
func raw(t *testing.T, path string, size, at int64, bytes string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte(bytes), at); err != nil {
		t.Fatal(err)
	}
}

func run(t *testing.T, words ...string) {
	t.Helper()
	if out, err := exec.Command(words[0], words[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%q: %v\n%s", words, err, out)
	}
}

func ext4Disk(t *testing.T, path string, size int64, label string) {
	t.Helper()
	raw(t, path, size, 0, "")
	run(t, "/sbin/mke2fs", "-q", "-F", "-t", "ext4", "-L", label, path)
}

// TestDataFindings: before a guest starts it is said which data disks it will not find or not use, and why; and none of
// them is written to.
func TestDataFindings(t *testing.T) {
	const size = 32 << 20
	for name, c := range map[string]struct {
		make     func(path string)
		disk     profiles.Disk
		readOnly bool
		format   hypervisor.Format
		runs     bool
		want     string // empty: there is nothing to say
		fatal    bool
	}{
		"blank": {make: func(p string) { raw(t, p, size, 0, "") }},
		"blank, keep": {make: func(p string) { raw(t, p, size, 0, "") }, disk: profiles.Disk{ReadOnly: true},
			want: "it is blank", fatal: true},
		"tiny": {make: func(p string) { raw(t, p, contract.LeastDisk-1, 0, "") }, want: "at least 16777216 are needed",
			fatal: true},
		"interrupted": {make: func(p string) { raw(t, p, size, size-contract.BlankWindow, contract.FormatMark) }},
		"ext4":        {make: func(p string) { ext4Disk(t, p, size, "hers") }},
		"state disk": {make: func(p string) { ext4Disk(t, p, size, contract.StateLabel) },
			want: "as the state disk of a guest has: the guest leaves it alone", fatal: true},
		"another's": {make: func(p string) { ext4Disk(t, p, size, "other") }, want: "as data disk other has", fatal: true},
		"cut off": {make: func(p string) {
			ext4Disk(t, p, size, "")
			run(t, "truncate", "-s", "16M", p)
		}, want: "it was made smaller", fatal: true},
		"damaged": {make: func(p string) {
			ext4Disk(t, p, size, "")
			f, err := os.OpenFile(p, os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if _, err := f.WriteAt([]byte("\x55"), 1024+0x2c); err != nil { // a time that its checksum knows nothing of
				t.Fatal(err)
			}
		}, want: "run e2fsck on it", fatal: true},
		"foreign": {make: func(p string) { raw(t, p, size, 0, "LUKS\xba\xbe") }, want: "the guest leaves it alone",
			fatal: true},
		"foreign, optional": {make: func(p string) { raw(t, p, size, 0, "LUKS\xba\xbe") },
			disk: profiles.Disk{Optional: true}, want: "the guest leaves it alone"},
		"foreign, while it runs": {make: func(p string) { raw(t, p, size, 0, "LUKS\xba\xbe") }, runs: true},
		"at its end": {make: func(p string) { raw(t, p, size, size-1, "x") }, want: "the guest leaves it alone",
			fatal: true},
		"gone": {make: func(string) {}, want: "put it back, or detach it: rempart set fw --no-data d",
			fatal: true},
		"no disk": {make: func(p string) {
			if err := os.Mkdir(p, 0o700); err != nil {
				t.Fatal(err)
			}
		}, want: "cannot be read: ", fatal: true},
		"read-only": {make: func(p string) { raw(t, p, size, 0, "") }, readOnly: true, want: "it is attached read-only",
			fatal: true},
		"qcow2": {make: func(p string) { run(t, "qemu-img", "create", "-q", "-f", "qcow2", p, "32M") },
			format: hypervisor.QCOW2},
		"raw, said to be qcow2": {make: func(p string) { raw(t, p, size, 0, "") }, format: hypervisor.QCOW2,
			want: "not of the format it was taken for", fatal: true},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "d.raw")
			c.make(path)
			before, _ := os.ReadFile(path)
			g := &Guest{Description: description("fw")}
			format := c.format
			if format == "" {
				format = hypervisor.Raw
			}
			g.Data = []Data{{Name: "d", Path: path, Format: format, ReadOnly: c.readOnly}}
			c.disk.Name, c.disk.Mount = "d", "/srv/d"
			p := &profiles.Profile{Disks: []profiles.Disk{c.disk, {Name: "other", Mount: "/srv/other", Optional: true}}}
			all, err := g.DataFindings(t.Context(), p, c.runs)
			if err != nil {
				t.Fatal(err)
			}
			last := all[len(all)-1]
			if last.Disk != "other" || last.Fatal || !strings.Contains(last.What, "rempart set fw --data other=FILE") {
				t.Errorf("of the disk that is not attached it says %+v", last)
			}
			all = all[:len(all)-1]
			switch {
			case c.want == "" && len(all) > 0:
				t.Errorf("it says %v; want nothing", all)
			case c.want != "" && (len(all) != 1 || !strings.Contains(all[0].String(), "data disk d: ") ||
				!strings.Contains(all[0].What, c.want) || all[0].Fatal != c.fatal):
				t.Errorf("it says %+v; want %q, fatal %v", all, c.want, c.fatal)
			}
			if after, _ := os.ReadFile(path); !bytes.Equal(before, after) {
				t.Error("the disk was written to")
			}
		})
	}
}

// TestUndeclaredData: a disk that no profile declares is told of, unless the master is another system's; and one that
// is attached by two names is found however it is named.
func TestUndeclaredData(t *testing.T) {
	dir := t.TempDir()
	path, link := filepath.Join(dir, "d.raw"), filepath.Join(dir, "link")
	raw(t, path, 1<<20, 0, "")
	if err := os.Link(path, link); err != nil {
		t.Fatal(err)
	}
	g := &Guest{Description: description("fw")}
	g.Data = []Data{{Name: "d", Path: path, Format: hypervisor.Raw}}
	all, err := g.DataFindings(t.Context(), &profiles.Profile{}, false)
	if err != nil || len(all) != 1 || all[0].Fatal || !strings.Contains(all[0].What, "disks: {d: /srv/d}") {
		t.Errorf("of an undeclared disk it says %+v, %v; want that, and how to declare it", all, err)
	}
	if all, err := g.DataFindings(t.Context(), nil, false); err != nil || len(all) != 0 {
		t.Errorf("of another system's disk it says %+v, %v; want nothing", all, err)
	}
	g.Data = append(g.Data, Data{Name: "e", Path: link, Format: hypervisor.Raw})
	all, err = g.DataFindings(t.Context(), nil, false)
	if err != nil || len(all) != 1 || !all[0].Fatal || !strings.Contains(all[0].What, "is data disk d too") {
		t.Errorf("of one disk by two names it says %+v, %v; want so", all, err)
	}
}

// TestDataInUse: a guest is not given a data disk that another writes to while that runs, nor may it write to what
// another reads.
func TestDataInUse(t *testing.T) {
	h := Home{Dir: filepath.Join(t.TempDir(), "guests")}
	shared := filepath.Join(t.TempDir(), "shared.raw")
	raw(t, shared, 1<<20, 0, "")
	var guests []*Guest
	for _, name := range []string{"fw", "other"} {
		makeGuest(t, h, name)
		g, err := h.Lock(name, "a test")
		if err != nil {
			t.Fatal(err)
		}
		defer g.Unlock()
		g.Data = []Data{{Name: "d", Path: shared, Format: hypervisor.Raw}}
		if err := g.Save(); err != nil {
			t.Fatal(err)
		}
		guests = append(guests, g)
	}
	fw, other := guests[0], guests[1]
	if err := fw.unusedData(); err != nil {
		t.Errorf("while the other does not run: %v", err)
	}
	place := t.TempDir()
	r, err := running.Register(place, "other")
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Announce(running.Info{Master: "/m"}); err != nil {
		t.Fatal(err)
	}
	if err := other.Runs(place); err != nil {
		t.Fatal(err)
	}
	if err := fw.unusedData(); err == nil || !strings.Contains(err.Error(), "data disk d is in use by guest other") {
		t.Errorf("while the other runs: %v; want it refused", err)
	}
	other.Data[0].ReadOnly = true
	if err := other.Save(); err != nil {
		t.Fatal(err)
	}
	if err := fw.unusedData(); err == nil {
		t.Error("it may write to what the other reads")
	}
	fw.Data[0].ReadOnly = true
	if err := fw.unusedData(); err != nil {
		t.Errorf("while both only read: %v", err)
	}
	if err := r.Forget(); err != nil {
		t.Fatal(err)
	}
}

// TestDataOfAnotherProgram: a QEMU that nobody here knows has the disk.
func TestDataOfAnotherProgram(t *testing.T) {
	h := Home{Dir: filepath.Join(t.TempDir(), "guests")}
	g := lockedGuest(t, h)
	path := filepath.Join(t.TempDir(), "d.raw")
	raw(t, path, 1<<20, 0, "")
	g.Data = []Data{{Name: "d", Path: path, Format: hypervisor.Raw}}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	// The byte that a QEMU holds which writes; see qemu.Writes.
	l := unix.Flock_t{Type: unix.F_RDLCK, Start: 101, Len: 1}
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &l); err != nil {
		t.Fatal(err)
	}
	if err := g.unusedData(); err == nil || !strings.Contains(err.Error(), "open for writing; stop that first") {
		t.Errorf("while another program writes to it: %v; want it refused", err)
	}
	if err := g.Ensure(t.Context()); err == nil || !strings.Contains(err.Error(), "open for writing") {
		t.Errorf("Ensure = %v; want the guest not to start with it", err)
	}
}
