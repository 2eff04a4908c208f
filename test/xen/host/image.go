package host

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"rempart/builder/debian"
	"rempart/builder/initramfs"
	"rempart/builder/kernel"
	"rempart/builder/kernel/bzimage"
	"rempart/builder/rootfs/erofs"
	"rempart/builder/rootfs/tree"
	"rempart/test/rig"
)

// Roots are the packages dom0 is made of.
func Roots() []debian.Root {
	return []debian.Root{
		{Name: "bash", Follow: debian.FollowAll, Why: "Xen's hotplug scripts are written for it"},
		{Name: "bridge-utils", Follow: debian.FollowAll, Why: "bridges in the words of ifupdown"},
		{Name: "busybox-static", Follow: debian.FollowAll, Why: "mount, awk and the like, which no package here brings"},
		{Name: "coreutils", Follow: debian.FollowAll, Why: "the same"},
		{Name: "dmsetup", Follow: debian.FollowAll, Why: "lvm"},
		{Name: "ethtool", Follow: debian.FollowAll, Why: "offloads of vifs"},
		{Name: "grep", Follow: debian.FollowAll, Why: "hotplug scripts"},
		{Name: grubXen, Follow: debian.FollowNone, Why: "the GRUB of PVH guests"},
		{Name: "ifenslave", Follow: debian.FollowNone, Why: "bonds in the words of ifupdown"},
		{Name: "ifupdown", Follow: debian.FollowNone, Why: "the network as rempart host writes it"},
		{Name: "iproute2", Follow: debian.FollowAll, Why: "bridges"},
		{Name: kernelMeta, Follow: debian.FollowMeta, Why: "dom0's kernel: that of clouds cannot be dom0"},
		{Name: "libaio1", Follow: debian.FollowAll, Why: "lvm"},
		{Name: "libdevmapper-event1.02.1", Follow: debian.FollowAll, Why: "lvm"},
		{Name: "libedit2", Follow: debian.FollowAll, Why: "lvm"},
		{Name: "libsystemd-shared", Follow: debian.FollowAll, Why: "systemd's programs"},
		{Name: "lvm2", Follow: debian.FollowNone, Why: "volumes of guests, without the services of Debian's"},
		{Name: "ncurses-base", Follow: debian.FollowAll, Why: "pygrub's terminals"},
		{Name: "nftables", Follow: debian.FollowAll, Why: "the host's own filter"},
		{Name: "libproc2-0", Follow: debian.FollowAll, Why: "sysctl"},
		{Name: "procps", Follow: debian.FollowNone, Why: "sysctl"},
		{Name: "qemu-system-xen", Follow: debian.FollowAll, Why: "the machine of HVM guests"},
		{Name: "sed", Follow: debian.FollowAll, Why: "hotplug scripts"},
		{Name: "systemd", Follow: debian.FollowNone, Why: "the network as rempart host writes it"},
		{Name: "sysvinit-utils", Follow: debian.FollowNone, Why: "what xendomains is written with"},
		{Name: "thin-provisioning-tools", Follow: debian.FollowAll, Why: "without them lvm2 activates no thin pool"},
		{Name: "util-linux", Follow: debian.FollowAll, Why: "flock of the hotplug scripts, losetup"},
		{Name: hypervisorPackage, Follow: debian.FollowNone, Why: "Xen itself"},
		{Name: "xen-utils-4.17", Follow: debian.FollowAll, Why: "xl and the daemons"},
		{Name: "xenstore-utils", Follow: debian.FollowAll, Why: "reading what guests say"},
	}
}

const (
	hypervisorPackage = "xen-hypervisor-4.17-amd64"
	kernelMeta        = "linux-image-amd64"
	grubXen           = "grub-xen-host"
)

// lockFile names the packages; TestLock renews it.
func lockFile() string { return filepath.Join(rig.Top(), "test", "xen", "host", "dom0.lock") }

// modules are those dom0 loads, in order.
func modules() []string {
	return strings.Fields(`virtio_pci virtio_blk virtio_console virtio_net crc32c_generic erofs overlay loop bridge tun
		bonding br_netfilter dummy nf_tables nft_ct nft_reject_inet dm-mod dm-snapshot dm-thin-pool ext4
		xen-evtchn xen-gntdev xen-gntalloc xen-privcmd xenfs xen-netback xen-blkback`)
}

// left out of dom0: what nobody reads there.
var unread = []string{"usr/share/doc/", "usr/share/man/", "usr/share/locale/", "usr/share/info/", "usr/share/lintian/",
	"usr/share/bug/", "boot/", "lib/modules/", "usr/share/python3/", "lib/udev/", "usr/lib/udev/", "lib/systemd/"}

// ofSystemd are its programs that dom0 has all the same, without what it starts them with.
var ofSystemd = []string{"lib/systemd/systemd-networkd", "lib/systemd/systemd-networkd-wait-online",
	"lib/systemd/systemd-udevd"}

// image is what QEMU starts, as files of a folder.
type image struct{ xen, kernel, initrd, root string }

// build makes dom0's root, kernel and initramfs and unpacks Xen, in dir.
func build(ctx context.Context, dir string) (image, error) {
	made := image{filepath.Join(dir, "xen"), filepath.Join(dir, "vmlinux"), filepath.Join(dir, "initrd"),
		filepath.Join(dir, "root.erofs")}
	packages, err := rig.Packages(ctx, lockFile(), Roots())
	if err != nil {
		return made, fmt.Errorf("packages of dom0: %w", err)
	}
	var all []tree.Entry
	for _, p := range packages {
		defer p.Close()
		entries, err := p.Entries()
		if err != nil {
			return made, err
		}
		switch p.Name {
		case grubXen:
			entries = filter(entries, func(path string) bool { return strings.HasSuffix(path, ".bin") })
		case "systemd":
			entries = filter(entries, func(path string) bool { return slices.Contains(ofSystemd, path) })
		}
		all = append(all, entries...)
	}
	program, err := buildInit(ctx, dir)
	if err != nil {
		return made, err
	}
	if err := makeRoot(made.root, program, all); err != nil {
		return made, fmt.Errorf("root of dom0: %w", err)
	}
	if err := unpackXen(made.xen, all); err != nil {
		return made, err
	}
	var ofKernel []tree.Entry
	for _, e := range all {
		if isXen := strings.Contains(e.Path, "xen"); strings.HasPrefix(e.Path, "boot/") && !isXen ||
			strings.HasPrefix(e.Path, "lib/modules/") {
			ofKernel = append(ofKernel, e)
		}
	}
	k, err := kernel.Open(ofKernel)
	if err != nil {
		return made, err
	}
	if err := unpackKernel(ctx, made.kernel, k); err != nil {
		return made, fmt.Errorf("kernel of dom0: %w", err)
	}
	return made, makeInitrd(ctx, made.initrd, program, k)
}

func filter(entries []tree.Entry, keep func(path string) bool) []tree.Entry {
	var kept []tree.Entry
	for _, e := range entries {
		if keep(e.Path) {
			kept = append(kept, e)
		}
	}
	return kept
}

// applets are the commands busybox stands in for: last on PATH.
var applets = strings.Fields(`awk logger mount umount ps hostname sysctl nc tar vi ping find
	xargs kill uptime free ifconfig sha256sum which cpio gzip gunzip`)

// scripts are the hotplug scripts that dom0's init stands in for.
var scripts = []string{"etc/xen/scripts/block", "etc/xen/scripts/vif-bridge"}

// makeRoot writes dom0's root, with program as some of the hotplug scripts.
func makeRoot(name string, program []byte, entries []tree.Entry) error {
	t := new(tree.Tree)
	for _, e := range entries {
		skip := false
		for _, prefix := range unread {
			skip = skip || strings.HasPrefix(e.Path+"/", prefix) && !slices.Contains(ofSystemd, e.Path)
		}
		if skip || e.Path == "var/run" || e.Path == "var/lock" {
			continue
		}
		if slices.Contains(scripts, e.Path) {
			e.Path += ".debian"
		}
		if err := t.Add(e); err != nil {
			return err
		}
	}
	const origin = "test"
	own := []tree.Entry{
		tree.Symlink("bin/sh", "bash", origin),
		tree.Symlink("var/run", "/run", origin),
		tree.Symlink("var/lock", "/run/lock", origin),
		tree.Symlink("etc/mtab", "/proc/mounts", origin),
		tree.Bytes("etc/passwd", 0o644, []byte("root:x:0:0:root:/root:/bin/sh\n"+
			"systemd-network:x:998:998::/:/usr/sbin/nologin\n"), origin),
		tree.Bytes("etc/group", 0o644, []byte("root:x:0:\nsystemd-network:x:998:\n"), origin),
		tree.Bytes("etc/hosts", 0o644, []byte("127.0.0.1 localhost dom0\n"), origin),
		tree.Dir("var/log/xen/console", 0o755, origin),
	}
	for _, dir := range []string{"dev", "proc", "sys", "run", "tmp", "root", "mnt", "busybox"} {
		own = append(own, tree.Dir(dir, 0o755, origin))
	}
	for _, script := range scripts {
		own = append(own, tree.Bytes(script, 0o755, program, origin))
	}
	for _, applet := range applets {
		own = append(own, tree.Symlink("busybox/"+applet, "/bin/busybox", origin))
	}
	for _, e := range own {
		if err := t.Add(e); err != nil {
			return err
		}
	}
	content, err := erofs.Write(t)
	if err != nil {
		return err
	}
	return os.WriteFile(name, content, 0o600)
}

// unpackXen unpacks the hypervisor: QEMU's multiboot loader takes nothing but a plain ELF.
func unpackXen(name string, entries []tree.Entry) error {
	for _, e := range entries {
		if !strings.HasPrefix(e.Path, "boot/xen-") || !strings.HasSuffix(e.Path, ".gz") || !e.Mode.IsRegular() {
			continue
		}
		r, err := e.Open()
		if err != nil {
			return err
		}
		defer r.Close()
		z, err := gzip.NewReader(r)
		if err != nil {
			return err
		}
		f, err := os.Create(name)
		if err != nil {
			return err
		}
		_, err = io.Copy(f, z)
		return errors.Join(err, f.Close())
	}
	return errors.New("no package brings boot/xen-*.gz")
}

// unpackKernel takes the ELF out of a bzImage, which saves Xen the 9 seconds that takes in software.
func unpackKernel(ctx context.Context, name string, k *kernel.Kernel) error {
	r, err := k.Image.Open()
	if err != nil {
		return err
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	payload, err := bzimage.Payload(b)
	if err != nil {
		return fmt.Errorf("%s: %w", k.Image.Path, err)
	}
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer f.Close()
	// xz's x86 filter is none of those our readers know. Four bytes with the size follow the stream.
	cmd := exec.CommandContext(ctx, "xz", "--decompress", "--single-stream", "--stdout")
	var complaints bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(payload), f, &complaints
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("xz: %w: %s", err, complaints.Bytes())
	}
	return nil
}

// buildInit builds dom0's init.
func buildInit(ctx context.Context, dir string) ([]byte, error) {
	program := filepath.Join(dir, "dom0")
	cmd := exec.CommandContext(ctx, "go", "build", "-ldflags=-s -w", "-o", program, "rempart/test/xen/dom0")
	cmd.Dir, cmd.Env = rig.Top(), append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("dom0's init: %w\n%s", err, out)
	}
	return os.ReadFile(program)
}

// makeInitrd writes dom0's initramfs: its init and its modules.
func makeInitrd(ctx context.Context, name string, program []byte, k *kernel.Kernel) error {
	var wants []kernel.Want
	for _, m := range modules() {
		wants = append(wants, kernel.Want{Name: m, Why: "dom0"})
	}
	set, err := k.Select(ctx, wants)
	if err != nil {
		return err
	}
	t, err := initramfs.Tree(set, modules(), program)
	if err != nil {
		return err
	}
	var archive bytes.Buffer
	if err := initramfs.Write(&archive, t); err != nil {
		return err
	}
	return os.WriteFile(name, archive.Bytes(), 0o600)
}
