package initramfs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strconv"

	"github.com/klauspost/compress/zstd"
	"github.com/u-root/u-root/pkg/cpio"

	"rempart/builder/rootfs/tree"
)

// Limits on an archive from outside. Ours has 40 entries and 6 MB.
const (
	maxUnpacked = 256 << 20
	maxEntries  = 50000
	maxName     = 4096 // PATH_MAX of linux/limits.h
	headerSize  = 110  // of newc: magic and 13 fields of 8 hexadecimal digits
)

// ErrArchive is wrapped by all errors about the content of an archive.
var ErrArchive = errors.New("not a sound initramfs")

// Read returns the files of an initramfs as Build writes them: one zstd frame with one newc archive that ends in its
// trailer. It refuses what is larger than 256 MiB unpacked or has more than 50,000 entries, names that lead out of
// the root, and sizes that do not fit.
func Read(packed []byte) (*tree.Tree, error) {
	r, err := zstd.NewReader(bytes.NewReader(packed), zstd.WithDecoderMaxMemory(maxUnpacked),
		zstd.WithDecoderMaxWindow(8<<20), zstd.WithDecoderConcurrency(1))
	if err != nil {
		return nil, fmt.Errorf("%w: zstd: %w", ErrArchive, err)
	}
	defer r.Close()
	archive, err := io.ReadAll(io.LimitReader(r, maxUnpacked+1))
	if err != nil {
		return nil, fmt.Errorf("%w: zstd: %w", ErrArchive, err)
	}
	if len(archive) > maxUnpacked {
		return nil, fmt.Errorf("%w: it unpacks to more than %d bytes", ErrArchive, maxUnpacked)
	}
	return readArchive(archive)
}

// readArchive reads an uncompressed newc archive.
func readArchive(archive []byte) (*tree.Tree, error) {
	t := new(tree.Tree)
	in := cpio.Newc.Reader(bytes.NewReader(archive))
	next := int64(0) // where the next record must start
	for n := 0; ; n++ {
		if n == maxEntries {
			return nil, fmt.Errorf("%w: more than %d entries", ErrArchive, maxEntries)
		}
		// The reader allocates the length that the header names before it reads: look first.
		if err := checkHeader(archive[min(next, int64(len(archive))):]); err != nil {
			return nil, fmt.Errorf("%w: entry %d at byte %d: %w", ErrArchive, n, next, err)
		}
		rec, err := in.ReadRecord()
		if err == io.EOF {
			// The trailer: checkHeader let no truncated record through.
			rest := archive[min(next+align(headerSize+int64(len(cpio.Trailer))+1), int64(len(archive))):]
			if len(bytes.Trim(rest, "\x00")) > 0 {
				return nil, fmt.Errorf("%w: %d bytes follow the trailer", ErrArchive, len(rest))
			}
			return t, nil
		}
		if err != nil {
			return nil, fmt.Errorf("%w: entry %d at byte %d: %w", ErrArchive, n, next, err)
		}
		e, err := entry(archive, rec)
		if err != nil {
			return nil, fmt.Errorf("%w: entry %d, %q: %w", ErrArchive, n, rec.Name, err)
		}
		if t.Lookup(e.Path) != nil && e.Path != "." {
			return nil, fmt.Errorf("%w: entry %d: %q is there twice", ErrArchive, n, rec.Name)
		}
		if err := t.Add(e); err != nil {
			return nil, fmt.Errorf("%w: entry %d: %w", ErrArchive, n, err)
		}
		next = align(rec.FilePos + int64(rec.FileSize))
	}
}

// checkHeader looks at the lengths in the header of the record that b starts with.
func checkHeader(b []byte) error {
	if len(b) < headerSize {
		return fmt.Errorf("the archive ends without its trailer: %w", io.ErrUnexpectedEOF)
	}
	size, err := field(b, 6) // c_filesize
	if err != nil {
		return err
	}
	name, err := field(b, 11) // c_namesize
	if err != nil {
		return err
	}
	if name == 0 || name > maxName {
		return fmt.Errorf("a name of %d bytes; want 1 to %d", name, maxName)
	}
	if end := align(headerSize+name) + size; end > int64(len(b)) {
		return fmt.Errorf("it needs %d bytes and %d are left: %w", end, len(b), io.ErrUnexpectedEOF)
	}
	if b[headerSize+name-1] != 0 || bytes.IndexByte(b[headerSize:headerSize+name], 0) != int(name-1) {
		return errors.New("the name does not end at its first NUL")
	}
	return nil
}

// field returns field i of a newc header, counted from 0 after the magic.
func field(b []byte, i int) (int64, error) {
	digits := string(b[6+8*i : 14+8*i])
	n, err := strconv.ParseUint(digits, 16, 32)
	if err != nil {
		return 0, fmt.Errorf("field %d of the header is %q; want 8 hexadecimal digits", i, digits)
	}
	return int64(n), nil
}

func align(n int64) int64 { return (n + 3) &^ 3 }

// entry translates a record whose lengths have been checked.
func entry(archive []byte, rec cpio.Record) (tree.Entry, error) {
	content := archive[rec.FilePos : rec.FilePos+int64(rec.FileSize)]
	e := tree.Bytes(rec.Name, fs.FileMode(rec.Mode&0o777), content, "initramfs")
	e.UID, e.GID = int(rec.UID), int(rec.GID)
	for _, bit := range []struct {
		mode fs.FileMode
		bit  uint64
	}{{fs.ModeSetuid, cpio.S_ISUID}, {fs.ModeSetgid, cpio.S_ISGID}, {fs.ModeSticky, cpio.S_ISVTX}} {
		if rec.Mode&bit.bit != 0 {
			e.Mode |= bit.mode
		}
	}
	kind := rec.Mode & cpio.S_IFMT
	if kind == cpio.S_IFREG {
		return e, nil
	}
	e.Open, e.Size = nil, 0
	if kind != cpio.S_IFLNK && rec.FileSize != 0 {
		return e, fmt.Errorf("it is no file and has %d bytes of content", rec.FileSize)
	}
	switch kind {
	case cpio.S_IFDIR:
		e.Mode |= fs.ModeDir
	case cpio.S_IFLNK:
		if len(content) == 0 || len(content) > maxName || bytes.IndexByte(content, 0) >= 0 {
			return e, fmt.Errorf("a link to %d bytes of name, or with a NUL in it", len(content))
		}
		e.Mode |= fs.ModeSymlink
		e.Link = string(content)
	case cpio.S_IFCHR, cpio.S_IFBLK:
		e.Mode |= fs.ModeDevice
		if kind == cpio.S_IFCHR {
			e.Mode |= fs.ModeCharDevice
		}
		e.Major, e.Minor = uint32(rec.Rmajor), uint32(rec.Rminor)
	default:
		return e, fmt.Errorf("mode %#o is of no kind an initramfs needs", rec.Mode)
	}
	return e, nil
}
