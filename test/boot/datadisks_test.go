package boot

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"rempart/builder/disk/ext4"
	"rempart/builder/guest/verify"
	"rempart/builder/hypervisor"
	"rempart/firstboot/contract"
	"rempart/firstboot/state"
	"rempart/test/rig"
)

// newDataDisks are a blank one, and one with a program that its owner has formatted.
func newDataDisks(t *testing.T) []hypervisor.DataDisk {
	t.Helper()
	dir := t.TempDir()
	tree := filepath.Join(dir, "tree")
	if err := os.Mkdir(tree, 0o755); err != nil {
		t.Fatal(err)
	}
	const program = "#!/usr/bin/sh\necho ran-$((6 * 7))\n"
	if err := os.WriteFile(filepath.Join(tree, "prog"), []byte(program), 0o755); err != nil {
		t.Fatal(err)
	}
	var all []hypervisor.DataDisk
	for _, name := range []string{"tools", "logs"} { // not in the order of the profile
		path := filepath.Join(dir, name+".raw")
		if err := rig.Blank(path, 32<<20); err != nil {
			t.Fatal(err)
		}
		all = append(all, hypervisor.DataDisk{Name: name, Disk: hypervisor.Disk{Path: path, Format: hypervisor.Raw}})
	}
	mke2fs := exec.CommandContext(t.Context(), "/sbin/mke2fs", "-q", "-F", "-t", "ext4", "-d", tree, all[0].Disk.Path)
	if out, err := mke2fs.CombinedOutput(); err != nil {
		t.Fatalf("mke2fs (apt package e2fsprogs): %v\n%s", err, out)
	}
	return all
}

// judgeDataDisks wants each to be found by its name and mounted where the profile says.
func judgeDataDisks(t *testing.T, r contract.Report) {
	t.Helper()
	got := ""
	for _, d := range r.Disks {
		got += fmt.Sprintln(d.Name, d.Mount, d.Action, d.Device != "", d.Bytes > d.Free && d.Free > 0, d.Error)
	}
	want := "logs /srv/logs " + state.Formatted + " true true \ntools /srv/our/tools " + state.Mounted + " true true \n"
	if got != want {
		t.Errorf("the guest reports of its data disks\n%swant\n%s", got, want)
	}
}

// judgeLeftOnData looks, once the guest has ended, at what its people and its log have left on the data disks, and that
// verify names the program that is where none may run.
func judgeLeftOnData(t *testing.T, all []hypervisor.DataDisk) {
	t.Helper()
	for _, d := range all {
		e2fsck(t, d.Disk.Path)
		image, size := openDisk(t, d.Disk.Path)
		found, err := verify.InspectData(t.Context(), d.Name, image, size, d.Name == "tools")
		if err != nil {
			t.Fatal(err)
		}
		suspects := fmt.Sprint(found.Suspects)
		if want := d.Name == "logs"; strings.Contains(suspects, "admin/prog") != want || len(found.Suspects) > 1 ||
			!found.Ended {
			t.Errorf("verify says of data disk %s: suspect are %s, unmounted %v; want the program on the one without exec",
				d.Name, suspects, found.Ended)
		}
		if d.Name == "logs" {
			judgeLogDisk(t, image, size)
		}
	}
}

func judgeLogDisk(t *testing.T, image io.ReaderAt, size int64) {
	t.Helper()
	f, err := ext4.Open(image, size)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		path, want string
		owner      uint32
	}{{"admin/x", "kept-42\n", contract.UIDShell}, {"log/00000000000000000001.log", "stopping: power off",
		contract.UIDLog}} {
		i, err := f.Lookup(c.path)
		if err != nil {
			t.Errorf("on data disk logs: %v", err)
			continue
		}
		file, err := f.Open(i)
		if err != nil {
			t.Errorf("on data disk logs: %s: %v", c.path, err)
			continue
		}
		b, err := io.ReadAll(io.NewSectionReader(file, 0, i.Size))
		if err != nil || !bytes.Contains(b, []byte(c.want)) || i.UID != c.owner {
			t.Errorf("on data disk logs: %s is of user %d, %v: %.200q; want %q in it, and user %d", c.path, i.UID, err, b,
				c.want, c.owner)
		}
	}
}
