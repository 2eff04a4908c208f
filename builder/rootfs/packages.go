package rootfs

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"rempart/builder/rootfs/tree"
)

// Package is a Debian package with its files.
type Package struct {
	Name    string
	Entries []tree.Entry
}

// errNoFile is wrapped when no package has a file.
var errNoFile = errors.New("none of the packages has it")

// maxLinks bounds a chain of symbolic links; MAXSYMLINKS of linux/namei.h.
const maxLinks = 40

// archive holds the files of several packages as they lie once installed: /bin, /sbin, /lib and /lib64 are one with
// those of /usr.
type archive struct {
	entries map[string]tree.Entry
	owner   map[string]string // package by path
}

func newArchive(packages []Package) (*archive, error) {
	a := &archive{entries: make(map[string]tree.Entry), owner: make(map[string]string)}
	for _, p := range packages {
		for _, e := range p.Entries {
			e.Path = merged(e.Path)
			if e.Mode.IsDir() {
				continue
			}
			if other, ok := a.owner[e.Path]; ok {
				return nil, fmt.Errorf("packages %s and %s both hold /%s", other, p.Name, e.Path)
			}
			a.entries[e.Path], a.owner[e.Path] = e, p.Name
		}
	}
	return a, nil
}

// merged is the place of a path on a root where the top-level directories of programs and libraries are links into
// /usr.
func merged(p string) string {
	switch top, _, below := strings.Cut(p, "/"); top {
	case "bin", "sbin", "lib", "lib64":
		if below {
			return "usr/" + p
		}
	}
	return p
}

// find follows the symbolic links at a path and returns the links it went through, then the file. The error wraps
// errNoFile when there is none.
func (a *archive) find(p string) ([]tree.Entry, error) {
	var chain []tree.Entry
	for at := merged(p); ; {
		e, ok := a.entries[at]
		if !ok {
			return nil, fmt.Errorf("/%s: %w", at, errNoFile)
		}
		chain = append(chain, e)
		if e.Mode.IsRegular() {
			return chain, nil
		}
		if e.Mode.Type() != fs.ModeSymlink {
			return nil, fmt.Errorf("/%s of %s is a %v; want a file", at, e.Origin, e.Mode.Type())
		}
		if len(chain) > maxLinks {
			return nil, fmt.Errorf("/%s: more than %d links", p, maxLinks)
		}
		target := e.Link
		if !path.IsAbs(target) {
			target = path.Join("/", path.Dir(at), target)
		}
		at = merged(strings.TrimPrefix(path.Clean(target), "/"))
	}
}
