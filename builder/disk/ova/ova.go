// Package ova writes and reads a virtual machine as one file, following the Open Virtualization Format Specification
// 1.1 (DMTF DSP0243): a tar archive with the description first, then a manifest of digests, then the disk.
//
// Write makes the same bytes for the same arguments. Open takes an archive for hostile: it is never unpacked, its
// manifest is checked, and the description is read for one thing only, which file the disk is.
//
// What it deliberately does not do: archives of several machines or disks, certificates, compressed disks other than by
// their own format.
package ova

import (
	"archive/tar"
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"encoding/xml"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"rempart/builder/disk"
	"rempart/builder/disk/vmdk"
)

// Machine is what an archive describes besides the disk.
type Machine struct {
	Name   string // 1 to 80 letters, digits, '.', '-', '_'
	Memory int64  // bytes; rounded up to MiB
	CPUs   int
	NICs   []string // names of the networks
}

// Errors, for errors.Is.
var (
	ErrFormat  = errors.New("not an OVA archive")
	ErrCorrupt = errors.New("corrupt OVA archive")
)

// Check tells what is wrong with a description.
func (m *Machine) Check() error {
	ok := m.Name != "" && len(m.Name) <= 80
	for _, c := range m.Name {
		ok = ok && (c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune(".-_", c))
	}
	if !ok || m.Name[0] == '.' {
		return fmt.Errorf("the name %.100q of a machine: want 1 to 80 letters, digits, '.', '-' or '_'", m.Name)
	}
	if m.Memory <= 0 || m.CPUs <= 0 {
		return fmt.Errorf("a machine of %d bytes of memory and %d processors: want some of each", m.Memory, m.CPUs)
	}
	return nil
}

// Write makes f an archive of a machine whose system disk is the content. The disk is made in a file beside f first,
// for the description names its size. As with disk.WriteRaw the caller gives a temporary name and renames.
func Write(ctx context.Context, f *os.File, content *disk.Sparse, m Machine) (err error) {
	if err := m.Check(); err != nil {
		return fmt.Errorf("ova: %w", err)
	}
	diskName := m.Name + "-disk1.vmdk"
	temporary, err := os.CreateTemp(filepath.Dir(f.Name()), "."+diskName+"-*")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, temporary.Close(), os.Remove(temporary.Name())) }()
	if err := vmdk.Write(ctx, temporary, diskName, content, vmdk.StreamOptimized); err != nil {
		return err
	}
	size, err := temporary.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	sum, err := disk.Digest(ctx, temporary, 0, size)
	if err != nil {
		return err
	}
	description := describe(m, diskName, size, content.Size())
	ovfSum := sha256.Sum256(description)
	manifest := fmt.Appendf(nil, "SHA256(%s.ovf)= %x\nSHA256(%s)= %x\n", m.Name, ovfSum, diskName, sum)
	if err := f.Truncate(0); err != nil {
		return err
	}
	w := tar.NewWriter(io.NewOffsetWriter(f, 0))
	put := func(name string, size int64, r io.Reader) error {
		// A time that is no time: same content, same bytes.
		if err := w.WriteHeader(&tar.Header{Format: tar.FormatUSTAR, Name: name, Mode: 0o644, Size: size,
			ModTime: time.Unix(epoch, 0)}); err != nil {
			return err
		}
		_, err := io.Copy(w, r)
		return err
	}
	for _, part := range []struct {
		name string
		b    []byte
	}{{m.Name + ".ovf", description}, {m.Name + ".mf", manifest}} {
		if err := put(part.name, int64(len(part.b)), strings.NewReader(string(part.b))); err != nil {
			return fmt.Errorf("writing %s: %w", f.Name(), err)
		}
	}
	if err := put(diskName, size, io.NewSectionReader(temporary, 0, size)); err != nil {
		return fmt.Errorf("writing %s: %w", f.Name(), err)
	}
	if err := errors.Join(w.Close(), f.Sync()); err != nil {
		return fmt.Errorf("writing %s: %w", f.Name(), err)
	}
	return nil
}

// epoch is the time of the files: 2020-01-01 00:00 UTC, as in a master's root.
const epoch = 1577836800

// Bounds of what Open reads.
const (
	maxFiles       = 64
	maxDescription = 1 << 20
	maxManifest    = 64 << 10
)

// Image is the disk in an archive.
type Image struct {
	*vmdk.Image
	// Weak: the manifest has digests by SHA1, of which two files can be made that have the same. It tells what was
	// damaged on the way, and not what somebody changed.
	Weak bool
}

// Open finds the disk in an archive of size bytes, and checks every digest of its manifest. An archive without a
// manifest is taken: that there is one is the maker's choice.
func Open(ctx context.Context, r io.ReaderAt, size int64) (*Image, error) {
	i, err := open(ctx, r, size)
	if err != nil {
		return nil, fmt.Errorf("ova: %w", err)
	}
	return i, nil
}

// part is a file in the archive.
type part struct{ offset, size int64 }

func open(ctx context.Context, r io.ReaderAt, size int64) (*Image, error) {
	section := io.NewSectionReader(r, 0, size)
	t := tar.NewReader(section)
	parts := map[string]part{}
	var description, manifest string
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrFormat, err)
		}
		if len(parts) == maxFiles {
			return nil, fmt.Errorf("more than %d files: %w", maxFiles, ErrCorrupt)
		}
		at, err := section.Seek(0, io.SeekCurrent)
		if err != nil {
			return nil, err
		}
		if _, twice := parts[h.Name]; twice || h.Typeflag != tar.TypeReg || h.Size > size-at {
			return nil, fmt.Errorf("%.80q is there twice, no plain file, or cut off: %w", h.Name, ErrCorrupt)
		}
		parts[h.Name] = part{at, h.Size}
		switch filepath.Ext(h.Name) {
		case ".ovf":
			description = h.Name
		case ".mf":
			manifest = h.Name
		}
	}
	if description == "" {
		return nil, fmt.Errorf("%w: it has no description (.ovf)", ErrFormat)
	}
	var checked map[string]bool
	i := &Image{}
	if manifest != "" {
		var err error
		if checked, i.Weak, err = checkManifest(ctx, r, parts, manifest); err != nil {
			return nil, err
		}
	}
	text, err := read(r, parts[description], maxDescription)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", description, err)
	}
	name, err := diskOf(text)
	if err != nil {
		return nil, fmt.Errorf("%.80q: %w", description, err)
	}
	p, ok := parts[name]
	if !ok {
		return nil, fmt.Errorf("the disk %.80q is not in the archive: %w", name, ErrCorrupt)
	}
	if manifest != "" && (!checked[description] || !checked[name]) {
		return nil, fmt.Errorf("the manifest has no digest of %.80q or %.80q: %w", description, name, ErrCorrupt)
	}
	i.Image, err = vmdk.Open(io.NewSectionReader(r, p.offset, p.size), p.size)
	return i, err
}

func read(r io.ReaderAt, p part, most int64) ([]byte, error) {
	if p.size > most {
		return nil, fmt.Errorf("%d bytes, at most %d are read: %w", p.size, most, ErrCorrupt)
	}
	b := make([]byte, p.size)
	_, err := io.ReadFull(io.NewSectionReader(r, p.offset, p.size), b)
	return b, err
}

// algorithms are the digests that manifests are made of: OVF 1.1 (DSP0243, 7.1) has SHA1, OVF 2.0 SHA256, and tools
// write SHA512 too.
var algorithms = map[string]func() hash.Hash{"SHA1": sha1.New, "SHA256": sha256.New, "SHA512": sha512.New}

// checkManifest compares the files with their digests, lines of "SHA256(name)= hex", and tells which it has checked and
// whether any of them by SHA1 alone. Tools differ in where they leave spaces.
func checkManifest(ctx context.Context, r io.ReaderAt, parts map[string]part, name string) (checked map[string]bool,
	weak bool, err error) {
	b, err := read(r, parts[name], maxManifest)
	if err != nil {
		return nil, false, fmt.Errorf("manifest: %w", err)
	}
	checked = map[string]bool{}
	for line := range strings.Lines(string(b)) {
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		kind, rest, ok := strings.Cut(line, "(")
		at := strings.LastIndexByte(rest, ')')
		if !ok || at < 0 {
			return nil, false, fmt.Errorf("manifest: the line %.100q: %w", line, ErrCorrupt)
		}
		file := rest[:at]
		want, found := strings.CutPrefix(strings.TrimSpace(rest[at+1:]), "=")
		p, there := parts[file]
		if !found || !there || checked[file] {
			return nil, false, fmt.Errorf("manifest: the line %.100q: %w", line, ErrCorrupt)
		}
		kind = strings.ToUpper(strings.TrimSpace(kind))
		algorithm, known := algorithms[kind]
		if !known {
			return nil, false, fmt.Errorf("manifest: digests by %.20q: want SHA1, SHA256 or SHA512: %w", kind, ErrCorrupt)
		}
		checked[file], weak = true, weak || kind == "SHA1"
		got, err := digest(ctx, algorithm(), r, p)
		if err != nil {
			return nil, false, err
		}
		if !strings.EqualFold(strings.TrimSpace(want), got) {
			return nil, false, fmt.Errorf("%.80q is not as the manifest says: %w", file, ErrCorrupt)
		}
	}
	return checked, weak, nil
}

// digest is that of a file in the archive, in hexadecimal digits.
func digest(ctx context.Context, h hash.Hash, r io.ReaderAt, p part) (string, error) {
	for done := int64(0); done < p.size; {
		if err := ctx.Err(); err != nil {
			return "", err
		}
		const chunk = 4 << 20
		n, err := io.Copy(h, io.NewSectionReader(r, p.offset+done, min(chunk, p.size-done)))
		if err == nil && n == 0 {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return "", err
		}
		done += n
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// envelope is what is read of a description.
type envelope struct {
	Files []struct {
		ID          string `xml:"id,attr"`
		Href        string `xml:"href,attr"`
		Compression string `xml:"compression,attr"`
	} `xml:"References>File"`
	Disks []struct {
		FileRef string `xml:"fileRef,attr"`
	} `xml:"DiskSection>Disk"`
}

// diskOf is the file of the only disk of a description.
func diskOf(text []byte) (string, error) {
	var e envelope
	if err := xml.Unmarshal(text, &e); err != nil {
		return "", fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	if len(e.Disks) != 1 {
		return "", fmt.Errorf("%d disks; want one: %w", len(e.Disks), ErrCorrupt)
	}
	for _, f := range e.Files {
		if f.ID != e.Disks[0].FileRef {
			continue
		}
		if f.Compression != "" && f.Compression != "identity" {
			return "", fmt.Errorf("a disk packed by %.20q: %w", f.Compression, ErrCorrupt)
		}
		return f.Href, nil
	}
	return "", fmt.Errorf("no file is called %.80q: %w", e.Disks[0].FileRef, ErrCorrupt)
}
