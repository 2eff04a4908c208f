package lvm

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"rempart/builder/debian"
	"rempart/builder/initramfs"
	"rempart/builder/kernel"
	"rempart/builder/rootfs/tree"
	"rempart/test/rig"
)

// roots are the packages that the machine is made of.
func roots() []debian.Root {
	return []debian.Root{
		{Name: kernelMeta, Follow: debian.FollowMeta, Why: "its kernel has device-mapper"},
		{Name: "lvm2", Follow: debian.FollowAll, Why: "what is tested against"},
		{Name: "thin-provisioning-tools", Follow: debian.FollowAll, Why: "without them lvm2 activates no thin pool"},
	}
}

const kernelMeta = "linux-image-cloud-amd64"

func lockFile() string { return filepath.Join(rig.Top(), "test", "lvm", "machine.lock") }

// modules are those the machine loads, in order; others are loaded by what they drive.
var modules = []string{"virtio_pci", "virtio_blk", "dm-mod", "dm-snapshot", "dm-thin-pool"}

// unread are files of packages that nobody reads there.
var unread = []string{"usr/share/doc/", "usr/share/man/", "usr/share/locale/", "usr/share/info/", "usr/share/lintian/",
	"usr/share/bug/", "boot/", "lib/modules/", "lib/systemd/", "lib/udev/", "usr/share/zoneinfo/", "usr/lib/locale/",
	"usr/share/perl/", "usr/lib/x86_64-linux-gnu/gconv/", "usr/lib/x86_64-linux-gnu/perl-base/", "var/",
	"etc/lvm/lvm.conf"}

// machine is what is booted, as files.
type machine struct{ kernel, initrd string }

// build makes it in dir: the kernel, and an initramfs in which this test is the init, beside lvm2 and the test of
// reprovisioning.
func build(ctx context.Context, t *testing.T, dir string) machine {
	t.Helper()
	made := machine{filepath.Join(dir, "vmlinuz"), filepath.Join(dir, "machine.initrd")}
	var all, ofKernel []tree.Entry
	for _, e := range rig.Entries(t, lockFile(), roots()) {
		if strings.HasPrefix(e.Path, "boot/") || strings.HasPrefix(e.Path, "lib/modules/") {
			ofKernel = append(ofKernel, e)
		} else if !slices.ContainsFunc(unread, func(u string) bool {
			return strings.HasPrefix(e.Path+"/", u) || e.Path == u
		}) {
			all = append(all, e)
		}
	}
	k, err := kernel.Open(ofKernel)
	if err != nil {
		t.Fatal(err)
	}
	var wants []kernel.Want
	for _, m := range modules {
		wants = append(wants, kernel.Want{Name: m, Why: "the machine"})
	}
	set, err := k.Select(ctx, wants)
	if err != nil {
		t.Fatal(err)
	}
	files, err := initramfs.Tree(set, modules, compiled(ctx, t, dir, "./test/lvm"))
	if err != nil {
		t.Fatal(err)
	}
	all = append(all, tree.Bytes(strings.TrimPrefix(reprovisionTest, "/"), 0o755, compiled(ctx, t, dir,
		"./builder/guest/reprovision"), "test"), tree.Bytes(strings.TrimPrefix(rig.LVMFile, "/"), 0o644,
		[]byte(rig.LVMAlone), "test"))
	for _, e := range all {
		if err := files.Add(e); err != nil {
			t.Fatal(err)
		}
	}
	var archive, image bytes.Buffer
	if err := initramfs.Write(&archive, files); err != nil {
		t.Fatal(err)
	}
	r, err := k.Image.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := image.ReadFrom(r); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{made.kernel: image.Bytes(), made.initrd: archive.Bytes()} {
		if err := os.WriteFile(name, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return made
}

// compiled is the test of a package as a program.
func compiled(ctx context.Context, t *testing.T, dir, pkg string) []byte {
	t.Helper()
	name := filepath.Join(dir, filepath.Base(pkg)+".test")
	cmd := exec.CommandContext(ctx, "go", "test", "-c", "-ldflags=-s -w", "-o", name, pkg)
	cmd.Dir, cmd.Env = rig.Top(), append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building the test of %s: %v\n%s", pkg, err, out)
	}
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// disks are those of the machine: one with a filesystem for the guest's folder, and one for volumes, on which others
// have written before.
type disks struct{ home, volumes string }

const (
	homeSize    = 48 << 20
	volumesSize = 192 << 20
	stale       = 0xa5
)

func newDisks(t *testing.T, dir string) disks {
	t.Helper()
	d := disks{filepath.Join(dir, "home.raw"), filepath.Join(dir, "volumes.raw")}
	if err := rig.Blank(d.home, homeSize); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mkfs.ext4", "-q", "-F", d.home).CombinedOutput(); err != nil {
		t.Fatalf("mkfs.ext4: %v\n%s", err, out)
	}
	if err := os.WriteFile(d.volumes, bytes.Repeat([]byte{stale}, volumesSize), 0o600); err != nil {
		t.Fatal(err)
	}
	return d
}

// patience is how long the machine may take for anything, and longer with all that can be done: hundreds of processes
// are killed there. It bounds waiting for failures.
func patience(all bool) time.Duration {
	if all {
		return 100 * time.Minute
	}
	return 10 * time.Minute
}

// memory of the machine in bytes: its root is unpacked into it.
const memory = 384 << 20

// boot starts the machine, which does what words say.
func boot(t *testing.T, m *rig.Master, made machine, d disks, all bool, words string) *rig.Guest {
	t.Helper()
	return m.Boot(t, rig.Options{Memory: memory, State: d.home, Append: words,
		Patience: patience(all),
		Sed:      fmt.Sprintf("s,^%s$,%s,;s,^%s$,%s,", m.Kernel(), made.kernel, m.Initrd(), made.initrd),
		More: fmt.Sprintf("-drive if=none,id=volumes,format=raw,file=%s -device virtio-blk-pci,drive=volumes,serial=%s",
			d.volumes, volumesSerial)})
}
