// Package backup writes a guest whose state disk stands still, or of which there is a snapshot, as one file, and makes
// a guest of such a file, on this machine or on another: its description, its identity disk with addresses, keys and
// secrets, its state disk, what UEFI firmware remembers of a guest of another system (how it is booted, say) and, where
// that is asked for, its master. The file is a tar archive compressed by zstd, and holds the digest of each disk, so
// that what went bad on the way is not taken for a guest. One with the master is three such archives, one after the
// other: the description, the master as stores export it, and the disks.
//
// What it deliberately does not do: hold data disks or the quarantine; say whether its master may be trusted; or
// encrypt (the file holds private keys: keep it as you would those).
package backup

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/klauspost/compress/zstd"

	"rempart/builder/files"
	"rempart/builder/guest/home"
	"rempart/builder/guest/storage"
)

// Format is the version of the archive's own form.
const Format = 1

// Names in the archive, in their order.
const (
	aboutName    = "backup.json"
	identityName = "identity.raw"
	varsName     = "uefi-vars"
	stateName    = "state.raw"
)

// about is the first file of an archive.
type about struct {
	Format   int              `json:"format"`
	Guest    home.Description `json:"guest"`
	Identity digest           `json:"identity"`
	Vars     *digest          `json:"vars,omitempty"`   // nil: no firmware remembers anything
	State    *digest          `json:"state,omitempty"`  // nil: the guest has no state disk
	Master   bool             `json:"master,omitempty"` // an archive of the guest's master follows
}

// digest is what a disk must be.
type digest struct {
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

// Bounds of what Read takes.
const (
	maxAbout    = 1 << 20
	maxIdentity = 1 << 20 // what a guest reads of an identity disk
	// maxVars is twice the flash of QEMU's arm64 machine that keeps variables (hw/arm/virt.c: 128 MiB for two), which is
	// the largest of all, so that one in qcow2 has room too.
	maxVars  = 128 << 20
	maxState = 64 << 40
	window   = 8 << 20 // bytes of memory that a zstd stream may ask for
)

// ErrDamaged is told of a file that is no backup, or not as it was written.
var ErrDamaged = errors.New("no whole backup")

// Write writes a guest, which must be locked, with the state disk that is at path: its own while it does not run, or a
// snapshot of that. It tells how many of how many bytes have been read, each byte of a disk twice.
func Write(ctx context.Context, w io.Writer, g *home.Guest, state string, tell func(done, total int64)) error {
	return WriteWhole(ctx, w, g, state, nil, tell)
}

// WriteWhole is Write with the guest's master in it, as master writes it the way store.Export does; nil: without.
func WriteWhole(ctx context.Context, w io.Writer, g *home.Guest, state string, master func(w io.Writer) error,
	tell func(done, total int64)) error {
	a := about{Format: Format, Guest: g.Description, Master: master != nil}
	read := reading{tell: tell}
	type part struct{ name, path string }
	disks := []part{{identityName, g.Identity()}}
	if g.State > 0 {
		if vars, err := varsOf(g, state); err != nil {
			return err
		} else if vars != "" {
			disks = append(disks, part{varsName, vars})
		}
		disks = append(disks, part{stateName, state})
	}
	for _, d := range disks {
		size, err := storage.Length(d.path)
		if err != nil {
			return err
		}
		read.total += 2 * size // its digest stands before it
	}
	for _, d := range disks {
		sum, err := read.digestOf(ctx, d.path)
		if err != nil {
			return err
		}
		switch d.name {
		case identityName:
			a.Identity = sum
		case varsName:
			a.Vars = &sum
		case stateName:
			a.State = &sum
		}
	}
	b, err := json.Marshal(a)
	if err != nil {
		return err
	}
	putAbout := func(archive *tar.Writer) error { return put(archive, aboutName, int64(len(b)), bytes.NewReader(b)) }
	if master != nil {
		if err := archived(w, putAbout); err != nil {
			return err
		}
		if err := master(w); err != nil {
			return err
		}
		putAbout = func(*tar.Writer) error { return nil }
	}
	return archived(w, func(archive *tar.Writer) error {
		err := putAbout(archive)
		for _, d := range disks {
			if err == nil {
				err = read.put(ctx, archive, d.name, d.path)
			}
		}
		return err
	})
}

// archived writes a whole archive, compressed.
func archived(w io.Writer, fill func(archive *tar.Writer) error) error {
	packed, err := zstd.NewWriter(w, zstd.WithWindowSize(window))
	if err != nil {
		return err
	}
	archive := tar.NewWriter(packed)
	if err = fill(archive); err == nil {
		err = archive.Close()
	}
	return errors.Join(err, packed.Close())
}

// varsOf is the file with what firmware remembers of an overlay; empty: there is none.
func varsOf(g *home.Guest, overlay string) (string, error) {
	if g.Image == nil {
		return "", nil
	}
	path := storage.Vars(overlay)
	_, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return path, err
}

// reading tells how far it is with all disks.
type reading struct {
	done, total int64
	tell        func(done, total int64)
}

// of reads a disk, until ctx ends.
func (r *reading) of(ctx context.Context, disk io.Reader) io.Reader {
	return io.TeeReader(files.Interruptible(ctx, disk), r)
}

// Write implements io.Writer for what was read.
func (r *reading) Write(b []byte) (int, error) {
	r.done += int64(len(b))
	r.tell(r.done, r.total)
	return len(b), nil
}

func (r *reading) digestOf(ctx context.Context, path string) (d digest, err error) {
	f, err := os.Open(path)
	if err != nil {
		return d, err
	}
	defer f.Close()
	h := sha256.New()
	d.Size, err = io.Copy(h, r.of(ctx, f))
	d.SHA256 = hex.EncodeToString(h.Sum(nil))
	return d, err
}

func put(archive *tar.Writer, name string, size int64, content io.Reader) error {
	if err := archive.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: size, Typeflag: tar.TypeReg,
		Format: tar.FormatPAX}); err != nil {
		return err
	}
	_, err := io.Copy(archive, content)
	return err
}

func (r *reading) put(ctx context.Context, archive *tar.Writer, name, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	size, err := storage.Length(path)
	if err != nil {
		return err
	}
	return put(archive, name, size, r.of(ctx, f))
}

// Reader reads a backup.
type Reader struct {
	about   about
	passed  bool // the master, or there is none
	archive *tar.Reader
	packed  *zstd.Decoder
}

// Open reads the beginning of a backup: whose it is.
func Open(r io.Reader) (*Reader, error) {
	packed, err := zstd.NewReader(r, zstd.WithDecoderMaxWindow(window), zstd.WithDecoderConcurrency(1))
	if err != nil {
		return nil, err
	}
	b := &Reader{archive: tar.NewReader(packed), packed: packed}
	if err := b.begin(); err != nil {
		packed.Close()
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return b, nil
}

func (b *Reader) begin() error {
	if err := b.next(aboutName, maxAbout); err != nil {
		return err
	}
	d := json.NewDecoder(b.archive)
	d.DisallowUnknownFields()
	if err := d.Decode(&b.about); err != nil {
		return err
	}
	if b.about.Format != Format {
		return fmt.Errorf("format %d; this rempart reads format %d", b.about.Format, Format)
	}
	a := b.about
	if (a.State == nil) != (a.Guest.State == 0) || a.Identity.Size > maxIdentity || a.State != nil &&
		(a.State.Size < 0 || a.State.Size > maxState) || a.Vars != nil && (a.State == nil || a.Guest.Image == nil ||
		a.Vars.Size < 0 || a.Vars.Size > maxVars) {
		return errors.New("its disks are not those of its guest")
	}
	b.passed = !a.Master
	if a.Master {
		if err := b.ended("its description"); err != nil {
			return err
		}
	}
	return a.Guest.Check()
}

// ended tells what stands in an archive that is to be over.
func (b *Reader) ended(what string) error {
	switch h, err := b.archive.Next(); {
	case err == nil:
		return fmt.Errorf("%.60q stands behind %s", h.Name, what)
	case !errors.Is(err, io.EOF):
		return err
	}
	return nil
}

// next goes to the next file of the archive, which must be the one named.
func (b *Reader) next(name string, most int64) error {
	h, err := b.archive.Next()
	if err != nil {
		return err
	}
	if h.Name != name || h.Typeflag != tar.TypeReg || h.Size > most || h.Size < 0 {
		return fmt.Errorf("it holds %.60q of %d bytes; want %s", h.Name, h.Size, name)
	}
	return nil
}

// Guest is the description of the guest. Its master must be in a store here for the guest to be made.
func (b *Reader) Guest() home.Description { return b.about.Guest }

// HasMaster tells whether the backup holds the guest's master, too.
func (b *Reader) HasMaster() bool { return b.about.Master }

// Master has read take the archive of the master, which it reads to its end; once, and before Disks.
func (b *Reader) Master(read func(archive *tar.Reader) error) error { return b.master(b.packed, read) }

func (b *Reader) master(from io.Reader, read func(archive *tar.Reader) error) error {
	if b.passed {
		return errors.New("the backup holds no master, or it was read before")
	}
	b.passed = true
	b.archive = tar.NewReader(from)
	if err := read(b.archive); err != nil {
		return err
	}
	if err := b.ended("the master"); err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	b.archive = tar.NewReader(b.packed)
	return nil
}

// skip passes over the master by what the backup holds of it: a file there may say that it has holes without end.
func skip(archive *tar.Reader) error {
	for {
		if _, err := archive.Next(); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("%w: %w", ErrDamaged, err)
		}
	}
}

// Disks makes the disks of the guest; what is zero becomes a hole where there are holes. All are on this machine's
// storage when it returns.
func (b *Reader) Disks(ctx context.Context, on storage.Disks) error {
	if !b.passed {
		err := b.master(files.Interruptible(ctx, b.packed), skip)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			return err
		}
	}
	if err := b.disk(ctx, on, storage.Identity, identityName, b.about.Identity); err != nil {
		return err
	}
	if b.about.Vars != nil { // before the disk: where there is one it has them
		if err := b.vars(ctx, storage.Vars(on.Path(storage.Disk{Kind: storage.State})), *b.about.Vars); err != nil {
			return err
		}
	}
	if b.about.State != nil {
		if err := b.disk(ctx, on, storage.State, stateName, *b.about.State); err != nil {
			return err
		}
	}
	if err := b.ended("the disks"); err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return nil
}

func (b *Reader) disk(ctx context.Context, on storage.Disks, kind storage.Kind, name string, want digest) error {
	if err := b.next(name, want.Size); err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return on.Make(ctx, storage.Disk{Kind: kind}, want.Size, func(path string) error {
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		return errors.Join(b.fill(ctx, f, name, want), f.Sync())
	})
}

// vars makes the file with what firmware remembers.
func (b *Reader) vars(ctx context.Context, path string, want digest) error {
	if err := b.next(varsName, want.Size); err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return files.WriteFrom(path, 0o600, func(f *os.File) error {
		return errors.Join(f.Truncate(want.Size), b.fill(ctx, f, varsName, want)) // its end may be zeros
	})
}

// fill writes the current file of the archive, which has a name, into f.
func (b *Reader) fill(ctx context.Context, f *os.File, name string, want digest) error {
	h := sha256.New()
	size, err := files.CopySparse(ctx, io.TeeReader(b.archive, h), f)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("%s: %w", f.Name(), err)
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != want.SHA256 || size != want.Size {
		return fmt.Errorf("%w: %s has %d bytes of sha256 %.16s, want %d of %.16s", ErrDamaged, name, size, got, want.Size,
			want.SHA256)
	}
	return nil
}

// Close ends reading.
func (b *Reader) Close() { b.packed.Close() }
