package verify_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"rempart/builder/guest/verify"
)

// dataDisk makes an ext4 of somebody's, and has debugfs carry out a script.
func dataDisk(t testing.TB, script string) []byte {
	t.Helper()
	dir := t.TempDir()
	image, content := filepath.Join(dir, "data.raw"), filepath.Join(dir, "content")
	tool(t, "", "mke2fs", "-q", "-F", "-t", "ext4", "-L", "mine", image, "16M")
	if err := os.WriteFile(content, []byte("#!/bin/sh\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	tool(t, strings.ReplaceAll(script, "CONTENT", content), "debugfs", "-w", image)
	b, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func inspectData(t testing.TB, b []byte, exec bool) *verify.Data {
	t.Helper()
	d, err := verify.InspectData(context.Background(), "mine", bytes.NewReader(b), int64(len(b)), exec)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// honest is what people keep on a data disk, and is nobody's business.
const honest = "mkdir /shared\nsif /shared mode 042777\nwrite CONTENT /shared/script\nsif /shared/script uid 1000\n" +
	"symlink /shared/up ../shared/script\nln /shared/script /again\nea_set /shared/script user.note text\n"

// TestDataDisk: each thing that could do harm is named, and what an owner may do with a disk is not.
func TestDataDisk(t *testing.T) {
	if d := inspectData(t, dataDisk(t, honest), false); !d.IsClean() || d.Files == 0 || d.Other != "" || !d.Ended {
		t.Errorf("of an honest disk it says %+v; want files, and nothing suspect", d)
	}
	implants := honest + "write CONTENT /suid\nsif /suid mode 0104644\nwrite CONTENT /sgid\nsif /sgid mode 0102644\n" +
		"write CONTENT /prog\nsif /prog mode 0100755\nmknod disk b 8 0\nsymlink /passwd /etc/passwd\n" +
		"symlink /shared/out ../../etc\nwrite CONTENT /caps\nea_set /caps security.capability rights\n"
	want := []string{"suid: set-user-id", "sgid: set-group-id",
		"prog: executable, on a disk that the profile gives no exec", "disk: a device, 8:0", "passwd: a link that leads out",
		"shared/out: a link that leads out", "caps: a program that gives rights (security.capability)"}
	for exec, want := range map[bool][]string{false: want, true: slices.Delete(slices.Clone(want), 2, 3)} {
		var got []string
		d := inspectData(t, dataDisk(t, implants), exec)
		for _, s := range d.Suspects {
			got = append(got, s.Path+": "+strings.Join(s.Why, "; "))
			if s.Inode == 0 {
				t.Errorf("%s has no inode, by which it could be found", s.Path)
			}
		}
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("exec %v: suspects\n%s\nwant\n%s", exec, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		if (&verify.Report{Data: []*verify.Data{d}}).Clean() {
			t.Error("a report with suspects on a data disk is clean")
		}
	}
}

// TestOtherDataDisk: what is no ext4 is told and suspect of nothing; damage is.
func TestOtherDataDisk(t *testing.T) {
	if d := inspectData(t, make([]byte, 1<<20), false); !d.IsClean() || d.Other == "" {
		t.Errorf("of a blank disk it says %+v; want that there is no filesystem", d)
	}
	b := dataDisk(t, honest)
	for i := 4096; i < 1<<20; i++ {
		b[i] = 0xa5
	}
	if d := inspectData(t, b, false); d.IsClean() {
		t.Errorf("of a damaged disk it says %+v; want what is damaged", d)
	}
}

func FuzzInspectData(f *testing.F) {
	b := dataDisk(f, honest)
	f.Add([]byte{}, uint32(0))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff}, uint32(1024+0x18))
	f.Add([]byte{0xff, 0xff}, uint32(1024+0x58))
	f.Fuzz(func(t *testing.T, patch []byte, at uint32) {
		disk := bytes.Clone(b)
		copy(disk[int(at)%len(disk):], patch)
		d, err := verify.InspectData(t.Context(), "mine", bytes.NewReader(disk), int64(len(disk)), false)
		if err != nil {
			t.Errorf("InspectData = %v; want damage told as a suspect", err)
		} else if d.Suspects == nil {
			t.Error("no list of suspects")
		}
	})
}
