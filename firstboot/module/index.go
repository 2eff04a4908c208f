// Package module loads kernel modules: it reads the text indices that depmod or rempart's builder wrote beside them,
// finds the modules a device alias names, and loads each after what it depends on, with the parameters the kernel
// command line holds for it. The boot stage, PID 1 and /sbin/modprobe share it.
//
// What it deliberately does not do: unload, blacklist, run install commands, read the binary indices.
package module

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// Bounds of an index file. A whole Debian kernel's modules.alias is 1.5 MB with 20,000 lines; no line exceeds 2 KB.
const (
	maxIndexBytes = 16 << 20
	maxLine       = 64 << 10
	maxLines      = 200_000
)

// Index knows the modules of one kernel. The zero value knows none.
type Index struct {
	files   map[string]string   // module name -> path below the index's directory
	deps    map[string][]string // module name -> names it needs
	pre     map[string][]string // softdep pre: loaded before, if there
	post    map[string][]string // softdep post: loaded after, if there
	builtin map[string]bool
	aliases []alias
}

type alias struct{ pattern, name string }

// Name is the canonical name of a module or of its file: no directory, no suffix, "_" for "-".
func Name(file string) string {
	base := path.Base(file)
	if i := strings.Index(base, ".ko"); i > 0 {
		base = base[:i]
	}
	return strings.ReplaceAll(base, "-", "_")
}

// ReadIndex reads modules.dep and, where they exist, modules.alias, modules.softdep and modules.builtin of dir,
// which is a kernel's module directory (/lib/modules/RELEASE).
func ReadIndex(dir string) (*Index, error) {
	x := &Index{}
	for _, f := range []struct {
		name     string
		parse    func(io.Reader) error
		required bool
	}{
		{"modules.dep", x.parseDep, true},
		{"modules.alias", x.parseAlias, false},
		{"modules.softdep", x.parseSoftdep, false},
		{"modules.builtin", x.parseBuiltin, false},
	} {
		file, err := os.Open(filepath.Join(dir, f.name))
		if errors.Is(err, fs.ErrNotExist) && !f.required {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("kernel module index: %w", err)
		}
		err = f.parse(file)
		file.Close()
		if err != nil {
			return nil, fmt.Errorf("kernel module index %s: %w", filepath.Join(dir, f.name), err)
		}
	}
	return x, nil
}

// lines calls f for each line that is neither empty nor a comment.
func lines(r io.Reader, f func(line string) error) error {
	s := bufio.NewScanner(io.LimitReader(r, maxIndexBytes))
	s.Buffer(make([]byte, 0, 4096), maxLine)
	for n := 1; s.Scan(); n++ {
		if n > maxLines {
			return fmt.Errorf("more than %d lines", maxLines)
		}
		line := strings.TrimSpace(s.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		if err := f(line); err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
	}
	return s.Err()
}

// local tells whether a path of an index stays below the index's directory. depmod writes relative paths.
func local(p string) bool { return fs.ValidPath(p) && p != "." && !strings.ContainsRune(p, 0) }

func (x *Index) parseDep(r io.Reader) error {
	x.files, x.deps = map[string]string{}, map[string][]string{}
	return lines(r, func(line string) error {
		file, rest, ok := strings.Cut(line, ":")
		if !ok || !local(file) {
			return fmt.Errorf("%.80q: want a path, a colon and the paths it needs", line)
		}
		name := Name(file)
		x.files[name] = file
		for _, dep := range strings.Fields(rest) {
			x.deps[name] = append(x.deps[name], Name(dep))
		}
		return nil
	})
}

func (x *Index) parseAlias(r io.Reader) error {
	return lines(r, func(line string) error {
		f := strings.Fields(line)
		if len(f) != 3 || f[0] != "alias" {
			return fmt.Errorf("%.80q: want alias PATTERN MODULE", line)
		}
		x.aliases = append(x.aliases, alias{normalise(f[1]), Name(f[2])})
		return nil
	})
}

func (x *Index) parseSoftdep(r io.Reader) error {
	x.pre, x.post = map[string][]string{}, map[string][]string{}
	return lines(r, func(line string) error {
		f := strings.Fields(line)
		if len(f) < 2 || f[0] != "softdep" {
			return fmt.Errorf("%.80q: want softdep, a module, pre: and post: with modules", line)
		}
		into := x.pre
		for _, word := range f[2:] {
			switch word {
			case "pre:":
				into = x.pre
			case "post:":
				into = x.post
			default:
				into[Name(f[1])] = append(into[Name(f[1])], Name(word))
			}
		}
		return nil
	})
}

func (x *Index) parseBuiltin(r io.Reader) error {
	x.builtin = map[string]bool{}
	return lines(r, func(line string) error {
		x.builtin[Name(line)] = true
		return nil
	})
}

// Has tells whether the index knows a module, as a file or as built into the kernel.
func (x *Index) Has(name string) bool {
	name = Name(name)
	return x.files[name] != "" || x.builtin[name]
}

// Match returns the modules whose alias patterns match an alias ("pci:v00001AF4d00001000...", "nft-expr-2-ct"), each
// once, in the order of the index; a module's own name is an alias of it.
func (x *Index) Match(name string) []string {
	want := normalise(name)
	var found []string
	seen := map[string]bool{}
	if n := Name(name); x.Has(n) {
		found, seen[n] = append(found, n), true
	}
	for _, a := range x.aliases {
		if !seen[a.name] && match(a.pattern, want) {
			found, seen[a.name] = append(found, a.name), true
		}
	}
	return found
}
