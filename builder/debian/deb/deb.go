// Package deb reads Debian binary packages (deb(5)): an ar archive of debian-binary, control.tar and data.tar, each of
// the two plain or packed with gzip, xz or zstd.
//
// A package can be written again with its members unpacked (Repack). That plain form is a .deb like any other, which
// dpkg-deb reads too; contents can be read from it at random without unpacking anything.
//
// Every byte is taken as hostile: sizes and counts are bounded, paths must stay inside the root, hard links must name
// an earlier file of the same package. Digests are not checked here: that is the caller's, before it believes a word.
//
// What it deliberately does not do: run maintainer scripts, read the members bzip2 and lzma of packages from before
// 2012, write packages from files.
package deb

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"rempart/builder/debian/control"
)

// ErrMalformed is wrapped by every error about a package that is not as deb(5) and tar want it, or over the bounds.
var ErrMalformed = errors.New("not a sound Debian package")

// Bounds. The largest package of interest, linux-image-amd64, unpacks to 400 MiB in 5,000 files.
const (
	maxMembers  = 8
	maxControl  = 16 << 20 // bytes of control.tar unpacked
	maxData     = 4 << 30  // bytes of data.tar unpacked
	maxEntries  = 200_000  // in data.tar
	maxPath     = 4096     // bytes of a path or link target: PATH_MAX
	maxCtlFile  = 1 << 20  // bytes of the file control
	maxOwner    = 1<<32 - 2
	formatMajor = "2." // deb(5): a change of the minor number is compatible
)

// Names of the members, in the order they must have.
const (
	memberFormat  = "debian-binary"
	memberControl = "control.tar"
	memberData    = "data.tar"
)

// Deb is an open package. It is safe for concurrent use.
type Deb struct {
	control, data member
}

// member is one file of the ar archive.
type member struct {
	name    string // without the suffix of its packing
	packing string // "", "gz", "xz" or "zst"
	*io.SectionReader
	offset int64 // in the package
}

// Open reads the outline of a package of size bytes.
func Open(r io.ReaderAt, size int64) (*Deb, error) {
	members, err := readAr(r, size)
	if err != nil {
		return nil, err
	}
	if len(members) == 0 || members[0].name != memberFormat {
		return nil, malformed("the first member is not %s", memberFormat)
	}
	version := make([]byte, len(formatMajor))
	if _, err := io.ReadFull(members[0].SectionReader, version); err != nil || string(version) != formatMajor {
		return nil, malformed("%s is %q; expected %s*", memberFormat, version, formatMajor)
	}
	var d Deb
	for _, m := range members[1:] {
		packing := ""
		name := m.name
		for _, base := range []string{memberControl, memberData} {
			if rest, ok := strings.CutPrefix(m.name, base); ok {
				name, packing = base, strings.TrimPrefix(rest, ".")
			}
		}
		switch packing {
		case "", "gz", "xz", "zst":
		default:
			return nil, malformed("member %s is packed in a way that is not supported (gz, xz and zst are)", m.name)
		}
		m.name, m.packing = name, packing
		switch {
		case name == memberControl && d.control.SectionReader == nil:
			d.control = m
		case name == memberData && d.control.SectionReader != nil && d.data.SectionReader == nil:
			d.data = m
		case strings.HasPrefix(name, "_"): // deb(5): for others, ignored
		default:
			return nil, malformed("unexpected member %s", m.name)
		}
	}
	if d.data.SectionReader == nil {
		return nil, malformed("%s or %s is missing", memberControl, memberData)
	}
	return &d, nil
}

// Control returns the package's control file: Package, Version, Architecture, Depends and so on.
func (d *Deb) Control() (*control.Paragraph, error) {
	unpacked, err := d.control.unpack(maxControl)
	if err != nil {
		return nil, err
	}
	defer unpacked.Close()
	for t := tar.NewReader(unpacked); ; {
		hdr, err := t.Next()
		if err != nil {
			return nil, malformed("%s has no readable file control: %v", memberControl, err)
		}
		if strings.TrimPrefix(hdr.Name, "./") != "control" || hdr.Typeflag != tar.TypeReg {
			continue
		}
		if hdr.Size > maxCtlFile {
			return nil, malformed("the file control is larger than %d bytes", maxCtlFile)
		}
		text, err := io.ReadAll(t)
		if err != nil {
			return nil, malformed("the file control: %v", err)
		}
		p, err := control.NewReader(bytes.NewReader(text)).Next()
		if err != nil {
			return nil, malformed("the file control: %v", err)
		}
		return p, nil
	}
}

// Walk calls fn for each entry of data.tar in its order, with the path cleaned and checked: relative, slash-separated,
// "." for the root. It stops at the first error fn returns.
func (d *Deb) Walk(fn func(hdr *tar.Header, content io.Reader) error) error {
	unpacked, err := d.data.unpack(maxData)
	if err != nil {
		return err
	}
	defer unpacked.Close()
	return walk(unpacked, fn)
}

// walk reads a tar archive whose entries are all sound.
func walk(r io.Reader, fn func(hdr *tar.Header, content io.Reader) error) error {
	t := tar.NewReader(r)
	for n := 0; ; n++ {
		hdr, err := t.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return malformed("%s: %v", memberData, err)
		}
		if n == maxEntries {
			return malformed("%s has more than %d entries", memberData, maxEntries)
		}
		if err := checkHeader(hdr); err != nil {
			return err
		}
		if err := fn(hdr, t); err != nil {
			return err
		}
	}
}

// Repack writes the package again with its members unpacked. The result depends on nothing but the contents.
func (d *Deb) Repack(w io.WriteSeeker) error {
	if _, err := io.WriteString(w, arMagic); err != nil {
		return err
	}
	if err := writeMember(w, memberFormat, strings.NewReader(formatMajor+"0\n")); err != nil {
		return err
	}
	for _, part := range []struct {
		member
		limit int64
	}{{d.control, maxControl}, {d.data, maxData}} {
		unpacked, err := part.unpack(part.limit)
		if err != nil {
			return err
		}
		err = writeMember(w, part.name, unpacked)
		unpacked.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// writeMember writes one ar member, whose size is known only afterwards.
func writeMember(w io.WriteSeeker, name string, content io.Reader) error {
	start, err := w.Seek(0, io.SeekCurrent)
	if err != nil {
		return err
	}
	if _, err := io.WriteString(w, arHeader(name, 0)); err != nil {
		return err
	}
	size, err := io.CopyBuffer(writerOnly{w}, content, make([]byte, 1<<20))
	if err != nil {
		return err
	}
	if _, err := w.Seek(start, io.SeekStart); err != nil {
		return err
	}
	if _, err := io.WriteString(w, arHeader(name, size)); err != nil {
		return err
	}
	if _, err := w.Seek(0, io.SeekEnd); err != nil {
		return err
	}
	if size%2 == 1 {
		_, err = io.WriteString(w, "\n")
	}
	return err
}

// writerOnly hides ReadFrom of a file, with which the buffer given to CopyBuffer would go unused.
type writerOnly struct{ io.Writer }

// An ar archive is the magic and members, each a header of 60 bytes and content filled up to an even offset (deb(5)).
const (
	arMagic      = "!<arch>\n"
	arHeaderSize = 60
	arSizeAt     = 48
	arEndAt      = 58
	arEnd        = "`\n"
)

func arHeader(name string, size int64) string {
	return fmt.Sprintf("%-16s%-12d%-6d%-6d%-8s%-10d%s", name, 0, 0, 0, "100644", size, arEnd)
}

func readAr(r io.ReaderAt, size int64) ([]member, error) {
	magic := make([]byte, len(arMagic))
	if _, err := r.ReadAt(magic, 0); err != nil || string(magic) != arMagic {
		return nil, malformed("it does not start as an ar archive does")
	}
	var members []member
	for offset := int64(len(arMagic)); offset < size; {
		header := make([]byte, arHeaderSize)
		if _, err := r.ReadAt(header, offset); err != nil && (err != io.EOF || offset+arHeaderSize > size) {
			return nil, malformed("the header of a member at offset %d is cut short", offset)
		}
		if string(header[arEndAt:]) != arEnd {
			return nil, malformed("no header of a member at offset %d", offset)
		}
		name := strings.TrimSuffix(strings.TrimRight(string(header[:16]), " "), "/")
		length, err := strconv.ParseInt(strings.TrimRight(string(header[arSizeAt:arEndAt]), " "), 10, 64)
		offset += arHeaderSize
		if err != nil || length < 0 || length > size-offset {
			return nil, malformed("member %.16q at offset %d has an impossible size", name, offset)
		}
		if len(members) == maxMembers {
			return nil, malformed("more than %d members", maxMembers)
		}
		members = append(members, member{name: name, offset: offset, SectionReader: io.NewSectionReader(r, offset, length)})
		offset += length + length%2
	}
	return members, nil
}

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrMalformed, fmt.Sprintf(format, args...))
}
