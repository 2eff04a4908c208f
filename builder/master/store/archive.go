package store

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/klauspost/compress/zstd"

	"rempart/builder/files"
	"rempart/builder/master"
)

// Bounds of an archive. What a manifest says of its files bounds the rest.
const (
	maxManifestSize  = 128 << 20
	maxSignatureSize = 4 << 10
	maxFileSize      = 64 << 30
	maxWindow        = 8 << 20 // bytes of memory that a zstd stream may ask for
)

// Export writes a master as one file: a tar archive, compressed by zstd, with the manifest first, then its signature if
// it has one, then the files in the manifest's order. The same master gives the same bytes.
func (s *Store) Export(ctx context.Context, m *Master, w io.Writer) error {
	packed, err := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(maxWindow))
	if err != nil {
		return err
	}
	archive := tar.NewWriter(packed)
	names := []string{master.ManifestFile}
	if _, err := os.Stat(filepath.Join(m.Dir, SignatureFile)); err == nil {
		names = append(names, SignatureFile)
	}
	for _, o := range m.Manifest.Outputs {
		names = append(names, o.Name)
	}
	for _, name := range names {
		if err := exportFile(ctx, archive, m.Dir, name); err != nil {
			return fmt.Errorf("exporting master %.16s: %w", m.Digest, err)
		}
	}
	if err := archive.Close(); err != nil {
		return err
	}
	return packed.Close()
}

func exportFile(ctx context.Context, archive *tar.Writer, dir, name string) error {
	f, size, err := open(filepath.Join(dir, name))
	if err != nil {
		return err
	}
	defer f.Close()
	header := &tar.Header{Name: name, Mode: 0o444, Size: size, Typeflag: tar.TypeReg, Format: tar.FormatPAX}
	if err := archive.WriteHeader(header); err != nil {
		return err
	}
	_, err = io.Copy(archive, files.Interruptible(ctx, f))
	return err
}

// Import reads what Export wrote into the store. Whoever wrote it, nothing but what its manifest names is written, and
// none of it outside the store; what is not what the manifest says is refused whole.
func (s *Store) Import(ctx context.Context, r io.Reader) (*Master, error) {
	packed, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
	if err != nil {
		return nil, fmt.Errorf("importing a master: %w", err)
	}
	defer packed.Close()
	return s.ImportArchive(ctx, tar.NewReader(packed), func(*Master) error { return nil })
}

// ImportArchive is Import of the archive alone, uncompressed, which it reads to its end. A master that admit has an
// error for does not get into the store: it sees that in a folder that goes, before any byte is held against the
// manifest.
func (s *Store) ImportArchive(ctx context.Context, archive *tar.Reader, admit func(m *Master) error) (*Master, error) {
	return s.Make(ctx, func(folder string) error {
		err := unpack(ctx, archive, folder)
		switch {
		case errors.Is(err, io.ErrUnexpectedEOF):
			return fmt.Errorf("%w: it is cut off: %w", ErrChanged, err)
		case errors.Is(err, zstd.ErrMagicMismatch):
			return fmt.Errorf("%w: no master that was exported: %w", ErrChanged, err)
		case err != nil:
			return err
		}
		m, digest, err := Read(folder)
		if err != nil {
			return err
		}
		return admit(&Master{Digest: digest, Dir: folder, Manifest: m})
	})
}

// Make has write fill a folder with a master, and publishes that. The folder goes, whatever becomes of it.
func (s *Store) Make(ctx context.Context, write func(folder string) error) (*Master, error) {
	folder, done, err := s.importFolder()
	if err != nil {
		return nil, err
	}
	defer done()
	if err := write(folder); err != nil {
		return nil, fmt.Errorf("importing a master: %w", err)
	}
	return s.Publish(ctx, folder)
}

// unpack writes the files of an archive into a folder.
func unpack(ctx context.Context, archive *tar.Reader, folder string) error {
	sizes := map[string]int64{master.ManifestFile: maxManifestSize}
	for {
		header, err := archive.Next()
		switch {
		case errors.Is(err, io.EOF):
			return missing(sizes)
		case err != nil:
			return err
		}
		most, expected := sizes[header.Name]
		if !expected || header.Typeflag != tar.TypeReg {
			return fmt.Errorf("%w: it holds %.80q", ErrChanged, header.Name)
		}
		if header.Size > most {
			return fmt.Errorf("%w: %s has %d bytes, wanted at most %d", ErrChanged, header.Name, header.Size, most)
		}
		delete(sizes, header.Name)
		if err := unpackFile(ctx, archive, filepath.Join(folder, header.Name)); err != nil {
			return err
		}
		if header.Name != master.ManifestFile {
			continue
		}
		_, m, err := readManifest(folder)
		if err != nil {
			return err
		}
		for _, o := range m.Outputs {
			if o.Name != filepath.Base(o.Name) || o.Name == "." || o.Name == ".." || o.Name == master.ManifestFile ||
				o.Name == SignatureFile || o.Size < 0 || o.Size > maxFileSize {
				return fmt.Errorf("%w: its manifest names the file %.80q of %d bytes", ErrChanged, o.Name, o.Size)
			}
			sizes[o.Name] = o.Size
		}
		sizes[SignatureFile] = maxSignatureSize
	}
}

// missing tells which files an archive lacks.
func missing(sizes map[string]int64) error {
	for name := range sizes {
		if name != SignatureFile {
			return fmt.Errorf("%w: it lacks %s", ErrChanged, name)
		}
	}
	return nil
}

func unpackFile(ctx context.Context, in io.Reader, path string) error {
	out, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, fs.FileMode(0o600))
	if err != nil {
		return err
	}
	defer out.Close()
	size, err := files.CopySparse(ctx, in, out)
	if err != nil {
		return err
	}
	if err := out.Truncate(size); err != nil {
		return err
	}
	return out.Close()
}
