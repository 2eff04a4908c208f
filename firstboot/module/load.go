package module

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrUnknown is returned for a module or alias the index does not know.
var ErrUnknown = errors.New("no such kernel module")

// Loader loads modules. It is not safe for use by several goroutines at once.
type Loader struct {
	Index *Index
	Dir   string // the kernel's module directory, where the index's paths begin
	// Parameters returns what to pass to a module; nil: nothing.
	Parameters func(module string) string
	// Insert hands one module file to the kernel; nil: finit_module(2).
	Insert func(path, parameters string) error

	tried map[string]error // a module is tried once; a second request gets the first answer
}

// Open reads the index of dir and returns a loader for the running kernel.
func Open(dir string, parameters func(module string) string) (*Loader, error) {
	index, err := ReadIndex(dir)
	if err != nil {
		return nil, err
	}
	return &Loader{Index: index, Dir: dir, Parameters: parameters}, nil
}

// Load loads a module after what it needs. One that is built in or loaded already is no error.
func (l *Loader) Load(name string) error { return l.load(Name(name), nil) }

func (l *Loader) load(name string, above []string) error {
	if err, ok := l.tried[name]; ok {
		return err
	}
	for _, a := range above {
		if a == name {
			return nil // a cycle, which only softdeps make: whoever came first goes on
		}
	}
	if l.tried == nil {
		l.tried = map[string]error{}
	}
	err := l.insert(name, append(above, name))
	l.tried[name] = err
	return err
}

func (l *Loader) insert(name string, above []string) error {
	file := l.Index.files[name]
	if file == "" {
		if l.Index.builtin[name] {
			return nil
		}
		return fmt.Errorf("module %s: %w in %s", name, ErrUnknown, l.Dir)
	}
	// A soft dependency is a wish: its failure is not ours, and the kernel says on the console what was wrong.
	for _, dep := range l.Index.pre[name] {
		_ = l.load(dep, above)
	}
	// modules.dep names the whole closure, the deepest last; loading each with its own needs first gives every order.
	deps := l.Index.deps[name]
	for i := len(deps) - 1; i >= 0; i-- {
		if err := l.load(deps[i], above); err != nil {
			return fmt.Errorf("module %s needs %w", name, err)
		}
	}
	parameters := ""
	if l.Parameters != nil {
		parameters = l.Parameters(name)
	}
	insert := l.Insert
	if insert == nil {
		insert = finit
	}
	if err := insert(filepath.Join(l.Dir, filepath.FromSlash(file)), parameters); err != nil {
		return fmt.Errorf("module %s: %w", name, err)
	}
	for _, dep := range l.Index.post[name] {
		_ = l.load(dep, above)
	}
	return nil
}

// Alias loads every module that an alias names. It returns ErrUnknown when none does, and the first failure after
// having tried all.
func (l *Loader) Alias(alias string) error {
	names := l.Index.Match(alias)
	if len(names) == 0 {
		return fmt.Errorf("alias %.80q: %w in %s", alias, ErrUnknown, l.Dir)
	}
	var first error
	for _, name := range names {
		if err := l.Load(name); err != nil && first == nil {
			first = err
		}
	}
	return first
}

// finit is finit_module(2). EEXIST means somebody else loaded it, which is what was wanted. A device driver says
// ENODEV when the machine lacks its device: nothing to report either.
func finit(path, parameters string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	flags := 0
	if strings.HasSuffix(path, ".xz") || strings.HasSuffix(path, ".zst") || strings.HasSuffix(path, ".gz") {
		flags = unix.MODULE_INIT_COMPRESSED_FILE // since Linux 5.17, where CONFIG_MODULE_DECOMPRESS is set
	}
	err = unix.FinitModule(int(f.Fd()), parameters, flags)
	if errors.Is(err, unix.EEXIST) || errors.Is(err, unix.ENODEV) {
		return nil
	}
	return err
}
