package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"rempart/builder/disk/inside"
	"rempart/builder/files"
)

// cp copies out of an image. What is in the image may mean harm: nothing is written but below what was named, nothing
// there is followed or replaced, and what is written can do nothing by itself.
func (d *disks) cp(ctx context.Context, c *console, args []string) error {
	l, v, from, err := d.find(ctx, args)
	if err != nil {
		return err
	}
	defer l.image.Close()
	to := args[2]
	if info, err := os.Stat(to); err == nil && info.IsDir() {
		if from == "." {
			return fmt.Errorf("%s is there already; name a folder that is not", to)
		}
		to = filepath.Join(to, filepath.Base(path.Base(from)))
	}
	info, err := v.Lstat(from)
	if err != nil {
		return fmt.Errorf("%s: %w", args[0], err)
	}
	if !info.IsDir() {
		f, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, safeMode(info.Mode()))
		if err != nil {
			return err
		}
		err = copyOut(ctx, v, from, f)
		if err := errors.Join(err, f.Close()); err != nil {
			return errors.Join(fmt.Errorf("%s: %w", args[0], err), os.Remove(to))
		}
		return nil
	}
	if err := os.Mkdir(to, 0o700); err != nil {
		return err
	}
	root, err := os.OpenRoot(to)
	if err != nil {
		return err
	}
	defer root.Close()
	t := &treeCopy{ctx: ctx, c: c, v: v, from: from, root: root}
	err = v.Walk(from, t.file)
	for _, dir := range t.dirs {
		err = errors.Join(err, root.Chmod(dir.name, dir.mode))
	}
	if t.left > 0 {
		err = errors.Join(err, fmt.Errorf("%d files of %s were not copied", t.left, args[0]))
	}
	return err
}

// safeMode is what a copied file allows: never another user's rights.
func safeMode(m fs.FileMode) fs.FileMode { return m.Perm() }

// treeCopy copies a folder.
type treeCopy struct {
	ctx  context.Context
	c    *console
	v    *inside.Volume
	from string
	root *os.Root
	left int // not copied
	dirs []copiedDir
}

// copiedDir is a folder that gets its own mode once all is in it.
type copiedDir struct {
	name string
	mode fs.FileMode
}

func (t *treeCopy) leave(name string, why any) {
	if t.left++; t.left <= mostErrors {
		fmt.Fprintf(t.c.err, "not copied: %s: %s\n", oneLine(name), oneLine(fmt.Sprint(why)))
	}
}

func (t *treeCopy) file(name string, i fs.FileInfo, err error) error {
	if t.ctx.Err() != nil {
		return t.ctx.Err()
	}
	if err != nil {
		t.leave(name, err)
		return nil
	}
	to := strings.TrimPrefix(strings.TrimPrefix(name, t.from), "/")
	if t.from == "." {
		to = name
	}
	if to == "" || to == "." {
		t.dirs = append(t.dirs, copiedDir{".", safeMode(i.Mode()) | 0o700})
		return nil
	}
	switch {
	case i.IsDir():
		if err := t.root.Mkdir(to, 0o700); err != nil {
			t.leave(name, err)
			return inside.SkipDir
		}
		t.dirs = append(t.dirs, copiedDir{to, safeMode(i.Mode()) | 0o700})
	case i.Mode().IsRegular():
		f, err := t.root.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, safeMode(i.Mode()))
		if err != nil {
			t.leave(name, err)
			return nil
		}
		err = copyOut(t.ctx, t.v, name, f)
		if err := errors.Join(err, f.Close()); err != nil {
			// Half a file must not pass for one.
			t.leave(name, errors.Join(err, t.root.Remove(to)))
		}
	case i.Mode()&fs.ModeSymlink != 0:
		target, err := t.v.ReadLink(name)
		if err == nil && !staysInside(to, target) {
			err = fmt.Errorf("a link that leads out: %s", target)
		}
		if err == nil {
			err = t.root.Symlink(target, to)
		}
		if err != nil {
			t.leave(name, err)
		}
	default:
		t.leave(name, i.Mode().Type())
	}
	return nil
}

// staysInside tells whether a link in a copied tree leads to no place but in it. Where a ".." follows another link, its
// text does not say where it leads.
func staysInside(name, target string) bool {
	rest := target
	for strings.HasPrefix(rest, "../") {
		rest = strings.TrimPrefix(rest, "../")
	}
	return !strings.HasPrefix(target, "/") && (rest == ".." || !strings.Contains("/"+rest+"/", "/../")) &&
		filepath.IsLocal(path.Join(path.Dir(name), target))
}

// copyOut writes a file's content, without its holes where they are known.
func copyOut(ctx context.Context, v *inside.Volume, name string, to *os.File) error {
	f, err := v.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	sparse, known := f.(interface {
		io.ReaderAt
		Data(each func(offset, length int64) error) error
	})
	if !known {
		_, err = io.Copy(to, files.Interruptible(ctx, f))
		return err
	}
	if err := to.Truncate(info.Size()); err != nil {
		return err
	}
	return sparse.Data(func(offset, length int64) error {
		_, err := io.Copy(io.NewOffsetWriter(to, offset),
			files.Interruptible(ctx, io.NewSectionReader(sparse, offset, length)))
		return err
	})
}
