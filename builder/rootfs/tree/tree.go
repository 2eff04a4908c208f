// Package tree is a file tree in memory: what packages, overlays and the builder itself lay on each other before it
// becomes an EROFS image or a cpio archive. File contents stay where they are and are opened when written.
//
// What it deliberately does not do: read or write any format, or touch a disk.
package tree

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"path"
	"sort"
	"strings"
)

// Entry is one file, directory, symbolic link or device. Times are not kept: a master has no clock.
type Entry struct {
	Path  string      // slash-separated, relative to the root, clean: "etc/hosts"; the root itself is "."
	Mode  fs.FileMode // type and permission bits, set-uid and sticky included
	UID   int
	GID   int
	Link  string // target of a symbolic link
	Major uint32 // of a device
	Minor uint32
	Size  int64 // of a regular file, in bytes
	// Open returns the content of a regular file; it must give the same Size bytes each time.
	Open func() (io.ReadCloser, error)
	// Origin says where it came from, for errors and the manifest: "package libc6", "overlay base", "rempart".
	Origin string
}

// Tree holds entries by path. The zero value is an empty tree ready to use.
type Tree struct {
	entries map[string]*Entry
}

// Add lays an entry, replacing what stood at its path; a directory laid on a directory replaces its mode and owner.
// Parents that are missing are made root-owned with mode 0755. It is an error to lay anything below something that is
// not a directory, or a non-directory where a directory has children, or a path that is not clean and local.
func (t *Tree) Add(e Entry) error {
	if e.Path != "." && (!fs.ValidPath(e.Path) || strings.ContainsRune(e.Path, 0)) {
		return fmt.Errorf("%s: %q is not a clean path inside the root", e.Origin, e.Path)
	}
	if t.entries == nil {
		t.entries = map[string]*Entry{".": {Path: ".", Mode: fs.ModeDir | 0o755, Origin: "rempart"}}
	}
	if e.Path == "." && !e.Mode.IsDir() {
		return fmt.Errorf("%s: the root must be a directory", e.Origin)
	}
	if old, ok := t.entries[e.Path]; ok && old.Mode.IsDir() && !e.Mode.IsDir() {
		prefix := e.Path + "/"
		for p := range t.entries {
			if strings.HasPrefix(p, prefix) {
				return fmt.Errorf("%s: /%s would replace a directory that %s filled", e.Origin, e.Path, old.Origin)
			}
		}
	}
	for dir := path.Dir(e.Path); e.Path != "."; dir = path.Dir(dir) {
		old, ok := t.entries[dir]
		if ok && !old.Mode.IsDir() {
			return fmt.Errorf("%s: /%s lies below /%s, which %s made a %v", e.Origin, e.Path, dir, old.Origin, old.Mode.Type())
		}
		if !ok {
			t.entries[dir] = &Entry{Path: dir, Mode: fs.ModeDir | 0o755, Origin: e.Origin}
		}
		if dir == "." {
			break
		}
	}
	t.entries[e.Path] = &e
	return nil
}

// Bytes returns the entry of a root-owned regular file with the given content.
func Bytes(p string, mode fs.FileMode, content []byte, origin string) Entry {
	return Entry{Path: p, Mode: mode, Size: int64(len(content)), Origin: origin,
		Open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil }}
}

// Symlink returns the entry of a root-owned symbolic link.
func Symlink(p, target, origin string) Entry {
	return Entry{Path: p, Mode: fs.ModeSymlink | 0o777, Link: target, Origin: origin}
}

// Dir returns the entry of a root-owned directory.
func Dir(p string, mode fs.FileMode, origin string) Entry {
	return Entry{Path: p, Mode: fs.ModeDir | mode, Origin: origin}
}

// Lookup returns the entry at a path, nil where there is none.
func (t *Tree) Lookup(p string) *Entry { return t.entries[p] }

// Entries returns all entries, parents before children, in byte order of their paths.
func (t *Tree) Entries() []*Entry {
	all := make([]*Entry, 0, len(t.entries))
	for _, e := range t.entries {
		all = append(all, e)
	}
	sort.Slice(all, func(i, j int) bool {
		a, b := all[i].Path, all[j].Path
		if a == "." || b == "." {
			return a == "." && b != "."
		}
		return a < b
	})
	return all
}
