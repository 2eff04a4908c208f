package guest

import (
	"bytes"
	"os"
	"testing"

	"rempart/builder/disk/ext4"
	"rempart/builder/hypervisor"
	"rempart/profiles"
)

// TestStandIns: each declared disk that is not attached has one, blank unless the guest may only read it.
func TestStandIns(t *testing.T) {
	p := &profiles.Profile{Disks: []profiles.Disk{{Name: "a"}, {Name: "b", ReadOnly: true}, {Name: "c", Optional: true}}}
	dir := t.TempDir()
	got, err := standIns(p, []hypervisor.DataDisk{{Name: "c"}, {Name: "undeclared"}}, dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 2 || got[0].Name != "a" || got[0].ReadOnly || got[1].Name != "b" || !got[1].ReadOnly {
		t.Fatalf("standIns = %+v; want a, and b to be read only", got)
	}
	blank, err := os.ReadFile(got[0].Disk.Path)
	if err != nil || len(blank) != standInSize || bytes.Count(blank, []byte{0}) != len(blank) {
		t.Errorf("what stands in for a has %d bytes, %v; want %d of zeros", len(blank), err, standInSize)
	}
	made, err := os.Open(got[1].Disk.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer made.Close()
	if f, err := ext4.Open(made, standInSize); err != nil {
		t.Errorf("what stands in for b: %v", err)
	} else if _, err := f.Lookup("lost+found"); err != nil {
		t.Errorf("what stands in for b: %v", err)
	}
	if _, err := standIns(p, nil, dir); err == nil {
		t.Error("standIns where its files are already = nil error; want one")
	}
}
