package rootfs

import (
	"io/fs"
	"os"
	"slices"
	"strings"
	"testing"

	"rempart/builder/rootfs/debtest"
	"rempart/builder/rootfs/tree"
)

// TestELFClosure takes the closure of a program and compares it with what ldd says about the same program here.
func TestELFClosure(t *testing.T) {
	var packages []Package
	for _, name := range packageNames() {
		packages = append(packages, Package{Name: name, Entries: debtest.Entries(t, name)})
	}
	entries, err := ELFClosure(packages, "sbin/e2fsck")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Path)
	}
	for _, want := range []string{"usr/sbin/e2fsck", "usr/lib64/ld-linux-x86-64.so.2",
		"usr/lib/x86_64-linux-gnu/libc.so.6", "usr/lib/x86_64-linux-gnu/libext2fs.so.2",
		"usr/lib/x86_64-linux-gnu/libext2fs.so.2.4", "usr/lib/x86_64-linux-gnu/libblkid.so.1"} {
		if !slices.Contains(got, want) {
			t.Errorf("ELFClosure(sbin/e2fsck) = %q; want %s in it", got, want)
		}
	}
	for _, p := range got {
		if strings.Contains(p, "libpthread") || strings.Contains(p, "mke2fs") {
			t.Errorf("ELFClosure(sbin/e2fsck) = %q; nothing needs %s", got, p)
		}
	}
}

// TestFind follows links, and stops where they lead nowhere or in a circle.
func TestFind(t *testing.T) {
	a, err := newArchive([]Package{{Name: "p", Entries: []tree.Entry{
		tree.Bytes("lib/x/file", 0o644, []byte("f"), "p"),
		tree.Symlink("usr/lib/abs", "/lib/x/file", "p"),
		tree.Symlink("usr/bin/rel", "../lib/abs", "p"),
		tree.Symlink("circle", "circle", "p"),
		tree.Symlink("out", "../../../etc/shadow", "p"),
		{Path: "pipe", Mode: fs.ModeNamedPipe},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	chain, err := a.find("bin/rel")
	if err != nil || len(chain) != 3 || chain[2].Path != "usr/lib/x/file" {
		t.Errorf("find(bin/rel) = %+v, %v; want two links and usr/lib/x/file", chain, err)
	}
	for _, p := range []string{"circle", "out", "pipe", "nothing"} {
		if _, err := a.find(p); err == nil {
			t.Errorf("find(%s) = nil; want an error", p)
		}
	}
}

// FuzzObject gives the ELF reader bytes from outside.
func FuzzObject(f *testing.F) {
	program, err := os.ReadFile("/bin/true")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(program)
	f.Add([]byte("\x7fELF\x02\x01\x01"))
	f.Fuzz(func(t *testing.T, b []byte) {
		o, err := parseObject(b)
		if err != nil {
			return
		}
		for _, dir := range o.runpath {
			if strings.HasPrefix(dir, "/") || strings.Contains(dir, "..") {
				t.Errorf("runpath %q leads out", dir)
			}
		}
	})
}
