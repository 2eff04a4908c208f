package build

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"rempart/builder/disk"
	"rempart/builder/master"
)

// judge runs a foreign tool and fails the test when it finds fault.
func judge(t *testing.T, name string, args ...string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		for _, dir := range []string{"/usr/sbin", "/sbin"} {
			if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
				path = filepath.Join(dir, name)
			}
		}
	}
	if path == "" {
		t.Fatalf("%s judges this test and is missing; `make setup` installs it", name)
	}
	out, err := exec.Command(path, args...).CombinedOutput()
	if err != nil {
		t.Errorf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// regionFile copies a region of the system disk into a file of its own.
func regionFile(t *testing.T, dir, region string) string {
	t.Helper()
	m := manifestOf(t, dir)
	for _, r := range m.Disk.Regions {
		if r.Name != region {
			continue
		}
		f, err := os.Open(filepath.Join(dir, master.RawFile))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		out, err := os.Create(filepath.Join(t.TempDir(), "region"))
		if err != nil {
			t.Fatal(err)
		}
		defer out.Close()
		if _, err := io.Copy(out, io.NewSectionReader(f, r.Offset, r.Length)); err != nil {
			t.Fatal(err)
		}
		return out.Name()
	}
	t.Fatalf("the manifest names no region %q", region)
	return ""
}

func TestQemuImgAgrees(t *testing.T) {
	dir := sharedMaster(t)
	raw, qcow2 := filepath.Join(dir, master.RawFile), filepath.Join(dir, master.Qcow2File)
	if out := judge(t, "qemu-img", "check", qcow2); !strings.Contains(out, "No errors were found on the image.") {
		t.Errorf("qemu-img check: %s", out)
	}
	out := judge(t, "qemu-img", "compare", "-f", "raw", "-F", "qcow2", raw, qcow2)
	if !strings.Contains(out, "Images are identical.") {
		t.Errorf("qemu-img compare: %s", out)
	}
}

func TestPartitionTable(t *testing.T) {
	dir := sharedMaster(t)
	raw := filepath.Join(dir, master.RawFile)
	if out := judge(t, "sgdisk", "-v", raw); !strings.Contains(out, "No problems found.") {
		t.Errorf("sgdisk -v: %s", out)
	}
	m := manifestOf(t, dir)
	if out := judge(t, "sfdisk", "--json", raw); !strings.Contains(strings.ToLower(out), m.Verity.Partition) {
		t.Errorf("sfdisk finds no partition with the root's GUID %s: %s", m.Verity.Partition, out)
	}
	info, err := os.Stat(raw)
	if err != nil {
		t.Fatal(err)
	}
	if info.Size()%disk.SizeUnit != 0 || info.Size() != m.Disk.Size {
		t.Errorf("%s has %d bytes; want the manifest's %d, a multiple of 4 MiB", raw, info.Size(), m.Disk.Size)
	}
}

func TestBootPartition(t *testing.T) {
	dir := sharedMaster(t)
	esp := regionFile(t, dir, "partition esp")
	judge(t, "fsck.vfat", "-n", esp)
	for _, f := range manifestOf(t, dir).Boot {
		if !strings.HasPrefix(f.Mode, "-") {
			continue
		}
		to := filepath.Join(t.TempDir(), "file")
		judge(t, "mcopy", "-i", esp, "::/"+f.Path, to)
		if got := digest(t, to); got != f.SHA256 {
			t.Errorf("%s on the boot partition has digest %s; the manifest says %s", f.Path, got, f.SHA256)
		}
	}
}

func TestRoot(t *testing.T) {
	dir := sharedMaster(t)
	m := manifestOf(t, dir)
	root := regionFile(t, dir, "partition root")
	judge(t, "fsck.erofs", root)
	hashOffset := fmt.Sprint(m.Verity.DataBlocks * uint64(m.Verity.BlockSize))
	judge(t, "veritysetup", "verify", "--hash-offset", hashOffset, root, root, m.Verity.RootHash)
	if os.Geteuid() != 0 {
		t.Log("NOT CHECKED: file by file against the kernel's own reading, which needs root to mount")
		return
	}
	mount := t.TempDir()
	if out, err := exec.Command("mount", "-t", "erofs", "-o", "ro,loop", root, mount).CombinedOutput(); err != nil {
		t.Fatalf("mounting the root: %v\n%s", err, out)
	}
	defer func() {
		if out, err := exec.Command("umount", mount).CombinedOutput(); err != nil {
			t.Errorf("umount: %v\n%s", err, out)
		}
	}()
	for _, f := range m.Root {
		info, err := os.Lstat(filepath.Join(mount, f.Path))
		if err != nil {
			t.Errorf("the manifest's %s: %v", f.Path, err)
			continue
		}
		owner := info.Sys().(*syscall.Stat_t)
		if info.Mode().String() != f.Mode || int(owner.Uid) != f.UID || int(owner.Gid) != f.GID {
			t.Errorf("%s is %v %d:%d; the manifest says %s %d:%d",
				f.Path, info.Mode(), owner.Uid, owner.Gid, f.Mode, f.UID, f.GID)
		}
		if f.SHA256 != "" && digest(t, filepath.Join(mount, f.Path)) != f.SHA256 {
			t.Errorf("%s differs from the manifest's digest", f.Path)
		}
	}
}

// TestManifest holds every digest of the manifest against the files.
func TestManifest(t *testing.T) {
	dir := sharedMaster(t)
	m := manifestOf(t, dir)
	for _, o := range m.Outputs {
		if got := digest(t, filepath.Join(dir, o.Name)); got != o.SHA256 {
			t.Errorf("%s has digest %s; the manifest says %s", o.Name, got, o.SHA256)
		}
	}
	raw, err := os.Open(filepath.Join(dir, master.RawFile))
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	for _, r := range m.Disk.Regions {
		sum, err := disk.Digest(t.Context(), raw, r.Offset, r.Length)
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprintf("%x", sum); got != r.SHA256 {
			t.Errorf("region %s has digest %s; the manifest says %s", r.Name, got, r.SHA256)
		}
	}
	for _, f := range slices.Concat(m.Boot, m.Root) {
		h := sha256.New()
		for _, e := range f.Extents {
			if _, err := io.Copy(h, io.NewSectionReader(raw, e.Offset, e.Length)); err != nil {
				t.Fatal(err)
			}
		}
		if got := fmt.Sprintf("%x", h.Sum(nil)); f.SHA256 != "" && got != f.SHA256 {
			t.Errorf("where %s lies there is %s; the manifest says %s", f.Path, got, f.SHA256)
		}
	}
	if len(m.Packages) == 0 || len(m.Root) == 0 || len(m.Boot) == 0 {
		t.Errorf("the manifest names %d packages, %d files of the root, %d of the boot partition",
			len(m.Packages), len(m.Root), len(m.Boot))
	}
	sbom, err := os.ReadFile(filepath.Join(dir, master.SBOMFile))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range m.Packages {
		if !bytes.Contains(sbom, []byte(`"pkg:deb/debian/`+p.Name+`@`)) {
			t.Errorf("the bill of materials lacks %s", p.Name)
		}
	}
	for _, word := range []string{`"serialNumber"`, `"timestamp"`} {
		if bytes.Contains(sbom, []byte(word)) {
			t.Errorf("the bill of materials has a %s; it would differ from build to build", word)
		}
	}
}

// The budgets of size, in bytes.
const (
	qcow2Budget = 40 << 20
	rawBudget   = 80 << 20 // allocated, not apparent
	stageBudget = 4 << 20
)

func TestSizeBudgets(t *testing.T) {
	dir := sharedMaster(t)
	info, err := os.Stat(filepath.Join(dir, master.Qcow2File))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s: %.1f MiB", master.Qcow2File, float64(info.Size())/(1<<20))
	if info.Size() > qcow2Budget {
		t.Errorf("%s has %d bytes; the budget is %d", master.Qcow2File, info.Size(), qcow2Budget)
	}
	info, err = os.Stat(filepath.Join(dir, master.RawFile))
	if err != nil {
		t.Fatal(err)
	}
	const block = 512 // of st_blocks, stat(2)
	used := info.Sys().(*syscall.Stat_t).Blocks * block
	t.Logf("%s: %.1f MiB used of %.0f MiB", master.RawFile, float64(used)/(1<<20), float64(info.Size())/(1<<20))
	if used > rawBudget {
		t.Errorf("%s uses %d bytes; the budget is %d", master.RawFile, used, rawBudget)
	}
	info, err = os.Stat(filepath.Join(filepath.Dir(rempart(t)), "..", "builder", "embedded", "files", "bootstage-amd64"))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("boot stage: %.1f MiB", float64(info.Size())/(1<<20))
	if info.Size() > stageBudget {
		t.Errorf("the boot stage has %d bytes; the budget is %d", info.Size(), stageBudget)
	}
}
