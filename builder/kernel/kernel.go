// Package kernel takes a Debian kernel package apart: the kernel image, its release, and out of its thousand modules
// the closure of those an appliance needs, with the text indices that the package itself does not carry (depmod
// makes them when a package is installed).
//
// Only the modules asked for and what they need are opened: they are found by file name, and their .modinfo says the
// rest. Modules are kept whole, debug-stripped as Debian ships them and with their signature; compressed ones
// (.ko.xz, from Debian 13 on) are unpacked, for the verified root is not compressed twice and the guest needs no
// decompressor.
//
// What it deliberately does not do: build or patch anything, read the symbol tables of modules, or write the binary
// indices (*.bin) of kmod, which nothing in a guest reads.
package kernel

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"rempart/builder/rootfs/tree"
)

// ErrNotKernel is returned by Open for entries that are not those of a kernel package.
var ErrNotKernel = errors.New("not a kernel package")

// Limits on what a package may hold. They are far above what Debian ships (amdgpu, the largest module of any
// flavour, has 18 MB; modules.builtin.modinfo has 100 KB) and far below what would hurt.
const (
	maxModule  = 64 << 20
	maxListing = 8 << 20
	maxModules = 20000
)

// Kernel is the content of one kernel package. Its methods may be called by one goroutine at a time.
type Kernel struct {
	Release string     // as in `uname -r`: "6.1.0-56-cloud-amd64"
	Image   tree.Entry // the bootable image, boot/vmlinuz-RELEASE

	config  tree.Entry
	files   map[string]moduleFile // every module, by name
	builtin map[string]bool       // names and aliases of what is linked into the image
	listing []byte                // modules.builtin as shipped
	order   map[string]int        // place in modules.order, by path below the modules' directory
	loaded  map[string]*Module
}

// moduleFile is a module that has not been opened.
type moduleFile struct {
	path  string // below the modules' directory, without the suffix of a compression
	entry tree.Entry
	xz    bool
}

// Open looks through the entries of a kernel package. It reads the listings of built-in modules and nothing else.
// The error wraps ErrNotKernel when there is no image or more than one.
func Open(entries []tree.Entry) (*Kernel, error) {
	k := &Kernel{
		files:   make(map[string]moduleFile),
		builtin: make(map[string]bool),
		order:   make(map[string]int),
		loaded:  make(map[string]*Module),
	}
	for _, e := range entries {
		release, ok := strings.CutPrefix(e.Path, "boot/vmlinuz-")
		if !ok || !e.Mode.IsRegular() {
			continue
		}
		if k.Release != "" {
			return nil, fmt.Errorf("%w: two images, /%s and /%s", ErrNotKernel, k.Image.Path, e.Path)
		}
		if !validRelease(release) {
			return nil, fmt.Errorf("%w: /%s names no kernel release", ErrNotKernel, e.Path)
		}
		k.Release, k.Image = release, e
	}
	if k.Release == "" {
		return nil, fmt.Errorf("%w: there is no boot/vmlinuz-* among its %d files", ErrNotKernel, len(entries))
	}
	// Debian 12 ships lib/modules, Debian 13 usr/lib/modules.
	for _, e := range entries {
		if !e.Mode.IsRegular() {
			continue
		}
		if e.Path == "boot/config-"+k.Release {
			k.config = e
			continue
		}
		below, ok := strings.CutPrefix(strings.TrimPrefix(e.Path, "usr/"), "lib/modules/"+k.Release+"/")
		if !ok {
			continue
		}
		if err := k.index(below, e); err != nil {
			return nil, err
		}
	}
	if len(k.files) == 0 {
		return nil, fmt.Errorf("%w: it holds no modules of %s", ErrNotKernel, k.Release)
	}
	return k, nil
}

// index notes one file of the modules' directory.
func (k *Kernel) index(below string, e tree.Entry) error {
	switch below {
	case "modules.builtin":
		b, err := read(e, maxListing)
		if err != nil {
			return err
		}
		k.listing = b
		return eachLine(b, func(line string) { k.builtin[moduleName(line)] = true })
	case "modules.builtin.modinfo":
		b, err := read(e, maxListing)
		if err != nil {
			return err
		}
		k.indexBuiltin(b)
		return nil
	case "modules.order":
		b, err := read(e, maxListing)
		if err != nil {
			return err
		}
		return eachLine(b, func(line string) { k.order[strings.TrimSuffix(line, ".xz")] = len(k.order) })
	}
	base := path.Base(below)
	switch _, suffix, _ := strings.Cut(base, ".ko"); {
	case !strings.Contains(base, ".ko"):
		return nil
	case suffix != "" && suffix != ".xz":
		return fmt.Errorf("/%s: modules with suffix %q cannot be unpacked; only .ko and .ko.xz can", e.Path, suffix)
	}
	// The indices separate paths by blanks and colons.
	if strings.ContainsFunc(below, func(c rune) bool { return c <= ' ' || c == ':' || c >= 0x7f }) {
		return fmt.Errorf("%q: a module's path must be of printable ASCII without blanks and colons", "/"+e.Path)
	}
	name := moduleName(below)
	if old, ok := k.files[name]; ok {
		return fmt.Errorf("/%s: there is another module of that name, %s", e.Path, old.path)
	}
	if len(k.files) == maxModules {
		return fmt.Errorf("/%s: more than %d modules in one package", e.Path, maxModules)
	}
	k.files[name] = moduleFile{path: strings.TrimSuffix(below, ".xz"), entry: e, xz: strings.HasSuffix(below, ".xz")}
	return nil
}

// indexBuiltin notes the aliases of built-in modules, for a soft dependency may name one of those.
func (k *Kernel) indexBuiltin(b []byte) {
	for _, field := range bytes.Split(b, []byte{0}) {
		key, value, _ := strings.Cut(string(field), "=")
		if strings.HasSuffix(key, ".alias") {
			k.builtin[normalise(value)] = true
		}
	}
}

// Builtin tells whether a module, or something that answers to that alias, is part of the image.
func (k *Kernel) Builtin(name string) bool { return k.builtin[normalise(name)] }

// Config returns the value of an option of the kernel's configuration, "RD_ZSTD" for CONFIG_RD_ZSTD: "y", "m", a
// number, a string in its quotes; "" when it is not set.
func (k *Kernel) Config(option string) (string, error) {
	if k.config.Open == nil {
		return "", fmt.Errorf("kernel %s: the package has no boot/config-%s", k.Release, k.Release)
	}
	b, err := read(k.config, maxListing)
	if err != nil {
		return "", err
	}
	var value string
	err = eachLine(b, func(line string) {
		if v, ok := strings.CutPrefix(line, "CONFIG_"+option+"="); ok {
			value = v
		}
	})
	return value, err
}

// validRelease accepts what `uname -r` can say: one path element of the characters Debian uses in versions.
func validRelease(s string) bool {
	if s == "" || s[0] == '.' || len(s) > 64 { // __NEW_UTS_LEN of linux/utsname.h is 64
		return false
	}
	for _, c := range s {
		switch {
		case c >= '0' && c <= '9', c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', strings.ContainsRune("._+-~", c):
		default:
			return false
		}
	}
	return true
}

// moduleName is the name the kernel gives to the module in a file: "kernel/drivers/block/xen-blkfront.ko.xz" is
// xen_blkfront.
func moduleName(file string) string {
	base, _, _ := strings.Cut(path.Base(file), ".ko")
	return normalise(base)
}

// normalise makes names comparable: the kernel takes '-' and '_' in module names for the same.
func normalise(name string) string { return strings.ReplaceAll(name, "-", "_") }

// read returns a file's content, at most limit bytes of it.
func read(e tree.Entry, limit int64) ([]byte, error) {
	if e.Size > limit {
		return nil, fmt.Errorf("/%s of %s has %d bytes; the limit is %d", e.Path, e.Origin, e.Size, limit)
	}
	r, err := e.Open()
	if err != nil {
		return nil, fmt.Errorf("/%s of %s: %w", e.Path, e.Origin, err)
	}
	defer r.Close()
	b := make([]byte, e.Size)
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, fmt.Errorf("/%s of %s: reading %d bytes: %w", e.Path, e.Origin, e.Size, err)
	}
	return b, nil
}

func eachLine(b []byte, f func(string)) error {
	s := bufio.NewScanner(bytes.NewReader(b))
	for s.Scan() {
		if line := strings.TrimSpace(s.Text()); line != "" {
			f(line)
		}
	}
	return s.Err()
}
