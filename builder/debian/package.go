package debian

import (
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"rempart/builder/debian/deb"
	"rempart/builder/rootfs/tree"
)

// Package is a package that was checked against its lock. It holds a file open until Close. It is safe for concurrent
// use.
type Package struct {
	Locked
	file *os.File
	deb  *deb.Deb
}

// openPackage checks an unpacked package against the lock.
func openPackage(f *os.File, l Locked) (*Package, error) {
	sum, err := hashFile(f)
	if err != nil {
		return nil, err
	}
	if sum.String() != l.Unpacked {
		return nil, fmt.Errorf("%w: SHA-256 is %v, the lock says %s", ErrDigest, sum, l.Unpacked)
	}
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	d, err := deb.Open(f, info.Size())
	if err != nil {
		return nil, err
	}
	return &Package{Locked: l, file: f, deb: d}, nil
}

// Entries returns the files of the package, parents before children, without the root itself. Contents are read from
// the cache when they are opened, any number of times and at random (the readers are io.ReaderAt and io.Seeker too),
// until Close.
func (p *Package) Entries() ([]tree.Entry, error) {
	entries, err := p.deb.Entries(p.Origin())
	if err != nil {
		return nil, fmt.Errorf("package %s %s: %w", p.Name, p.Version, err)
	}
	return entries, nil
}

// Origin is what the entries of the package carry as their origin: "package NAME VERSION".
func (p *Package) Origin() string { return "package " + p.Name + " " + string(p.Version) }

// Close frees the file. Contents cannot be opened any more.
func (p *Package) Close() error { return p.file.Close() }

// checkControl compares what the package says of itself with the lock.
func (p *Package) checkControl() error {
	c, err := p.deb.Control()
	if err != nil {
		return err
	}
	for _, want := range []struct{ field, value string }{
		{"Package", p.Name}, {"Version", string(p.Version)}, {"Architecture", p.Arch},
	} {
		if got := c.Get(want.field); got != want.value {
			return fmt.Errorf("%w: its control file says %s: %s, the lock %s", ErrDigest, want.field, got, want.value)
		}
	}
	return nil
}

// content is size and digest of the .deb. The lock was checked: the digest is well-formed.
func (l Locked) content() content {
	sum, err := parseDigest(l.SHA256)
	if err != nil {
		panic(fmt.Sprintf("package %s of a lock that was checked: %v", l.Name, err))
	}
	return content{l.Size, sum}
}

// maxScanned bounds how many files of a directory of .debs are looked at.
const maxScanned = 200_000

// findDeb finds a package in a directory of .debs, whatever it is called there: first by the usual names, then by size
// and digest.
func findDeb(dir string, l Locked, want content) (string, error) {
	escaped := strings.ReplaceAll(string(l.Version), ":", "%3a")
	for _, name := range []string{path.Base(l.Path), l.Name + "_" + escaped + "_" + l.Arch + ".deb", l.SHA256 + ".deb"} {
		if file := filepath.Join(dir, name); verifyFile(file, want) == nil {
			return file, nil
		}
	}
	found, scanned, wrong := "", 0, ""
	err := filepath.WalkDir(dir, func(file string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if scanned++; scanned > maxScanned {
			return fmt.Errorf("%s holds more than %d files", dir, maxScanned)
		}
		if !entry.Type().IsRegular() || !strings.HasSuffix(entry.Name(), ".deb") {
			return nil
		}
		if entry.Name() == path.Base(l.Path) {
			wrong = file
		}
		info, err := entry.Info()
		if err != nil || info.Size() != want.size || verifyFile(file, want) != nil {
			return nil // one that cannot be read is not the one that is sought
		}
		found = file
		return filepath.SkipAll
	})
	switch {
	case err != nil:
		return "", fmt.Errorf("looking through %s: %w", dir, err)
	case found != "":
		return found, nil
	case wrong != "":
		return "", fmt.Errorf("%s: %w: it is not the file the lock names (%d bytes, SHA-256 %s)",
			wrong, ErrDigest, l.Size, l.SHA256)
	}
	return "", fmt.Errorf("%s: %w: no .deb in it has %d bytes and SHA-256 %s; put %s there",
		dir, ErrGone, l.Size, l.SHA256, path.Base(l.Path))
}
