package kernel

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/ulikunitz/xz"

	"rempart/builder/rootfs/debtest"
	"rempart/builder/rootfs/tree"
	"rempart/profiles"
)

func open(t testing.TB) *Kernel {
	t.Helper()
	k, err := Open(debtest.Entries(t, debtest.KernelPackage(t)))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func content(t testing.TB, e tree.Entry) []byte {
	t.Helper()
	r, err := e.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestIndicesAgreeWithDepmod writes our choice of modules to a directory, lets depmod index it and compares.
func TestIndicesAgreeWithDepmod(t *testing.T) {
	k := open(t)
	for _, c := range []struct {
		name string
		get  func(context.Context) (*Set, error)
	}{{"boot", k.BootSet}, {"root", func(ctx context.Context) (*Set, error) {
		return k.RootSet(ctx, true)
	}}} {
		t.Run(c.name, func(t *testing.T) {
			set, err := c.get(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			root := t.TempDir()
			ours := make(map[string][]byte)
			for _, e := range set.Entries("lib/modules/" + k.Release) {
				b := content(t, e)
				if int64(len(b)) != e.Size {
					t.Fatalf("/%s: %d bytes; its entry says %d", e.Path, len(b), e.Size)
				}
				name := filepath.Base(e.Path)
				ours[name] = b
				if strings.HasPrefix(name, "modules.") && name != fileBuiltin {
					continue // depmod shall write these
				}
				file := filepath.Join(root, e.Path)
				if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(file, b, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			debtest.Run(t, "kmod", "depmod", "-b", root, k.Release)
			for _, name := range []string{fileDep, fileAlias, fileSoftdep} {
				theirs, err := os.ReadFile(filepath.Join(root, "lib/modules", k.Release, name))
				if err != nil {
					t.Fatal(err)
				}
				if got, want := comparable(name, ours[name]), comparable(name, theirs); got != want {
					t.Errorf("%s = %s; depmod's is %s", name, first(got, want), first(want, got))
				}
			}
			checkLoadOrder(t, set)
		})
	}
}

// comparable sorts the lines of an index, and the dependencies in a line of modules.dep: depmod orders them by the
// symbol tables, which we do not read. That our order can be loaded is checkLoadOrder's question.
func comparable(name string, b []byte) string {
	lines := strings.Split(string(b), "\n")
	if name == fileDep {
		for i, line := range lines {
			words := strings.Fields(line)
			if len(words) > 1 {
				sort.Strings(words[1:])
			}
			lines[i] = strings.Join(words, " ")
		}
	}
	sort.Strings(lines)
	return strings.Join(lines, "\n")
}

// first returns the first line of a that b has not.
func first(a, b string) string {
	lines := strings.Split(b, "\n")
	for _, line := range strings.Split(a, "\n") {
		if !slices.Contains(lines, line) {
			return "..." + line + "..."
		}
	}
	return "nothing more"
}

// checkLoadOrder loads each line of modules.dep from right to left and wants each module's own needs to be there.
func checkLoadOrder(t *testing.T, set *Set) {
	t.Helper()
	direct := make(map[string][]string)
	for _, m := range set.Modules {
		for _, d := range m.Depends {
			if n := set.Lookup(d); n != nil {
				direct[m.Path] = append(direct[m.Path], n.Path)
			}
		}
	}
	lines := strings.Split(strings.TrimSpace(string(set.dep())), "\n")
	if len(lines) != len(set.Modules) {
		t.Errorf("modules.dep has %d lines; want %d", len(lines), len(set.Modules))
	}
	for _, line := range lines {
		words := strings.Fields(strings.Replace(line, ":", "", 1))
		there := make(map[string]bool)
		for i := len(words) - 1; i >= 0; i-- {
			for _, d := range direct[words[i]] {
				if !there[d] {
					t.Errorf("%q: %s would be loaded before %s", line, words[i], d)
				}
			}
			there[words[i]] = true
		}
	}
}

// TestSets looks at the sizes, signatures and the absent of what a guest gets.
func TestSets(t *testing.T) {
	k := open(t)
	boot, err := k.BootSet(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	root, err := k.RootSet(t.Context(), false)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s: boot %d modules, %d bytes; root %d modules, %d bytes; absent %q; unmet %q",
		k.Release, len(boot.Modules), boot.Size(), len(root.Modules), root.Size(), root.Absent, root.Unmet)
	if got := boot.Size(); got > 3<<19 {
		t.Errorf("the modules of the initramfs have %d bytes; want at most 1.5 MiB", got)
	}
	if got := root.Size(); got > 8<<20 {
		t.Errorf("the modules of the root have %d bytes; want at most 8 MiB", got)
	}
	for _, m := range root.Modules {
		if !m.Signed() {
			t.Errorf("%s has lost its signature", m.Path)
		}
	}
	for _, name := range []string{"virtio_ring", "virtio-pci-modern-dev", "dm_bufio", "reed_solomon", "libcrc32c"} {
		if boot.Lookup(name) == nil {
			t.Errorf("boot set: no %s; a dependency should have brought it", name)
		}
	}
	if got := k.BootLoads(); !slices.Contains(got, "dm_verity") || !slices.Contains(got, "erofs") {
		t.Errorf("BootLoads() = %q; want dm_verity and erofs among them", got)
	}
}

// TestPreloadIsThere wants every module a profile loads to be in the root or in the image.
func TestPreloadIsThere(t *testing.T) {
	k := open(t)
	root, err := k.RootSet(t.Context(), false)
	if err != nil {
		t.Fatal(err)
	}
	nat := &profiles.Profile{Masquerade: []profiles.Pair{{From: "dmz", To: "internet"}}}
	for _, name := range Preload(nat) {
		if root.Lookup(name) == nil && !k.Builtin(name) {
			t.Errorf("Preload names %s, which is neither in the root set nor built in", name)
		}
	}
	counting := &profiles.Profile{Policy: []profiles.Rule{{Connections: 1}}}
	if got := Preload(counting); !slices.Contains(got, "nft_connlimit") {
		t.Errorf("Preload(a profile that counts connections) = %q; want nft_connlimit among them", got)
	}
	if got := Preload(&profiles.Profile{}); slices.Contains(got, "nft_nat") {
		t.Errorf("Preload of a profile without NAT = %q; want no nft_nat", got)
	}
}

// TestWantsHaveReasons keeps the lists readable and free of doubles.
func TestWantsHaveReasons(t *testing.T) {
	seen := make(map[string]bool)
	for _, w := range slices.Concat(BootWants(), RootWants()) {
		if w.Why == "" {
			t.Errorf("%s is wanted for no reason", w.Name)
		}
		if seen[w.Name] {
			t.Errorf("%s is wanted twice", w.Name)
		}
		seen[w.Name] = true
	}
}

// TestSelect covers what the lists do not: a required module that is missing, a built-in one, a hyphen.
func TestSelect(t *testing.T) {
	k := open(t)
	_, err := k.Select(t.Context(), []Want{{Name: "no_such_module", Why: "a test"}})
	if !errors.Is(err, ErrNoModule) || !strings.Contains(err.Error(), "no_such_module (a test)") {
		t.Errorf("Select(no_such_module) = %v; want ErrNoModule, the name and the reason", err)
	}
	set, err := k.Select(t.Context(), []Want{{Name: "ext4", Why: "built in"}, {Name: "absent", Optional: true, Why: "-"}})
	if err != nil || len(set.Modules) != 0 || !slices.Equal(set.Absent, []string{"absent"}) {
		t.Errorf("Select(ext4, optional absent) = %+v, %v; want an empty set that misses only absent", set, err)
	}
	set, err = k.Select(t.Context(), []Want{{Name: "xen-blkfront", Why: "a hyphen"}})
	if err != nil || set.Lookup("xen_blkfront") == nil {
		t.Errorf("Select(xen-blkfront) = %+v, %v; want xen_blkfront", set, err)
	}
	if v, err := k.Config("RD_ZSTD"); v != "y" || err != nil {
		t.Errorf("Config(RD_ZSTD) = %q, %v; want y", v, err)
	}
	if v, err := k.Config("NO_SUCH_OPTION"); v != "" || err != nil {
		t.Errorf("Config(NO_SUCH_OPTION) = %q, %v; want nothing", v, err)
	}
}

// TestOpenIsLazy wants a warm build to open only what it takes along.
func TestOpenIsLazy(t *testing.T) {
	entries := debtest.Entries(t, debtest.KernelPackage(t))
	opened := make(chan string, len(entries)*2)
	for i := range entries {
		if inner := entries[i].Open; inner != nil {
			entries[i].Open = func() (io.ReadCloser, error) {
				opened <- entries[i].Path
				return inner()
			}
		}
	}
	start := time.Now()
	k, err := Open(entries)
	if err != nil {
		t.Fatal(err)
	}
	set, err := k.RootSet(t.Context(), false)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("opening the package and selecting %d modules took %v", len(set.Modules), time.Since(start))
	if _, err := k.BootSet(t.Context()); err != nil {
		t.Fatal(err)
	}
	// modules.builtin, .builtin.modinfo and .order, and each module once.
	if got, want := len(opened), len(set.Modules)+3; got != want {
		t.Errorf("%d files were opened; want %d", got, want)
	}
}

// TestCompressed packs the modules as Debian 13 does, moves them below usr/lib, and wants the same set to come out.
func TestCompressed(t *testing.T) {
	k := open(t)
	wants := []Want{{Name: "virtio_blk", Why: "a test"}, {Name: "erofs", Why: "a test"}}
	plain, err := k.Select(t.Context(), wants)
	if err != nil {
		t.Fatal(err)
	}
	entries := []tree.Entry{k.Image}
	for _, m := range plain.Modules {
		var b bytes.Buffer
		w, err := xz.WriterConfig{DictCap: 1 << 20, CheckSum: xz.CRC32}.NewWriter(&b)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(m.content); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		entries = append(entries, tree.Bytes("usr/lib/modules/"+k.Release+"/"+m.Path+".xz", 0o644, b.Bytes(), m.Origin))
	}
	var order, builtin bytes.Buffer
	for _, m := range plain.Modules {
		order.WriteString(m.Path + ".xz\n")
	}
	for name := range k.builtin {
		builtin.WriteString("kernel/" + name + ".ko\n")
	}
	dir := "usr/lib/modules/" + k.Release
	entries = append(entries, tree.Bytes(dir+"/modules.order", 0o644, order.Bytes(), "t"),
		tree.Bytes(dir+"/modules.builtin", 0o644, builtin.Bytes(), "t"))
	packed, err := Open(entries)
	if err != nil {
		t.Fatal(err)
	}
	set, err := packed.Select(t.Context(), wants)
	if err != nil {
		t.Fatal(err)
	}
	got, want := set.Entries("m"), plain.Entries("m")
	if len(got) != len(want) {
		t.Fatalf("%d entries came out; want %d", len(got), len(want))
	}
	for i := range got {
		if filepath.Base(want[i].Path) == fileBuiltin {
			continue
		}
		if got[i].Path != want[i].Path || !bytes.Equal(content(t, got[i]), content(t, want[i])) {
			t.Errorf("entry %d is /%s with %d bytes; want /%s with %d", i, got[i].Path, got[i].Size, want[i].Path, want[i].Size)
		}
	}
}

// TestOpenRefuses gives Open what is not a kernel package.
func TestOpenRefuses(t *testing.T) {
	image := func(p string) tree.Entry { return tree.Bytes(p, 0o644, []byte("MZ"), "test") }
	ko := func(p string) tree.Entry { return tree.Bytes(p, 0o644, nil, "test") }
	for _, c := range []struct {
		name    string
		entries []tree.Entry
		want    string
	}{
		{"nothing", nil, "no boot/vmlinuz-*"},
		{"two images", []tree.Entry{image("boot/vmlinuz-1"), image("boot/vmlinuz-2")}, "two images"},
		{"a strange release", []tree.Entry{image("boot/vmlinuz-1 2")}, "no kernel release"},
		{"a link for an image", []tree.Entry{tree.Symlink("boot/vmlinuz-1", "x", "test")}, "no boot/vmlinuz-*"},
		{"no modules", []tree.Entry{image("boot/vmlinuz-1")}, "no modules"},
		{"another kernel's modules", []tree.Entry{image("boot/vmlinuz-1"), ko("lib/modules/2/kernel/a.ko")}, "no modules"},
		{"unknown compression", []tree.Entry{image("boot/vmlinuz-1"), ko("lib/modules/1/kernel/a.ko.zst")}, ".zst"},
		{"a blank in a module's path", []tree.Entry{image("boot/vmlinuz-1"), ko("lib/modules/1/kernel/a b.ko")}, "blanks"},
		{"a line break in a module's path", []tree.Entry{image("boot/vmlinuz-1"), ko("lib/modules/1/x\n/b.ko")}, "blanks"},
		{"the same module twice", []tree.Entry{image("boot/vmlinuz-1"), ko("lib/modules/1/kernel/a-b.ko"),
			ko("lib/modules/1/kernel/x/a_b.ko")}, "another module of that name"},
	} {
		if _, err := Open(c.entries); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("Open(%s) = %v; want an error with %q", c.name, err, c.want)
		}
	}
}
