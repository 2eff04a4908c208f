package inside

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
)

// mostLinks bounds how many symbolic links a name may lead over: what Linux allows (MAXSYMLINKS).
const mostLinks = 40

// ErrLinks is returned for a name that leads over too many links.
var ErrLinks = errors.New("too many symbolic links")

// Resolve is the name of the file that a name leads to, over symbolic links, all seen from the root of the filesystem:
// none leads out of it. It need not be there in full. The last link is followed only if follow says so.
func Resolve(fsys FS, name string, follow bool) (string, error) {
	left := strings.Split(name, "/")
	at := "."
	links := 0
	for len(left) > 0 {
		part := left[0]
		left = left[1:]
		switch part {
		case "", ".":
			continue
		case "..":
			at = path.Dir(at)
			continue
		}
		next := path.Join(at, part)
		i, err := fsys.Lstat(next)
		if err != nil {
			return "", err
		}
		if i.Mode()&fs.ModeSymlink == 0 || len(left) == 0 && !follow {
			at = next
			continue
		}
		if links++; links > mostLinks {
			return "", &fs.PathError{Op: "open", Path: name, Err: ErrLinks}
		}
		target, err := fsys.ReadLink(next)
		if err != nil {
			return "", err
		}
		if strings.HasPrefix(target, "/") {
			at = "."
		}
		left = append(strings.Split(target, "/"), left...)
	}
	return at, nil
}

// Bounds of a walk.
const (
	mostDepth = 512
	leastName = 12 // bytes that a name takes at the least, on any of the filesystems
	// mostNames bounds the names of a walk, all of which folders within folders can make it keep at a time.
	mostNames = 1 << 21
)

// SkipDir, returned for a directory, leaves out what is in it.
var SkipDir = fs.SkipDir

// ErrLoop is told of a directory that is reached a second time, which no kernel makes.
var ErrLoop = errors.New("a directory in two places")

// Walk calls each for a file and all below it, parents first, by names. A directory that cannot be read in full is
// called a second time, with the reason. A directory in two places is told and not walked again, and a volume with more
// names than fit into it ends the walk with an error. An error of each ends it and is returned.
func (v *Volume) Walk(root string, each func(name string, i fs.FileInfo, err error) error) error {
	w := &walk{v: v, each: each, seen: map[uint64]bool{}, left: min(v.Size/leastName, mostNames)}
	i, err := v.Lstat(root)
	if err != nil {
		return err
	}
	return w.file(root, i, 0)
}

type walk struct {
	v    *Volume
	each func(string, fs.FileInfo, error) error
	seen map[uint64]bool
	left int64
}

func (w *walk) file(name string, i fs.FileInfo, depth int) error {
	if err := w.each(name, i, nil); errors.Is(err, SkipDir) && i.IsDir() {
		return nil
	} else if err != nil || !i.IsDir() {
		return err
	}
	if inode := MetaOf(i).Inode; inode != 0 && w.seen[inode] || depth > mostDepth {
		return w.each(name, i, &fs.PathError{Op: "readdir", Path: name, Err: ErrLoop})
	} else if inode != 0 {
		w.seen[inode] = true
	}
	entries, err := w.v.ReadDir(name)
	if err != nil {
		if err := w.each(name, i, err); err != nil {
			return err
		}
	}
	if w.left -= int64(len(entries)); w.left < 0 {
		return fmt.Errorf("%s: more names than the volume has room for, or than the %d that are walked; look at a folder "+
			"below", name, mostNames)
	}
	for _, e := range entries {
		child, err := e.Info()
		below := path.Join(name, e.Name())
		if err != nil {
			if err := w.each(below, i, err); err != nil {
				return err
			}
			continue
		}
		if err := w.file(below, child, depth+1); err != nil {
			return err
		}
	}
	return nil
}
