package kernel

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/ulikunitz/xz"

	"rempart/builder/rootfs/tree"
)

// maxModinfo bounds the .modinfo section; the largest of Debian's kernels (amdgpu, with its firmware names and
// aliases) has 60 KB.
const maxModinfo = 1 << 20

// signatureMark ends a signed module; MODULE_SIG_STRING of include/linux/module_signature.h.
const signatureMark = "~Module signature appended~\n"

// Module is one module with what its .modinfo section says about others.
type Module struct {
	Name    string   // as the kernel knows it, with '_' for '-'
	Path    string   // below the modules' directory: "kernel/fs/erofs/erofs.ko"
	Depends []string // names of modules that must be loaded before; normalised
	Pre     []string // names or aliases that should be loaded before, where they exist
	Post    []string // the same, after
	Aliases []string // patterns of devices, and other names
	Softs   []string // the soft dependencies as written: "pre: crc32c"
	Origin  string

	content []byte // the uncompressed file
}

// Size is the size of the module's uncompressed file in bytes.
func (m *Module) Size() int64 { return int64(len(m.content)) }

// Signed tells whether a signature is appended to the module.
func (m *Module) Signed() bool { return bytes.HasSuffix(m.content, []byte(signatureMark)) }

// Entry returns the module's file at its place below the modules' directory dir.
func (m *Module) Entry(dir string) tree.Entry {
	return tree.Bytes(dir+"/"+m.Path, 0o644, m.content, m.Origin)
}

// load opens a module of the package.
func (f moduleFile) load() (*Module, error) {
	content, err := read(f.entry, maxModule)
	if err != nil {
		return nil, err
	}
	if f.xz {
		if content, err = unxz(content); err != nil {
			return nil, fmt.Errorf("/%s of %s: %w", f.entry.Path, f.entry.Origin, err)
		}
	}
	m := &Module{Name: moduleName(f.path), Path: f.path, Origin: f.entry.Origin, content: content}
	if err := m.parse(); err != nil {
		return nil, fmt.Errorf("/%s of %s: %w", f.entry.Path, f.entry.Origin, err)
	}
	return m, nil
}

// unxz unpacks an .xz file of at most maxModule bytes.
func unxz(packed []byte) ([]byte, error) {
	r, err := xz.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, fmt.Errorf("xz: %w", err)
	}
	b, err := io.ReadAll(io.LimitReader(r, maxModule+1))
	if err != nil {
		return nil, fmt.Errorf("xz: %w", err)
	}
	if len(b) > maxModule {
		return nil, fmt.Errorf("xz: it unpacks to more than %d bytes", maxModule)
	}
	return b, nil
}

// parse reads .modinfo out of the ELF file: strings "key=value", each ended by a NUL (include/linux/moduleparam.h).
func (m *Module) parse() error {
	f, err := elf.NewFile(bytes.NewReader(m.content))
	if err != nil {
		return fmt.Errorf("not a kernel module: %w", err)
	}
	if f.Type != elf.ET_REL {
		return fmt.Errorf("not a kernel module: ELF type %v, want %v", f.Type, elf.ET_REL)
	}
	section := f.Section(".modinfo")
	if section == nil || section.Type != elf.SHT_PROGBITS {
		return errors.New("not a kernel module: no .modinfo section")
	}
	if section.Size > maxModinfo {
		return fmt.Errorf(".modinfo has %d bytes; the limit is %d", section.Size, maxModinfo)
	}
	info, err := section.Data()
	if err != nil {
		return fmt.Errorf("reading .modinfo: %w", err)
	}
	for _, field := range bytes.Split(info, []byte{0}) {
		key, value, _ := strings.Cut(string(field), "=")
		if strings.ContainsAny(value, "\n\r") && (key == "alias" || key == "softdep" || key == "depends") {
			return fmt.Errorf(".modinfo: line break in %s=%q", key, value)
		}
		switch key {
		case "depends":
			for _, d := range strings.Split(value, ",") {
				if d != "" {
					m.Depends = append(m.Depends, normalise(d))
				}
			}
		case "alias":
			m.Aliases = append(m.Aliases, value)
		case "softdep":
			m.Softs = append(m.Softs, value)
			pre, post := parseSoftdep(value)
			m.Pre, m.Post = append(m.Pre, pre...), append(m.Post, post...)
		case "name":
			if normalise(value) != m.Name {
				return fmt.Errorf(".modinfo says the module is %q, the file name says %q", value, m.Name)
			}
		}
	}
	return nil
}

// parseSoftdep splits "pre: a b post: c"; modprobe.d(5) has the syntax. Words before the first mark mean nothing.
func parseSoftdep(s string) (pre, post []string) {
	var into *[]string
	for _, word := range strings.Fields(s) {
		switch {
		case word == "pre:":
			into = &pre
		case word == "post:":
			into = &post
		case into != nil:
			*into = append(*into, word)
		}
	}
	return pre, post
}
