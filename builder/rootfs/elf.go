package rootfs

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"rempart/builder/rootfs/tree"
)

// maxProgram bounds a program or library, in bytes. The largest a root takes, libc, has 2 MB.
const maxProgram = 128 << 20

// multiarch gives the directory below /usr/lib where Debian keeps the libraries of a machine; Debian's dynamic linker
// looks there first without being told (ld.so(8), and "Multiarch specification" of the Debian wiki).
func multiarch(m elf.Machine) string {
	switch m {
	case elf.EM_X86_64:
		return "x86_64-linux-gnu"
	case elf.EM_AARCH64:
		return "aarch64-linux-gnu"
	}
	return ""
}

// ELFClosure returns the programs, and the shared libraries and the dynamic linker they need, with the links through
// which they are found. Programs are paths without the leading slash; everything must be in the packages. What a
// program opens with dlopen is not seen.
func ELFClosure(packages []Package, programs ...string) ([]tree.Entry, error) {
	a, err := newArchive(packages)
	if err != nil {
		return nil, err
	}
	return a.closure(programs)
}

func (a *archive) closure(programs []string) ([]tree.Entry, error) {
	var found []tree.Entry
	seen := make(map[string]bool)
	type need struct{ path, by string }
	var queue []need
	for _, p := range programs {
		queue = append(queue, need{path: p})
	}
	machine := elf.EM_NONE
	for ; len(queue) > 0; queue = queue[1:] {
		chain, err := a.find(queue[0].path)
		if err != nil {
			if queue[0].by != "" {
				return nil, fmt.Errorf("/%s needs %w", queue[0].by, err)
			}
			return nil, err
		}
		fresh := false
		for _, e := range chain {
			if !seen[e.Path] {
				seen[e.Path], fresh = true, true
				found = append(found, e)
			}
		}
		if !fresh {
			continue
		}
		file := chain[len(chain)-1]
		obj, err := readObject(file)
		if err != nil {
			return nil, fmt.Errorf("/%s of %s: %w", file.Path, file.Origin, err)
		}
		if machine == elf.EM_NONE {
			machine = obj.machine
		}
		if obj.machine != machine {
			return nil, fmt.Errorf("/%s of %s is for %v; what needs it is for %v", file.Path, file.Origin, obj.machine, machine)
		}
		if obj.interpreter != "" {
			queue = append(queue, need{strings.TrimPrefix(obj.interpreter, "/"), file.Path})
		}
		for _, lib := range obj.needed {
			p, err := a.library(obj, lib)
			if err != nil {
				return nil, fmt.Errorf("/%s of %s needs %s: %w", file.Path, file.Origin, lib, err)
			}
			queue = append(queue, need{p, file.Path})
		}
	}
	return found, nil
}

// library returns the path at which the dynamic linker finds a library.
func (a *archive) library(obj *object, name string) (string, error) {
	if strings.Contains(name, "/") {
		return strings.TrimPrefix(name, "/"), nil
	}
	dirs := slices.Clone(obj.runpath)
	if triplet := multiarch(obj.machine); triplet != "" {
		dirs = append(dirs, "usr/lib/"+triplet)
	}
	for _, dir := range append(dirs, "usr/lib", "usr/lib64") {
		p := merged(path.Join(dir, name))
		if _, ok := a.entries[p]; ok {
			return p, nil
		}
	}
	return "", errNoFile
}

// object is what an ELF file says it needs.
type object struct {
	machine     elf.Machine
	interpreter string   // absolute path; empty for libraries
	needed      []string // DT_NEEDED
	runpath     []string // DT_RUNPATH and DT_RPATH, without the leading slash
}

// readObject reads the headers of an ELF file.
func readObject(e tree.Entry) (*object, error) {
	if e.Size > maxProgram {
		return nil, fmt.Errorf("%d bytes; the limit is %d", e.Size, maxProgram)
	}
	r, err := e.Open()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	content := make([]byte, e.Size)
	if _, err := io.ReadFull(r, content); err != nil {
		return nil, fmt.Errorf("reading %d bytes: %w", e.Size, err)
	}
	return parseObject(content)
}

func parseObject(content []byte) (*object, error) {
	f, err := elf.NewFile(bytes.NewReader(content))
	if err != nil {
		return nil, fmt.Errorf("not an ELF file: %w", err)
	}
	if f.Type != elf.ET_EXEC && f.Type != elf.ET_DYN {
		return nil, fmt.Errorf("ELF type %v; want a program or a shared library", f.Type)
	}
	o := &object{machine: f.Machine}
	for _, p := range f.Progs {
		if p.Type != elf.PT_INTERP {
			continue
		}
		if p.Filesz > 4096 { // PATH_MAX of linux/limits.h
			return nil, fmt.Errorf("PT_INTERP of %d bytes", p.Filesz)
		}
		b := make([]byte, p.Filesz)
		if _, err := p.ReadAt(b, 0); err != nil {
			return nil, fmt.Errorf("PT_INTERP: %w", err)
		}
		o.interpreter = string(bytes.TrimRight(b, "\x00"))
	}
	if o.needed, err = dynamic(f, elf.DT_NEEDED); err != nil {
		return nil, err
	}
	for _, tag := range []elf.DynTag{elf.DT_RUNPATH, elf.DT_RPATH} {
		values, err := dynamic(f, tag)
		if err != nil {
			return nil, err
		}
		for _, dirs := range values {
			for _, dir := range strings.Split(dirs, ":") {
				if !path.IsAbs(dir) {
					return nil, fmt.Errorf("%v %q: only absolute directories can be followed", tag, dir)
				}
				o.runpath = append(o.runpath, strings.TrimPrefix(path.Clean(dir), "/"))
			}
		}
	}
	return o, nil
}

// dynamic returns the strings of a tag of the dynamic section; none for a static program.
func dynamic(f *elf.File, tag elf.DynTag) ([]string, error) {
	if f.SectionByType(elf.SHT_DYNAMIC) == nil {
		for _, p := range f.Progs {
			if p.Type == elf.PT_DYNAMIC {
				return nil, errors.New("a dynamic segment without its section header")
			}
		}
		return nil, nil
	}
	values, err := f.DynString(tag)
	if err != nil {
		return nil, fmt.Errorf("%v: %w", tag, err)
	}
	return values, nil
}
