package carry

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"rempart/builder/disk/ext4"
	"rempart/firstboot/contract"
)

const (
	leases  = "lib/rempart/dhcp"
	lists   = "lib/rempart/lists"
	oldSize = 32 << 20
	newSize = 48 << 20
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// hostile is an old state disk: some files that are what they should be, and all kinds that are not.
func hostile(t *testing.T) string {
	t.Helper()
	image := filepath.Join(t.TempDir(), "old")
	f, err := os.Create(image)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	file := func(name string, mode uint16, owner uint32, content string) ext4.NewFile {
		return ext4.NewFile{Path: name, Mode: mode, UID: owner, GID: owner, Modified: now.Add(-time.Hour),
			Size: int64(len(content)), Content: strings.NewReader(content)}
	}
	list := []ext4.NewFile{}
	for _, dir := range []string{"lib", "lib/rempart", leases, lists, "cron.d"} {
		list = append(list, ext4.NewFile{Path: dir, Dir: true, Mode: 0o777, UID: 4242, GID: 4242, Modified: now})
	}
	list = append(list,
		file(leases+"/leases4", 0o640, contract.UIDDHCP, "a lease"),
		file(leases+"/leases6.log", 0o600, contract.UIDDHCP, strings.Repeat("lease", 10_000)),
		file(leases+"/leases4-exec", 0o750, contract.UIDDHCP, "#!"),
		file(leases+"/leases4-suid", 0o4640, contract.UIDDHCP, "#!"),
		file(leases+"/leases4-root", 0o640, 0, "#!"),
		file(leases+"/backdoor", 0o640, contract.UIDDHCP, "#!"),
		file(leases+"/leases4-\x1b[2J", 0o640, contract.UIDDHCP, "#!"),
		file("cron.d/job", 0o644, 0, "#!"),
		file(lists+"/ads", 0o644, contract.UIDLists, "example.org"))
	if err := errors.Join(f.Truncate(oldSize), ext4.Make(f, ext4.Options{Size: oldSize, Label: contract.StateLabel,
		UUID: [16]byte{1}, Time: now}, list)); err != nil {
		t.Fatal(err)
	}
	// What our own writer does not make.
	script := "cd " + leases + "\nsymlink leases4-link /etc/shadow\nmknod leases4-fifo p\nmknod leases4-disk b 254 0\n" +
		"ln leases4 leases4-twice\nsif leases4 links_count 2\nmkdir leases4-dir\nsif leases6.log mode 0100640\n"
	cmd := exec.Command("debugfs", "-w", "-f", "-", image)
	cmd.Stdin = strings.NewReader(script)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("debugfs: %v\n%s", err, out)
	}
	return image
}

// blank makes a disk of zeros.
func blank(t *testing.T, size int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "new")
	if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, size)); err != nil {
		t.Fatal(err)
	}
	return path
}

// carried opens the new disk and returns its files, by path: "mode uid:gid content".
func carried(t *testing.T, keep []string, old string) (files map[string]string, left []string) {
	t.Helper()
	f, err := os.Open(old)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	to := blank(t, newSize)
	if left, err = Carry(t.Context(), f, info.Size(), to, newSize, keep, now); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("e2fsck", "-fn", to).CombinedOutput(); err != nil {
		t.Fatalf("e2fsck -fn: %v\n%s", err, out)
	}
	image, err := os.Open(to)
	if err != nil {
		t.Fatal(err)
	}
	defer image.Close()
	tree, err := ext4.Open(image, newSize)
	if err != nil {
		t.Fatal(err)
	}
	files = map[string]string{}
	if err := tree.Walk(func(name string, i *ext4.Inode, err error) error {
		if err != nil {
			return err
		}
		text := fmt.Sprintf("%v %d:%d", i.FileMode(), i.UID, i.GID)
		if i.FileMode().IsRegular() {
			file, err := tree.Open(i)
			if err != nil {
				return err
			}
			b, err := io.ReadAll(io.NewSectionReader(file, 0, file.Size()))
			if err != nil {
				return err
			}
			text += fmt.Sprintf(" %.20s", b)
		}
		files[name] = text
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return files, left
}

func TestCarry(t *testing.T) {
	files, left := carried(t, []string{leases}, hostile(t))
	want := map[string]string{
		"": "drwxr-xr-x 0:0", "lost+found": "drwx------ 0:0", "lib": "drwxr-xr-x 0:0", "lib/rempart": "drwxr-xr-x 0:0",
		leases:                  fmt.Sprintf("drwxr-x--- %d:%[1]d", contract.UIDDHCP),
		leases + "/leases6.log": fmt.Sprintf("-rw-r----- %d:%[1]d %.20s", contract.UIDDHCP, strings.Repeat("lease", 4)),
	}
	for name, text := range want {
		if files[name] != text {
			t.Errorf("%q is %q; want %q", name, files[name], text)
		}
		delete(files, name)
	}
	for name, text := range files {
		t.Errorf("%q was carried over: %s", name, text)
	}
	for _, want := range []string{"leases4-exec: its mode", "leases4-suid: its mode", "leases4-root: it belongs to 0:0",
		"backdoor: nothing declares", "leases4-link: it is no regular file", "leases4-fifo: it is no regular file",
		"leases4-disk: it is no regular file", "leases4-dir: it is no regular file", "leases4: it has 2 names",
		"leases4-twice: it has 2 names"} {
		if !slices.ContainsFunc(left, func(l string) bool { return strings.Contains(l, want) }) {
			t.Errorf("it is not told that %s; told is %q", want, left)
		}
	}
}

func TestCarryOnlyWhatIsDeclared(t *testing.T) {
	files, left := carried(t, []string{lists}, hostile(t))
	if _, ok := files[leases]; ok || files[lists+"/ads"] == "" || len(left) != 0 {
		t.Errorf("with the lists alone: %q, left behind %q; want those and nothing of the leases", files, left)
	}
	if err := Check([]string{leases, "cron.d", "tmp", "../etc", ""}); err == nil ||
		strings.Count(err.Error(), "cannot be kept") != 4 || !strings.Contains(err.Error(), leases) {
		t.Errorf("Check = %v; want what is wrong with four of the five", err)
	}
}

// TestCarryFromAnything: whatever the old disk is, the guest gets a new one.
func TestCarryFromAnything(t *testing.T) {
	whole, err := os.ReadFile(hostile(t))
	if err != nil {
		t.Fatal(err)
	}
	damaged := bytes.Clone(whole)
	for at := 1024 * 5; at < len(damaged); at += 977 {
		damaged[at] ^= 0xff
	}
	for name, b := range map[string][]byte{"blank": make([]byte, 1<<20), "empty": nil,
		"noise": bytes.Repeat([]byte("noise"), 1<<18), "cut": whole[:len(whole)/2], "damaged": damaged} {
		old := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(old, b, 0o600); err != nil {
			t.Fatal(err)
		}
		files, left := carried(t, []string{leases}, old)
		if files[leases] == "" || len(left) == 0 {
			t.Errorf("%s: %q, left behind %q; want an empty place, and why", name, files, left)
		}
	}
}

func TestCarryIsBounded(t *testing.T) {
	image := filepath.Join(t.TempDir(), "old")
	f, err := os.Create(image)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const size = 256 << 20
	list := []ext4.NewFile{}
	for _, dir := range []string{"lib", "lib/rempart", leases} {
		list = append(list, ext4.NewFile{Path: dir, Dir: true, Mode: 0o750, Modified: now})
	}
	list = append(list, ext4.NewFile{Path: leases + "/leases4", Mode: 0o640, UID: contract.UIDDHCP, GID: contract.UIDDHCP,
		Modified: now, Size: newSize, Content: bytes.NewReader(make([]byte, newSize))})
	if err := errors.Join(f.Truncate(size), ext4.Make(f, ext4.Options{Size: size, Label: contract.StateLabel,
		UUID: [16]byte{1}, Time: now}, list)); err != nil {
		t.Fatal(err)
	}
	files, left := carried(t, []string{leases}, image)
	if files[leases+"/leases4"] != "" || len(left) != 1 || !strings.Contains(left[0], "are left") {
		t.Errorf("a file as large as the new disk: %q, left behind %q; want it left behind", files, left)
	}
}

// TestCarryAlwaysFits: more files than the new disk has inodes, or one in more pieces than an inode takes, are left
// behind; they do not keep the guest from getting a new disk.
func TestCarryAlwaysFits(t *testing.T) {
	image := filepath.Join(t.TempDir(), "old")
	f, err := os.Create(image)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const (
		size  = 2 << 30
		count = 4000
	)
	list := []ext4.NewFile{}
	for _, dir := range []string{"lib", "lib/rempart", lists} {
		list = append(list, ext4.NewFile{Path: dir, Dir: true, Mode: 0o755, Modified: now})
	}
	for i := range count {
		list = append(list, ext4.NewFile{Path: fmt.Sprintf("%s/%d", lists, i), Mode: 0o644, UID: contract.UIDLists,
			GID: contract.UIDLists, Modified: now})
	}
	if err := errors.Join(f.Truncate(size), ext4.Make(f, ext4.Options{Size: size, Label: contract.StateLabel,
		UUID: [16]byte{1}, Time: now}, list)); err != nil {
		t.Fatal(err)
	}
	files, left := carried(t, []string{lists}, image)
	if len(files) < count/2 || len(files) >= count || !strings.Contains(strings.Join(left, "\n"), "there are more than") {
		t.Errorf("of %d files %d were carried over, left behind %.300q; want what there is room for", count, len(files), left)
	}
	// A hole of 600 MB, which takes nothing of the old disk.
	grow := exec.Command("debugfs", "-w", "-R", "sif "+lists+"/0 size 600000000", image)
	if out, err := grow.CombinedOutput(); err != nil {
		t.Fatalf("debugfs: %v\n%s", err, out)
	}
	left, err = Carry(t.Context(), f, size, blank(t, size), size, []string{lists}, now)
	if err != nil || len(left) != 1 || !strings.Contains(left[0], "lists/0: it has 600000000 bytes") {
		t.Errorf("Carry with a file too large = %q, %v; want that left behind, and nothing else", left, err)
	}
}
