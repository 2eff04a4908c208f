package logging

import (
	"os"
	"path/filepath"
	"testing"

	"rempart/firstboot/child"
	"rempart/firstboot/contract"
	"rempart/profiles"
)

// TestPlace: the log is kept on the data disk that the profile names while that is there, else on the state disk.
func TestPlace(t *testing.T) {
	root := t.TempDir()
	p := &profiles.Profile{Disks: []profiles.Disk{{Name: "logs", Mount: "/srv/logs"}}}
	at := func(want string) {
		t.Helper()
		if got := place(root, p); got.Dir != filepath.Join(root, want) || got.Bytes <= 0 {
			t.Errorf("the log is kept in %+v; want %s, and room for it", got, want)
		}
	}
	dir := filepath.Join(root, "srv/logs", contract.DataLog)
	if err := os.MkdirAll(dir, 0o750); err != nil {
		t.Fatal(err)
	}
	at(contract.LogDir)
	p.Logging.Disk = "logs"
	at("/srv/logs/log")
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	at(contract.LogDir) // the disk is not mounted
	if err := os.Symlink(root, dir); err != nil {
		t.Fatal(err)
	}
	at(contract.LogDir)
}

// TestOnDisk: lines go to the data disk, and none of them to the state disk.
func TestOnDisk(t *testing.T) {
	root := t.TempDir()
	dir := filepath.Join(root, "srv/logs", contract.DataLog)
	if err := os.MkdirAll(dir, 0o750); err != nil {
		t.Fatal(err)
	}
	r := startWith(t, root, &profiles.Profile{Disks: []profiles.Disk{{Name: "logs", Mount: "/srv/logs"}},
		Logging: profiles.Logging{Disk: "logs"}})
	r.lines <- child.Line{From: "link", Text: "up"}
	r.stop()
	if all, err := filepath.Glob(filepath.Join(dir, "*.log")); err != nil || len(all) != 1 {
		t.Errorf("on the data disk are %q, %v; want one file", all, err)
	}
	if _, err := os.Lstat(filepath.Join(root, contract.LogDir)); err == nil {
		t.Errorf("%s was made beside the data disk", contract.LogDir)
	}
}
