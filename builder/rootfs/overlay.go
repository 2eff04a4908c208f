package rootfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strconv"
	"strings"

	"rempart/builder/rootfs/tree"
)

// Limits on an overlay.
const (
	maxManifest    = 1 << 20
	maxOverlayFile = 256 << 20
)

// Overlay returns the entries of an overlay: the files of directory name of fsys, which belong to root with mode 0644,
// or 0755 for directories, changed and completed by the lines of the file NAME.manifest:
//
//	PATH MODE [UID:GID]   a file of the overlay has this mode, in octal, and owner
//	PATH/ MODE [UID:GID]  a directory, which need not be in the overlay
//	PATH -> TARGET        a symbolic link
//
// Blank lines and lines that start with # mean nothing. It is an error to name a file that is not there, anything
// twice, or a path that is not clean and inside the root.
func Overlay(fsys fs.FS, name string) ([]tree.Entry, error) {
	o := &overlay{origin: "overlay " + name, index: make(map[string]int)}
	if err := o.walk(fsys, name); err != nil {
		return nil, fmt.Errorf("overlay %s: %w", name, err)
	}
	b, err := fs.ReadFile(fsys, name+".manifest")
	if errors.Is(err, fs.ErrNotExist) {
		return o.entries, nil
	}
	if err != nil {
		return nil, fmt.Errorf("overlay %s: %w", name, err)
	}
	if err := o.manifest(string(b)); err != nil {
		return nil, fmt.Errorf("%s.manifest:%w", name, err)
	}
	return o.entries, nil
}

type overlay struct {
	origin  string
	entries []tree.Entry
	index   map[string]int  // into entries, by path
	named   map[string]bool // by the manifest
}

func (o *overlay) add(e tree.Entry) {
	o.index[e.Path] = len(o.entries)
	o.entries = append(o.entries, e)
}

// walk adds the files and directories.
func (o *overlay) walk(fsys fs.FS, name string) error {
	return fs.WalkDir(fsys, name, func(p string, d fs.DirEntry, err error) error {
		if err != nil || p == name {
			return err
		}
		below := strings.TrimPrefix(p, name+"/")
		info, err := d.Info()
		if err != nil {
			return err
		}
		switch {
		case d.IsDir():
			o.add(tree.Dir(below, 0o755, o.origin))
		case !info.Mode().IsRegular():
			return fmt.Errorf("/%s is a %v; links and directories belong into the manifest", below, info.Mode().Type())
		case info.Size() > maxOverlayFile:
			return fmt.Errorf("/%s has %d bytes; the limit is %d", below, info.Size(), maxOverlayFile)
		default:
			o.add(tree.Entry{Path: below, Mode: 0o644, Size: info.Size(), Origin: o.origin,
				Open: func() (io.ReadCloser, error) { return fsys.Open(p) }})
		}
		return nil
	})
}

// manifest applies the lines of a manifest. Errors start with the number of the line.
func (o *overlay) manifest(text string) error {
	if len(text) > maxManifest {
		return fmt.Errorf("1: %d bytes; the limit is %d", len(text), maxManifest)
	}
	if i := strings.IndexByte(text, 0); i >= 0 {
		return fmt.Errorf("%d: a NUL, which no path can hold", 1+strings.Count(text[:i], "\n"))
	}
	o.named = make(map[string]bool)
	for i, line := range strings.Split(text, "\n") {
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		if err := o.line(strings.Fields(line)); err != nil {
			return fmt.Errorf("%d: %w", i+1, err)
		}
	}
	return nil
}

// line applies one line, split into words.
func (o *overlay) line(words []string) error {
	name, isDir := strings.CutSuffix(words[0], "/")
	if !fs.ValidPath(name) || name == "." || path.Clean(name) != name {
		return fmt.Errorf("%q is not a clean path inside the root", words[0])
	}
	if o.named[name] {
		return fmt.Errorf("%q is there twice", words[0])
	}
	o.named[name] = true
	i, exists := o.index[name]
	if len(words) == 3 && words[1] == "->" && !isDir {
		if exists {
			return fmt.Errorf("%q is a file of the overlay and cannot be a link", name)
		}
		o.add(tree.Symlink(name, words[2], o.origin))
		return nil
	}
	if len(words) != 2 && len(words) != 3 {
		return fmt.Errorf("%d words; want PATH MODE [UID:GID] or PATH -> TARGET", len(words))
	}
	mode, err := parseMode(words[1])
	if err != nil {
		return err
	}
	switch {
	case !exists && !isDir:
		return fmt.Errorf("the overlay has no file %q; a directory is written %q", name, name+"/")
	case !exists:
		i = len(o.entries)
		o.add(tree.Dir(name, 0, o.origin))
	case o.entries[i].Mode.IsDir() != isDir:
		return fmt.Errorf("%q is a %v in the overlay; directories end in a slash, and only they", words[0], o.entries[i].Mode)
	}
	e := &o.entries[i]
	e.Mode = e.Mode.Type() | mode
	if len(words) == 3 {
		e.UID, e.GID, err = parseOwner(words[2])
	}
	return err
}

// parseMode reads up to four octal digits.
func parseMode(s string) (fs.FileMode, error) {
	n, err := strconv.ParseUint(s, 8, 12)
	if err != nil {
		return 0, fmt.Errorf("mode %q; want 1 to 4 octal digits", s)
	}
	mode := fs.FileMode(n & 0o777)
	for _, b := range []struct {
		bit  uint64
		mode fs.FileMode
	}{{0o4000, fs.ModeSetuid}, {0o2000, fs.ModeSetgid}, {0o1000, fs.ModeSticky}} {
		if n&b.bit != 0 {
			mode |= b.mode
		}
	}
	return mode, nil
}

// parseOwner reads "UID:GID".
func parseOwner(s string) (uid, gid int, err error) {
	u, g, ok := strings.Cut(s, ":")
	un, uerr := strconv.ParseUint(u, 10, 31)
	gn, gerr := strconv.ParseUint(g, 10, 31)
	if !ok || uerr != nil || gerr != nil {
		return 0, 0, fmt.Errorf("owner %q; want UID:GID in numbers", s)
	}
	return int(un), int(gn), nil
}
