package rootfs

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"io/fs"
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

// smallProgram is the least ELF file in which parseObject finds something: a fuzzer gets nowhere with a real one.
func smallProgram() []byte {
	const (
		interpreter = "/lib64/ld.so\x00"
		names       = "\x00libx.so.1\x00/opt/lib:/lib\x00"
	)
	var b bytes.Buffer
	put := func(v any) {
		if err := binary.Write(&b, binary.LittleEndian, v); err != nil {
			panic(err)
		}
	}
	const (
		programs = 64
		interp   = programs + 56
		strs     = interp + len(interpreter)
		dyn      = strs + len(names)
		sections = dyn + 3*16
	)
	h := elf.Header64{Type: uint16(elf.ET_DYN), Machine: uint16(elf.EM_X86_64), Version: 1, Phoff: programs,
		Shoff: uint64(sections), Ehsize: 64, Phentsize: 56, Phnum: 1, Shentsize: 64, Shnum: 3, Shstrndx: 1}
	copy(h.Ident[:], "\x7fELF\x02\x01\x01")
	put(h)
	put(elf.Prog64{Type: uint32(elf.PT_INTERP), Off: interp, Filesz: uint64(len(interpreter))})
	b.WriteString(interpreter)
	b.WriteString(names)
	put([]elf.Dyn64{{Tag: int64(elf.DT_NEEDED), Val: 1}, {Tag: int64(elf.DT_RUNPATH), Val: 11}, {}})
	put([]elf.Section64{{},
		{Type: uint32(elf.SHT_STRTAB), Off: uint64(strs), Size: uint64(len(names))},
		{Type: uint32(elf.SHT_DYNAMIC), Off: uint64(dyn), Size: 3 * 16, Link: 1, Entsize: 16}})
	return b.Bytes()
}

// TestObject wants the small program to be read as it was written.
func TestObject(t *testing.T) {
	o, err := parseObject(smallProgram())
	if err != nil {
		t.Fatal(err)
	}
	if o.interpreter != "/lib64/ld.so" || !slices.Equal(o.needed, []string{"libx.so.1"}) ||
		!slices.Equal(o.runpath, []string{"opt/lib", "lib"}) || o.machine != elf.EM_X86_64 {
		t.Errorf("parseObject = %+v; want the interpreter /lib64/ld.so, libx.so.1, and two directories", o)
	}
}

// FuzzObject gives the ELF reader bytes from outside.
func FuzzObject(f *testing.F) {
	f.Add(smallProgram())
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
