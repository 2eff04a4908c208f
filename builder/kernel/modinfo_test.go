package kernel

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"io/fs"
	"slices"
	"strings"
	"testing"

	"rempart/builder/rootfs/tree"
)

// TestBadModules gives Select modules that are none.
func TestBadModules(t *testing.T) {
	k := open(t)
	boot, err := k.BootSet(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	good := boot.Lookup("erofs").content
	for _, c := range []struct {
		name, path string
		content    []byte
		want       string
	}{
		{"empty", "a.ko", nil, "not a kernel module"},
		{"text", "a.ko", []byte("hello"), "not a kernel module"},
		{"cut short", "erofs.ko", good[:len(good)/2], ""},
		{"another name", "a.ko", good, `"erofs"`},
		{"not xz", "erofs.ko.xz", good, "xz"},
		{"a dependency that is missing", "erofs.ko", good, "libcrc32c"},
	} {
		entries := []tree.Entry{tree.Bytes("boot/vmlinuz-1", fs.FileMode(0o644), []byte("MZ"), "test"),
			tree.Bytes("lib/modules/1/kernel/"+c.path, 0o644, c.content, "test")}
		bad, err := Open(entries)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		_, err = bad.Select(t.Context(), []Want{{Name: strings.SplitN(c.path, ".", 2)[0], Why: "a test"}})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("Select of a module that is %s: %v; want an error with %q", c.name, err, c.want)
		}
	}
}

// smallModule is the least ELF file that parse takes for a module: a fuzzer gets nowhere with a real one.
func smallModule(modinfo string) []byte {
	const names = "\x00.modinfo\x00"
	var b bytes.Buffer
	put := func(v any) {
		if err := binary.Write(&b, binary.LittleEndian, v); err != nil {
			panic(err)
		}
	}
	const start = 64 // behind the header
	h := elf.Header64{Type: uint16(elf.ET_REL), Machine: uint16(elf.EM_X86_64), Version: 1, Ehsize: 64,
		Shoff: uint64(start + len(modinfo) + len(names)), Shentsize: 64, Shnum: 3, Shstrndx: 2}
	copy(h.Ident[:], "\x7fELF\x02\x01\x01")
	put(h)
	b.WriteString(modinfo + names)
	put([]elf.Section64{{},
		{Name: 1, Type: uint32(elf.SHT_PROGBITS), Off: start, Size: uint64(len(modinfo))},
		{Type: uint32(elf.SHT_STRTAB), Off: uint64(start + len(modinfo)), Size: uint64(len(names))}})
	return b.Bytes()
}

// TestModinfo wants each key to be read, and a line break to be refused.
func TestModinfo(t *testing.T) {
	m := &Module{Name: "virtio_x", content: smallModule("name=virtio-x\x00depends=a-b,c\x00alias=pci:v*\x00alias=y\x00" +
		"softdep=pre: p-1 q post: r\x00license=GPL\x00")}
	if err := m.parse(); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(m.Depends, []string{"a_b", "c"}) || !slices.Equal(m.Aliases, []string{"pci:v*", "y"}) ||
		!slices.Equal(m.Pre, []string{"p-1", "q"}) || !slices.Equal(m.Post, []string{"r"}) {
		t.Errorf("parse = depends %q, aliases %q, pre %q, post %q", m.Depends, m.Aliases, m.Pre, m.Post)
	}
	for _, bad := range []string{"alias=a\nalias=b", "depends=a\n", "softdep=pre:\ra", "name=other"} {
		if err := (&Module{Name: "virtio", content: smallModule(bad)}).parse(); err == nil {
			t.Errorf("parse of %q = nil; want an error", bad)
		}
	}
}

// FuzzModinfo gives the parser bytes from outside. It must neither fail hard nor let a line break into an index.
func FuzzModinfo(f *testing.F) {
	f.Add(smallModule("name=virtio\x00depends=a,b\x00alias=pci:v*\x00softdep=pre: c post: d\x00"))
	f.Add([]byte("\x7fELF"))
	f.Fuzz(func(t *testing.T, b []byte) {
		m := &Module{Name: "virtio", Path: "kernel/virtio.ko", content: b}
		if m.parse() != nil {
			return
		}
		set := &Set{Modules: []*Module{m}}
		for _, index := range [][]byte{set.alias(), set.softdep(), set.dep()} {
			if lines := bytes.Count(index, []byte("\n")); lines > len(m.Aliases)+len(m.Softs)+1 {
				t.Errorf("an index has %d lines from %d aliases and %d soft dependencies:\n%s",
					lines, len(m.Aliases), len(m.Softs), index)
			}
		}
	})
}
