package rootfs

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"syscall"
	"testing"
	"time"

	"rempart/builder/kernel"
	"rempart/builder/rootfs/debtest"
	"rempart/builder/rootfs/tree"
	"rempart/firstboot/contract"
	"rempart/profiles"
)

// packageNames are e2fsprogs and what it depends on, with one package too many.
func packageNames() []string {
	return []string{"e2fsprogs", "libblkid1", "libc6", "libcom-err2", "libext2fs2", "libss2", "libuuid1", "logsave"}
}

func inputs(t testing.TB) Inputs {
	t.Helper()
	in := Inputs{
		Profile: &profiles.Profile{
			Name:       "fw-1",
			Links:      []profiles.Link{{Name: "lan0", Addresses: []netip.Prefix{netip.MustParsePrefix("192.168.0.101/24")}}},
			Masquerade: []profiles.Pair{{From: "dmz", To: "internet"}},
			Hosts:      []profiles.Host{{Name: "proxy", Addresses: []netip.Addr{netip.MustParseAddr("192.168.0.102")}}},
		},
		Firstboot: bytes.Repeat([]byte("\x7fELF firstboot"), 100000),
	}
	for _, name := range append(packageNames(), debtest.KernelPackage(t)) {
		in.Packages = append(in.Packages, Package{Name: name, Entries: debtest.Entries(t, name)})
	}
	k, err := kernel.Open(in.Packages[len(in.Packages)-1].Entries)
	if err != nil {
		t.Fatal(err)
	}
	in.Kernel = k
	in.Master = contract.Master{Name: "fw-1", Version: contract.Version, Arch: "amd64", Kernel: k.Release, Profile: "00"}
	return in
}

// write writes the image of a root to a file.
func write(t testing.TB, r *Root) string {
	t.Helper()
	b := make([]byte, r.Image.Size())
	if _, err := r.Image.ReadAt(b, 0); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "root")
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// TestForeignTools lets veritysetup, fsck.erofs and, with root, the kernel judge a whole root.
func TestForeignTools(t *testing.T) {
	in := inputs(t)
	start := time.Now()
	r, err := Build(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("built in %v: %d bytes; by origin:%s", time.Since(start), r.Image.Size(), byOrigin(r.Files))
	if max := int64(35 << 20); r.Image.Size() > max {
		t.Errorf("the root has %d bytes; want at most %d", r.Image.Size(), max)
	}
	file := write(t, r)
	dataSize := r.Verity.DataBlocks * contract.BlockSize
	debtest.Run(t, "cryptsetup-bin", "veritysetup", "verify", fmt.Sprintf("--hash-offset=%d", dataSize),
		file, file, fmt.Sprintf("%x", r.Verity.RootHash))
	out := filepath.Join(t.TempDir(), "out")
	debtest.Run(t, "erofs-utils", "fsck.erofs", "--extract="+out, "--no-preserve", file)
	for _, f := range r.Files {
		if !f.Mode.IsRegular() {
			continue
		}
		b, err := os.ReadFile(filepath.Join(out, f.Path))
		if err != nil {
			t.Fatal(err)
		}
		if int64(len(b)) != f.Size || sha256.Sum256(b) != f.SHA256 {
			t.Errorf("%s: fsck.erofs took out %d bytes; want %d with the digest of the list", f.Path, len(b), f.Size)
		}
	}
	t.Run("programs", func(t *testing.T) { runPrograms(t, out) })
	t.Run("mount", func(t *testing.T) { mount(t, file, r.Files) })
}

// byOrigin sums sizes by origin, largest first.
func byOrigin(files []File) string {
	sizes := make(map[string]int64)
	for _, f := range files {
		sizes[f.Origin] += f.Size
	}
	var origins []string
	for o := range sizes {
		origins = append(origins, o)
	}
	sort.Slice(origins, func(i, j int) bool {
		a, b := origins[i], origins[j]
		return sizes[a] > sizes[b] || sizes[a] == sizes[b] && a < b
	})
	var s strings.Builder
	for _, o := range origins {
		fmt.Fprintf(&s, "\n  %9d %s", sizes[o], o)
	}
	return s.String()
}

// runPrograms runs the foreign programs inside the root: a library that is missing would show.
func runPrograms(t *testing.T, root string) {
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED, NOT PASSED: chroot needs root; that the programs find their libraries is not shown in this run")
	}
	// The programs ask here whether the disk is in use; a guest has /proc.
	if err := os.MkdirAll(filepath.Join(root, "proc/self"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "proc/self/mounts"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	disk := filepath.Join(root, "disk")
	if err := os.WriteFile(disk, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(disk, 16<<20); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"/sbin/mkfs.ext4", "-q", "-L", contract.StateLabel, "/disk"},
		{"/sbin/fsck.ext4", "-f", "-n", "/disk"},
		{"/sbin/resize2fs", "/disk", "12M"},
		{"/sbin/e2fsck", "-f", "-n", "/disk"},
	} {
		cmd := exec.Command(debtest.Tool(t, "coreutils", "chroot"), append([]string{root}, args...)...)
		cmd.Env = []string{"PATH=/sbin:/bin"}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s in the root: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
}

// mount lets the kernel mount the root and compares every entry with the list.
func mount(t *testing.T, image string, files []File) {
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED, NOT PASSED: mounting a loop device needs root; fsck.erofs alone judges the image in this run")
	}
	dir := t.TempDir()
	debtest.Run(t, "mount", "mount", "-t", "erofs", "-o", "loop,ro", image, dir)
	defer debtest.Run(t, "mount", "umount", dir)
	for _, f := range files {
		p := filepath.Join(dir, f.Path)
		info, err := os.Lstat(p)
		if err != nil {
			t.Error(err)
			continue
		}
		if info.Mode() != f.Mode {
			t.Errorf("%s has mode %v; want %v", f.Path, info.Mode(), f.Mode)
		}
		switch {
		case f.Link != "":
			if got, err := os.Readlink(p); got != f.Link || err != nil {
				t.Errorf("%s links to %q, %v; want %q", f.Path, got, err, f.Link)
			}
		case f.Mode.IsRegular():
			if b, err := os.ReadFile(p); err != nil || sha256.Sum256(b) != f.SHA256 {
				t.Errorf("%s: %d bytes, %v; want the digest of the list", f.Path, len(b), err)
			}
		}
	}
}

// TestContent looks at what a guest relies on.
func TestContent(t *testing.T) {
	in := inputs(t)
	r, err := Build(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	tr, err := Tree(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	text := func(p string) string {
		t.Helper()
		e := tr.Lookup(p)
		if e == nil || e.Open == nil {
			t.Fatalf("/%s = %+v; want a file", p, e)
		}
		f, err := e.Open()
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(f)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	for p, want := range map[string]string{"home": "var/home", "root": "var/root", "sbin": "usr/sbin", "lib": "usr/lib",
		"usr/sbin/poweroff": "init", "usr/sbin/modprobe": "init", "usr/sbin/mkfs.ext4": "mke2fs",
		"etc/resolv.conf": "../run/rempart/link/resolv.conf"} {
		if e := tr.Lookup(p); e == nil || e.Link != want {
			t.Errorf("/%s = %+v; want a link to %s", p, e, want)
		}
	}
	for _, p := range []string{"dev", "proc", "sys", "run", "tmp", "var", "srv"} {
		if e := tr.Lookup(p); e == nil || !e.Mode.IsDir() {
			t.Errorf("/%s = %+v; want a directory", p, e)
		}
	}
	if e := tr.Lookup("tmp"); e.Mode.String() != "dtrwxrwxrwx" {
		t.Errorf("/tmp has mode %v; want drwxrwxrwt", e.Mode)
	}
	var p profiles.Profile
	if err := json.Unmarshal([]byte(text("etc/rempart/profile.json")), &p); err != nil || p.Name != "fw-1" {
		t.Errorf("profile.json = %+v, %v; want that of fw-1", p, err)
	}
	var m contract.Master
	if err := json.Unmarshal([]byte(text("etc/rempart/master.json")), &m); err != nil || m != in.Master {
		t.Errorf("master.json = %+v, %v; want %+v", m, err, in.Master)
	}
	if got := text("etc/hosts"); !strings.Contains(got, "192.168.0.101\tfw-1\n") ||
		!strings.Contains(got, "192.168.0.102\tproxy\n") {
		t.Errorf("/etc/hosts = %q; want fw-1 and proxy at their addresses", got)
	}
	if got := text("etc/passwd"); !strings.Contains(got, "\nrempart-policy:*:900:900::/:/sbin/nologin\n") {
		t.Errorf("/etc/passwd = %q; want the account of the policy", got)
	}
	if got := text("etc/rempart/modules"); !strings.Contains(got, "nf_tables\n") || !strings.Contains(got, "nft_masq\n") {
		t.Errorf("/etc/rempart/modules = %q; want nf_tables and nft_masq", got)
	}
	dir := "usr/lib/modules/" + in.Kernel.Release
	if got := text(dir + "/modules.dep"); !strings.Contains(got, "kernel/drivers/net/virtio_net.ko: ") {
		t.Errorf("modules.dep = %q; want virtio_net", got)
	}
	want := append(slices.Clone(packageNames()), in.Packages[len(in.Packages)-1].Name)
	want = slices.DeleteFunc(want, func(s string) bool { return s == "logsave" || s == "libss2" })
	slices.Sort(want)
	if !slices.Equal(r.UsedPackages, want) {
		t.Errorf("UsedPackages = %q; want %q", r.UsedPackages, want)
	}
	for _, f := range r.Files {
		if f.UID != 0 || f.GID != 0 || f.Mode.Perm()&0o022 != 0 && f.Path != "/tmp" && f.Link == "" {
			t.Errorf("%s: mode %v owner %d:%d; want nothing that others than root may write", f.Path, f.Mode, f.UID, f.GID)
		}
		if strings.HasPrefix(f.Path, "/usr/share") || strings.Contains(f.Path, "locale") ||
			strings.Contains(f.Path, "gconv") {
			t.Errorf("%s has no place in a root", f.Path)
		}
	}
}

// TestLinksLead wants every symbolic link of the root to lead to something in it, or to where the guest writes.
func TestLinksLead(t *testing.T) {
	tr, err := Tree(t.Context(), inputs(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range tr.Entries() {
		if e.Link == "" {
			continue
		}
		target := e.Link
		if !filepath.IsAbs(target) {
			target = filepath.Join("/", filepath.Dir(e.Path), target)
		}
		target = merged(strings.TrimPrefix(filepath.Clean(target), "/"))
		top, _, _ := strings.Cut(target, "/")
		if tr.Lookup(target) == nil && !slices.Contains([]string{"run", "proc", "var"}, top) {
			t.Errorf("/%s of %s leads to /%s, which is not there", e.Path, e.Origin, target)
		}
	}
}

// TestReproducible builds again under another umask and time zone, without a directory for temporary files and from
// packages in another order, and compares every byte.
func TestReproducible(t *testing.T) {
	in := inputs(t)
	first, err := Build(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Umask(syscall.Umask(0o077))
	local := time.Local
	time.Local = time.FixedZone("elsewhere", 5*3600)
	defer func() { time.Local = local }()
	again := inputs(t)
	slices.Reverse(again.Packages)
	t.Setenv("TMPDIR", filepath.Join(t.TempDir(), "not there")) // a build needs no temporary files
	second, err := Build(t.Context(), again)
	if err != nil {
		t.Fatal(err)
	}
	if first.Verity != second.Verity {
		t.Errorf("two builds have root hashes %v and %v", first.Verity, second.Verity)
	}
	a, b := make([]byte, first.Image.Size()), make([]byte, second.Image.Size())
	if _, err := first.Image.ReadAt(a, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := second.Image.ReadAt(b, 0); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(a, b) {
		t.Error("two builds have the same root hash and other bytes")
	}
}

// TestBuildRefuses takes away what a root cannot do without.
func TestBuildRefuses(t *testing.T) {
	whole := inputs(t)
	for _, c := range []struct {
		name  string
		spoil func(*Inputs)
		want  string
	}{
		{"no firstboot", func(in *Inputs) { in.Firstboot = nil }, "guest program is empty"},
		{"no e2fsprogs", func(in *Inputs) { in.Packages = in.Packages[1:] }, "/usr/sbin/mke2fs"},
		{"no libc", func(in *Inputs) {
			in.Packages = slices.DeleteFunc(in.Packages, func(p Package) bool { return p.Name == "libc6" })
		}, "libc.so.6"},
		{"no libext2fs", func(in *Inputs) {
			in.Packages = slices.DeleteFunc(in.Packages, func(p Package) bool { return p.Name == "libext2fs2" })
		}, "libext2fs.so.2"},
		{"a package twice", func(in *Inputs) {
			in.Packages = append(in.Packages, Package{Name: "other", Entries: in.Packages[0].Entries})
		}, "both hold"},
		{"a file longer than its entry", func(in *Inputs) {
			e := tree.Bytes("etc/long", 0o644, []byte("long"), "a test")
			e.Size = 1
			in.Overlays = [][]tree.Entry{{e}}
		}, "/etc/long of a test"},
		{"an overlay on a link", func(in *Inputs) {
			in.Overlays = [][]tree.Entry{{tree.Bytes("home/x", 0o644, nil, "a test")}}
		}, "lies below"},
	} {
		in := whole
		in.Packages = slices.Clone(whole.Packages)
		c.spoil(&in)
		if _, err := Build(t.Context(), in); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("Build with %s = %v; want an error with %q", c.name, err, c.want)
		}
	}
	in := whole
	in.Packages = nil
	if _, err := Build(t.Context(), in); !errors.Is(err, errNoFile) {
		t.Errorf("Build without packages = %v; want errNoFile", err)
	}
}

// BenchmarkBuild is what a warm build spends here.
func BenchmarkBuild(b *testing.B) {
	in := inputs(b)
	for b.Loop() {
		if _, err := Build(b.Context(), in); err != nil {
			b.Fatal(err)
		}
	}
}
