package kernel

import (
	"context"
	"errors"
	"fmt"
	"path"
	"runtime"
	"sort"
	"strings"

	"golang.org/x/sync/errgroup"
)

// ErrNoModule is wrapped by the error of Select when a kernel lacks a required module.
var ErrNoModule = errors.New("the kernel has no such module")

// Want is a module, or a group of modules, that a guest needs.
type Want struct {
	Name string // module name; or a pattern of path.Match over names with '_' for '-'
	// Optional modules may be missing: other kernel versions, flavours and architectures have other drivers.
	// A required module must be there or be built in.
	Optional bool
	Except   []string // names that the pattern would take and that are not wanted
	Why      string
}

// Set is a choice of modules that is closed: whatever one of them needs is in it or built in.
type Set struct {
	Release string
	Modules []*Module // in the order of modules.order
	Absent  []string  // optional wants that this kernel does not have
	// Unmet lists soft dependencies that neither the set nor the image meets, "module: name". The kernel does
	// without them.
	Unmet []string

	listing []byte // modules.builtin
}

// Select returns the closure of the wanted modules. The error wraps ErrNoModule when a required one, or one that
// another depends on, is missing.
func (k *Kernel) Select(ctx context.Context, wants []Want) (*Set, error) {
	s := &Set{Release: k.Release, listing: k.listing}
	chosen := make(map[string]bool)
	var wave []string // names chosen and not yet looked into
	choose := func(name string) {
		if !chosen[name] {
			chosen[name] = true
			wave = append(wave, name)
		}
	}
	for _, w := range wants {
		names, err := k.match(w)
		if err != nil {
			return nil, err
		}
		if len(names) == 0 && !k.Builtin(w.Name) {
			if !w.Optional {
				return nil, fmt.Errorf("kernel %s: %s (%s): %w", k.Release, w.Name, w.Why, ErrNoModule)
			}
			s.Absent = append(s.Absent, w.Name)
		}
		for _, name := range names {
			choose(name)
		}
	}
	for len(wave) > 0 {
		now := wave
		wave = nil
		if err := k.load(ctx, now); err != nil {
			return nil, err
		}
		for _, name := range now {
			m := k.loaded[name]
			for _, d := range m.Depends {
				if _, ok := k.files[d]; ok {
					choose(d)
				} else if !k.builtin[d] {
					return nil, fmt.Errorf("kernel %s: %s depends on %s: %w", k.Release, name, d, ErrNoModule)
				}
			}
			for _, d := range append(m.Pre, m.Post...) {
				if _, ok := k.files[normalise(d)]; ok {
					choose(normalise(d))
				}
			}
		}
	}
	for name := range chosen {
		s.Modules = append(s.Modules, k.loaded[name])
	}
	sort.Slice(s.Modules, func(i, j int) bool { return k.before(s.Modules[i], s.Modules[j]) })
	if ranked := len(s.ranks()); ranked != len(s.Modules) {
		return nil, fmt.Errorf("kernel %s: %d modules depend on each other in a circle", k.Release, len(s.Modules)-ranked)
	}
	s.Unmet = k.unmet(s.Modules)
	return s, nil
}

// match returns the names of the modules, built-in ones aside, that a want means.
func (k *Kernel) match(w Want) ([]string, error) {
	pattern := normalise(w.Name)
	if !strings.ContainsAny(pattern, "*?[") {
		if _, ok := k.files[pattern]; ok {
			return []string{pattern}, nil
		}
		return nil, nil
	}
	except := make(map[string]bool)
	for _, name := range w.Except {
		except[normalise(name)] = true
	}
	var names []string
	for name := range k.files {
		ok, err := path.Match(pattern, name)
		if err != nil {
			return nil, fmt.Errorf("module pattern %q: %w", w.Name, err)
		}
		if ok && !except[name] {
			names = append(names, name)
		}
	}
	sort.Strings(names)
	return names, nil
}

// load opens modules that are not open yet, several at a time.
func (k *Kernel) load(ctx context.Context, names []string) error {
	got := make([]*Module, len(names))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i, name := range names {
		if k.loaded[name] != nil {
			got[i] = k.loaded[name]
			continue
		}
		g.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			var err error
			got[i], err = k.files[name].load()
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return fmt.Errorf("kernel %s: %w", k.Release, err)
	}
	for _, m := range got {
		k.loaded[m.Name] = m
	}
	return nil
}

// before is the order of the indices: that of modules.order, then of paths.
func (k *Kernel) before(a, b *Module) bool {
	i, inA := k.order[a.Path]
	j, inB := k.order[b.Path]
	if inA && inB {
		return i < j
	}
	if inA != inB {
		return inA
	}
	return a.Path < b.Path
}

// unmet lists the soft dependencies that nothing in the set or in the image answers to.
func (k *Kernel) unmet(modules []*Module) []string {
	known := make(map[string]bool)
	for _, m := range modules {
		known[m.Name] = true
		for _, a := range m.Aliases {
			known[normalise(a)] = true
		}
	}
	var unmet []string
	for _, m := range modules {
		for _, d := range append(append([]string(nil), m.Pre...), m.Post...) {
			if !known[normalise(d)] && !k.Builtin(d) {
				unmet = append(unmet, m.Name+": "+d)
			}
		}
	}
	sort.Strings(unmet)
	return unmet
}

// Lookup returns the module of that name, nil where the set has none.
func (s *Set) Lookup(name string) *Module {
	name = normalise(name)
	for _, m := range s.Modules {
		if m.Name == name {
			return m
		}
	}
	return nil
}

// Size is the sum of the sizes of the modules in bytes.
func (s *Set) Size() int64 {
	var n int64
	for _, m := range s.Modules {
		n += m.Size()
	}
	return n
}
