package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// ext4Image makes an image of a tree, and has debugfs carry out a script on it.
func ext4Image(t *testing.T, name, script string) string {
	t.Helper()
	tree, image := t.TempDir(), filepath.Join(t.TempDir(), name)
	for file, content := range map[string]string{"a": "text\n", "d/b": strings.Repeat("b", 9000), "d/c": ""} {
		path := filepath.Join(tree, file)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, words := range [][]string{{"mke2fs", "-q", "-F", "-t", "ext4", "-L", "IMAGE", "-d", tree, image, "4M"},
		{"debugfs", "-w", image}} {
		path, err := exec.LookPath(words[0])
		if err != nil {
			path = filepath.Join("/usr/sbin", words[0])
		}
		cmd := exec.Command(path, words[1:]...)
		cmd.Stdin = strings.NewReader(script)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%q, of the package e2fsprogs: %v\n%s", words, err, out)
		}
	}
	return image
}

// TestDiskVerbs looks into an image with every verb.
func TestDiskVerbs(t *testing.T) {
	image := ext4Image(t, "image.raw", "symlink /l d/b\nsymlink /out /etc/passwd\nea_set /a user.note hello\n")
	other := ext4Image(t, "other.raw", "symlink /l d/c\nrm /a\nmkdir /new\nsif /d/c mode 0100777\n")
	to := filepath.Join(t.TempDir(), "copy")
	for _, tt := range []struct {
		words string
		code  int
		want  []string // on standard output, or error
	}{
		{"ls " + image, exitDone, []string{" a\n", " d\n", " l -> d/b\n", " out -> /etc/passwd\n", " lost+found\n"}},
		{"ls -R " + image + " d", exitDone, []string{" d/b\n", " d/c\n"}},
		{"ls -l " + image + " a", exitDone, []string{"-rw------- 0 0 5 "}},
		{"ls --json " + image + " d", exitDone, []string{`"path": "d/b"`, `"size": 9000`}},
		{"ls " + image + " nowhere", exitFailed, []string{`there is no "nowhere"`}},
		{"ls " + image + ":3", exitFailed, []string{"no such partition"}},
		{"cat " + image + " a", exitDone, []string{"text\n"}},
		{"cat " + image + " /d/../l", exitDone, []string{strings.Repeat("b", 9000)}},
		{"cat " + image + " out", exitFailed, []string{"there is no"}},
		{"cat " + image + " d", exitFailed, []string{"a directory"}},
		{"df " + image, exitDone, []string{"ext4", "IMAGE"}},
		{"stat " + image, exitDone, []string{"format: raw\n", "table: none\n", "holds: ext4\n"}},
		{"stat " + image + " a", exitDone, []string{"user.note: 68656c6c6f\n", "mode: -rw-------\n"}},
		{"diff " + image + " " + image, exitDone, []string{""}},
		{"diff " + image + " " + other, exitDifferent, []string{"/a: [removed]", "/d/c: [mode]", "/l: [target]",
			"/new: [added]", "/out: [removed]"}},
		{"cp " + image + " / " + to, exitFailed, []string{"not copied: out: a link that leads out", "1 files"}},
		{"cp " + image + " a " + to, exitDone, nil},
		{"cp " + image + " a " + to, exitFailed, []string{"exists"}},
		{"frobnicate " + image, exitUsage, []string{"unknown"}},
		{"cat " + image, exitUsage, []string{"want 2 to 2 words"}},
		{"ls --format vhd " + image, exitUsage, []string{"want raw, qcow2, vmdk, ova"}},
		{"ls --snapshot x " + image, exitFailed, []string{"holds no snapshots"}},
	} {
		if tt.words == "cp "+image+" a "+to && tt.code == exitDone { // into the folder that the copy before it made
			if err := os.Remove(filepath.Join(to, "a")); err != nil {
				t.Fatal(err)
			}
		}
		code, out, errs := rempart(append([]string{"disk"}, strings.Fields(tt.words)...)...)
		if code != tt.code {
			t.Errorf("disk %s = %d; want %d\n%s%s", tt.words, code, tt.code, out, errs)
		}
		for _, want := range tt.want {
			if !strings.Contains(out+errs, want) {
				t.Errorf("disk %s:\n%.500s%s\nwant %.80q", tt.words, out, errs, want)
			}
		}
	}
	if b, err := os.ReadFile(filepath.Join(to, "d", "b")); err != nil || len(b) != 9000 {
		t.Errorf("the copy of d/b has %d bytes, %v", len(b), err)
	}
	if target, err := os.Readlink(filepath.Join(to, "l")); err != nil || target != "d/b" {
		t.Errorf("the copy of l leads to %q, %v", target, err)
	}
}

// TestNameRoom: what is kept of names ends, however long or many they are.
func TestNameRoom(t *testing.T) {
	for _, size := range []int{0, 255, 1 << 17} {
		room, n := roomForNames, 0
		name := strings.Repeat("n", size)
		for room.take(name) == nil {
			n++
		}
		if want := int(roomForNames) / (size + fileRoom); n != want {
			t.Errorf("%d names of %d bytes were taken; want %d", n, size, want)
		}
	}
}

// TestDiskCopyIsHarmless copies out what would harm whoever copies.
func TestDiskCopyIsHarmless(t *testing.T) {
	image := ext4Image(t, "image.raw", "sif /a mode 0106777\nmknod disk b 8 0\nsymlink /d/up ..\nsymlink /d/two up/..\n"+
		"symlink /d/far ../../..\nmkdir /x\nsymlink /x/y /tmp\n")
	to := filepath.Join(t.TempDir(), "copy")
	code, _, errs := rempart("disk", "cp", image, "/", to)
	if code != exitFailed {
		t.Errorf("disk cp = %d; want %d and what was not copied", code, exitFailed)
	}
	for _, name := range []string{"disk", "d/two", "d/far", "x/y"} {
		if _, err := os.Lstat(filepath.Join(to, name)); err == nil || !strings.Contains(errs, "not copied: "+name+": ") {
			t.Errorf("%s was copied (%v), or not told:\n%s", name, err, errs)
		}
	}
	if info, err := os.Stat(filepath.Join(to, "a")); err != nil || info.Mode()&^0o777 != 0 {
		t.Errorf("the copy of a set-user-id file: %v, %v; want a plain one", info, err)
	}
	if target, err := os.Readlink(filepath.Join(to, "d/up")); err != nil || target != ".." {
		t.Errorf("a link that stays inside: %q, %v; want it copied", target, err)
	}
}

// TestDiskUnread compares and copies an image in which a file cannot be read: it is never the same, nor half there.
func TestDiskUnread(t *testing.T) {
	image := ext4Image(t, "image.raw", "sif /d/b flags 0x80800\n")
	code, out, errs := rempart("disk", "diff", image, image)
	if code != exitDifferent || !strings.Contains(out, "/d/b: [unread]") {
		t.Errorf("diff of an image with a file that cannot be read and itself = %d, %s%s; want %d", code, out, errs,
			exitDifferent)
	}
	to := filepath.Join(t.TempDir(), "copy")
	code, _, errs = rempart("disk", "cp", image, "d", to)
	if code != exitFailed || !strings.Contains(errs, "not copied: d/b") {
		t.Errorf("cp of one = %d, %s; want %d", code, errs, exitFailed)
	}
	if _, err := os.Lstat(filepath.Join(to, "b")); err == nil {
		t.Error("a file that could not be copied is there")
	}
	code, _, errs = rempart("disk", "cat", image, "\x1b[31mred")
	if code != exitFailed || strings.Contains(errs, "\x1b") {
		t.Errorf("cat of a name of escapes = %d, %q; want an error that no terminal obeys", code, errs)
	}
}

// TestDiskDiffAttributes gives a file a capability, which changes nothing else of it.
func TestDiskDiffAttributes(t *testing.T) {
	plain, capable := ext4Image(t, "plain.raw", ""), ext4Image(t, "capable.raw", "ea_set /d/b security.capability abc\n")
	if code, out, errs := rempart("disk", "diff", plain, capable); code != exitDifferent || out != "/d/b: [attributes]\n" {
		t.Errorf("diff = %d, %s%s; want %d and the attributes of d/b", code, out, errs, exitDifferent)
	}
	damaged := ext4Image(t, "damaged.raw", "sif /d/b file_acl 999999\n")
	code, out, errs := rempart("disk", "diff", damaged, damaged)
	if code != exitDifferent || out != "/d/b: [unread]\n" {
		t.Errorf("diff of attributes that cannot be read = %d, %s%s; want %d", code, out, errs, exitDifferent)
	}
}

// TestPrintFields shows a value as a person reads it, whatever a guest wrote into it.
func TestPrintFields(t *testing.T) {
	var out bytes.Buffer
	err := printFields(&out, struct {
		Name string         `json:"name"`
		List []int          `json:"list"`
		More map[string]any `json:"more"`
		None []string       `json:"none"`
	}{"a\x1bb", []int{7, 8}, map[string]any{"k\n": true}, nil})
	want := "name: a?b\nlist:\n  1: 7\n  2: 8\nmore:\n  k?: true\nnone: <nil>\n"
	if err != nil || out.String() != want {
		t.Errorf("printFields = %q, %v; want %q", out.String(), err, want)
	}
	if err := printFields(&out, func() {}); err == nil {
		t.Error("printFields of what is no JSON = nil; want an error")
	}
}
