package deb

import (
	"archive/tar"
	"io"
	"io/fs"
	"math"
	"path"
	"strings"

	"rempart/builder/rootfs/tree"
)

// Entries returns the files of a package whose data.tar is not packed, parents before children as the package has
// them, without the root itself. Their contents are read from the package where it lies, as often as wanted.
// A hard link becomes a file of its own with the content of the file it links to. Origin is put into each entry.
func (d *Deb) Entries(origin string) ([]tree.Entry, error) {
	if d.data.packing != "" {
		return nil, malformed("%s.%s is packed: its files cannot be read at random", d.data.name, d.data.packing)
	}
	data := io.NewSectionReader(d.data.SectionReader, 0, d.data.Size())
	var entries []tree.Entry
	at := map[string]int{}
	err := walk(data, func(hdr *tar.Header, _ io.Reader) error {
		if hdr.Name == "." {
			return nil
		}
		e := tree.Entry{Path: hdr.Name, Mode: fileMode(hdr), UID: hdr.Uid, GID: hdr.Gid, Origin: origin}
		switch hdr.Typeflag {
		case tar.TypeReg:
			// archive/tar reads whole blocks and never ahead, so the content starts where the section stands now.
			offset, err := data.Seek(0, io.SeekCurrent)
			if err != nil || hdr.Size > data.Size()-offset {
				return malformed("/%s of %d bytes is cut short", hdr.Name, hdr.Size)
			}
			e.Size = hdr.Size
			e.Open = func() (io.ReadCloser, error) {
				return io.NopCloser(io.NewSectionReader(d.data.SectionReader, offset, hdr.Size)), nil
			}
		case tar.TypeLink:
			i, ok := at[hdr.Linkname]
			if !ok || !entries[i].Mode.IsRegular() {
				return malformed("/%s is a hard link to /%s, which is no earlier file of the package", hdr.Name, hdr.Linkname)
			}
			target := entries[i]
			target.Path = e.Path
			e = target
		case tar.TypeSymlink:
			e.Link = hdr.Linkname
		case tar.TypeChar, tar.TypeBlock:
			e.Major, e.Minor = uint32(hdr.Devmajor), uint32(hdr.Devminor)
		}
		if i, ok := at[e.Path]; ok {
			if !entries[i].Mode.IsDir() || !e.Mode.IsDir() {
				return malformed("/%s is there twice", e.Path)
			}
			entries[i] = e
			return nil
		}
		for dir := path.Dir(e.Path); dir != "."; dir = path.Dir(dir) {
			if i, ok := at[dir]; ok {
				if !entries[i].Mode.IsDir() {
					return malformed("/%s lies below /%s, which is not a directory", e.Path, dir)
				}
				break
			}
		}
		at[e.Path] = len(entries)
		entries = append(entries, e)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return entries, nil
}

// checkHeader cleans the names of an entry and refuses what has no place in a package.
func checkHeader(hdr *tar.Header) error {
	name, ok := cleanPath(hdr.Name)
	if !ok {
		return malformed("%s: %.200q is not a path inside the root", memberData, hdr.Name)
	}
	hdr.Name = name
	if hdr.Uid < 0 || hdr.Gid < 0 || hdr.Uid > maxOwner || hdr.Gid > maxOwner {
		return malformed("/%s: owner %d:%d is out of range", name, hdr.Uid, hdr.Gid)
	}
	for key := range hdr.PAXRecords {
		// A sparse file's content is not what lies in the archive.
		if strings.HasPrefix(key, "GNU.sparse.") {
			return malformed("/%s is stored as a sparse file, which is not supported", name)
		}
	}
	switch hdr.Typeflag {
	case tar.TypeReg, tar.TypeDir:
	case tar.TypeSymlink:
		if hdr.Linkname == "" || len(hdr.Linkname) >= maxPath || strings.ContainsRune(hdr.Linkname, 0) {
			return malformed("/%s: %.200q is not a target of a symbolic link", name, hdr.Linkname)
		}
	case tar.TypeLink:
		target, ok := cleanPath(hdr.Linkname)
		if !ok || target == "." {
			return malformed("/%s: hard link to %.200q, which is not a path inside the root", name, hdr.Linkname)
		}
		hdr.Linkname = target
	case tar.TypeChar, tar.TypeBlock:
		if hdr.Devmajor < 0 || hdr.Devminor < 0 || hdr.Devmajor > math.MaxUint32 || hdr.Devminor > math.MaxUint32 {
			return malformed("/%s: device %d:%d is out of range", name, hdr.Devmajor, hdr.Devminor)
		}
	default:
		return malformed("/%s is of type %q, which is not supported", name, hdr.Typeflag)
	}
	if name == "." && hdr.Typeflag != tar.TypeDir {
		return malformed("the root is not a directory")
	}
	return nil
}

// cleanPath turns "./usr/bin/" into "usr/bin" and "./" into "."; false for what leads out or could be misread.
func cleanPath(name string) (string, bool) {
	if name == "./" || name == "." {
		return ".", true
	}
	name = strings.TrimSuffix(strings.TrimPrefix(name, "./"), "/")
	if name == "." || len(name) >= maxPath || strings.ContainsRune(name, 0) || !fs.ValidPath(name) {
		return "", false
	}
	return name, true
}

// fileMode is the mode of an entry, from its type flag and permission bits alone: type bits hidden in the mode field
// are not believed.
func fileMode(hdr *tar.Header) fs.FileMode {
	mode := fs.FileMode(hdr.Mode) & fs.ModePerm
	for bit, m := range map[int64]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if hdr.Mode&bit != 0 {
			mode |= m
		}
	}
	switch hdr.Typeflag {
	case tar.TypeDir:
		mode |= fs.ModeDir
	case tar.TypeSymlink:
		mode |= fs.ModeSymlink
	case tar.TypeChar:
		mode |= fs.ModeDevice | fs.ModeCharDevice
	case tar.TypeBlock:
		mode |= fs.ModeDevice
	}
	return mode
}
