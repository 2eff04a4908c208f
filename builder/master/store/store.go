// Package store keeps masters: each by the digest of its manifest, which names every byte of it, and by tags, which are
// moved. What is kept never changes; files that several masters share are stored once.
//
//	masters/DIGEST/     a master's folder, its files links to those below
//	files/SHA256        each file once
//	tags/NAME           a line: the digest that NAME means
//	trusted/NAME.pub    minisign keys whose signatures are believed
//	work/               what is being put in
//
// A master appears whole or not at all, and at no moment does a tag lead nowhere: a power cut leaves at worst a folder
// in work, which the next change of the store removes. Changes hold a lock; readers need none.
//
// What it deliberately does not do: build masters, or know of guests; who uses a master says so to Prune.
package store

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"rempart/builder/files"
	"rempart/builder/master"
)

// Folders of a store.
const (
	mastersDir = "masters"
	filesDir   = "files"
	tagsDir    = "tags"
	trustedDir = "trusted"
	workDir    = "work"
	lockFile   = "lock"
)

// SignatureFile is beside the manifest it signs.
const SignatureFile = master.ManifestFile + ".minisig"

// Errors, for errors.Is.
var (
	ErrUnknown   = errors.New("no such master in the store")
	ErrAmbiguous = errors.New("more than one master in the store begins so")
	ErrChanged   = errors.New("not what its manifest says")
	ErrInUse     = errors.New("in use")
)

// Store is a folder of masters.
type Store struct{ dir string }

// Open uses a folder as a store; what is missing of it is made.
func Open(dir string) (*Store, error) {
	for _, name := range []string{mastersDir, filesDir, tagsDir, trustedDir, workDir} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			return nil, fmt.Errorf("master store: %w", err)
		}
	}
	return &Store{dir}, nil
}

// Dir is the folder of the store.
func (s *Store) Dir() string { return s.dir }

// DefaultDir is where masters are kept: /var/lib/rempart for root, else where the XDG Base Directory Specification has
// data.
func DefaultDir() (string, error) { return files.Data("masters") }

// Master is one of a store.
type Master struct {
	Digest   string // SHA-256 of its manifest, hex: what it is known by
	Dir      string // its folder; nothing in it may be changed
	Tags     []string
	Manifest *master.Manifest
}

// digestPattern is a whole digest; leastPrefix is how much of one names a master.
var digestPattern = regexp.MustCompile(`^[0-9a-f]{64}$`)

const leastPrefix = 6

// tagPattern keeps tags apart from digests, options and paths.
var tagPattern = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,63}$`)

// CheckTag tells what is wrong with a tag.
func CheckTag(tag string) error {
	if !tagPattern.MatchString(tag) {
		return fmt.Errorf("tag %.80q: want 1 to 64 lower-case letters, digits, '.', '_' and '-', the first a letter or digit",
			tag)
	}
	if hexOnly := regexp.MustCompile(`^[0-9a-f]{6,64}$`); hexOnly.MatchString(tag) {
		return fmt.Errorf("tag %q: it looks like a digest", tag)
	}
	return nil
}

// Kept tells whether a folder is that of a master in a store.
func Kept(dir string) bool {
	dir = filepath.Clean(dir)
	return digestPattern.MatchString(filepath.Base(dir)) && filepath.Base(filepath.Dir(dir)) == mastersDir
}

// lock makes this the only change of the store until the function returned is called, and removes what a change that
// was killed has left.
func (s *Store) lock() (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(s.dir, lockFile), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("master store: %w", err)
	}
	for {
		if err = unix.Flock(int(f.Fd()), unix.LOCK_EX); !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("master store: locking it: %w", err)
	}
	left, _ := os.ReadDir(filepath.Join(s.dir, workDir))
	for _, e := range left {
		path := filepath.Join(s.dir, workDir, e.Name())
		if strings.HasPrefix(e.Name(), importPrefix) && held(path) {
			continue // an import goes on there: it takes its time, and this lock only to publish
		}
		_ = os.RemoveAll(path)
	}
	return func() { f.Close() }, nil
}

// importPrefix begins the names of folders that imports work in, each locked by its own.
const importPrefix = "import-"

// held tells whether somebody has a folder locked.
func held(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	return errors.Is(unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB), unix.EWOULDBLOCK)
}

// importFolder makes a folder for an import, which done removes, as the next change does if this process is killed.
func (s *Store) importFolder() (folder string, done func(), err error) {
	unlock, err := s.lock()
	if err != nil {
		return "", nil, err
	}
	defer unlock()
	if folder, err = os.MkdirTemp(filepath.Join(s.dir, workDir), importPrefix); err != nil {
		return "", nil, fmt.Errorf("master store: %w", err)
	}
	f, err := os.Open(folder)
	if err == nil {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	}
	if err != nil {
		return "", nil, errors.Join(fmt.Errorf("master store: %w", err), os.RemoveAll(folder))
	}
	return folder, func() { _ = os.RemoveAll(folder); f.Close() }, nil
}

// digestOf is what the master of a manifest is known by.
func digestOf(manifest []byte) string {
	sum := sha256.Sum256(manifest)
	return hex.EncodeToString(sum[:])
}

// Read reads the manifest of the master in a folder, which need be in no store, and by what digest stores know that.
func Read(folder string) (*master.Manifest, string, error) {
	raw, m, err := readManifest(folder)
	return m, digestOf(raw), err
}

// Publish puts the master in a folder into the store, checking every byte of it against its manifest on the way, and
// returns it. One that is there already is left as it is.
func (s *Store) Publish(ctx context.Context, folder string) (*Master, error) {
	raw, m, err := readManifest(folder)
	if err != nil {
		return nil, err
	}
	digest := digestOf(raw)
	unlock, err := s.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	if have, err := s.load(digest); err == nil {
		return have, s.addSignature(have, folder)
	}
	work, err := os.MkdirTemp(filepath.Join(s.dir, workDir), "publish-")
	if err != nil {
		return nil, fmt.Errorf("master store: %w", err)
	}
	defer os.RemoveAll(work)
	staged := filepath.Join(work, digest)
	if err := os.Mkdir(staged, 0o755); err != nil {
		return nil, fmt.Errorf("master store: %w", err)
	}
	for _, o := range m.Outputs {
		if o.Name != filepath.Base(o.Name) || o.Name == master.ManifestFile || o.Name == SignatureFile {
			return nil, fmt.Errorf("%s names the file %q", master.ManifestFile, o.Name)
		}
		if err := s.putFile(ctx, filepath.Join(folder, o.Name), o, work, filepath.Join(staged, o.Name)); err != nil {
			return nil, err
		}
	}
	if err := writeFile(filepath.Join(staged, master.ManifestFile), raw); err != nil {
		return nil, err
	}
	signature, err := os.ReadFile(filepath.Join(folder, SignatureFile))
	if err == nil {
		err = writeFile(filepath.Join(staged, SignatureFile), signature)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err := syncDir(staged); err != nil {
		return nil, err
	}
	if err := os.Rename(staged, filepath.Join(s.dir, mastersDir, digest)); err != nil {
		return nil, fmt.Errorf("master store: %w", err)
	}
	if err := syncDir(filepath.Join(s.dir, mastersDir)); err != nil {
		return nil, err
	}
	return s.load(digest)
}

// addSignature keeps the signature that a folder has of a master which is here already without one, or without one that
// is believed: the same master may have come unsigned before. The caller holds the lock.
func (s *Store) addSignature(have *Master, folder string) error {
	_, why := s.Signer(have)
	if why == nil {
		return nil
	}
	signature, err := os.ReadFile(filepath.Join(folder, SignatureFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if _, err := s.signerOf(have, signature); err != nil && !errors.Is(why, ErrUnsigned) {
		return nil // no better than the one that is here
	}
	fresh := filepath.Join(s.dir, workDir, "signature")
	if err := writeFile(fresh, signature); err != nil {
		return err
	}
	if err := os.Rename(fresh, filepath.Join(have.Dir, SignatureFile)); err != nil {
		return fmt.Errorf("master store: %w", err)
	}
	return syncDir(have.Dir)
}

func readManifest(folder string) ([]byte, *master.Manifest, error) {
	raw, err := os.ReadFile(filepath.Join(folder, master.ManifestFile))
	if err != nil {
		return nil, nil, fmt.Errorf("%s is no master: %w", folder, err)
	}
	m, err := master.ReadManifest(strings.NewReader(string(raw)))
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", folder, err)
	}
	return raw, m, nil
}

// putFile links a file of a master into its folder, copying it into the store first unless it is there.
func (s *Store) putFile(ctx context.Context, from string, o master.Output, work, to string) error {
	if !digestPattern.MatchString(o.SHA256) {
		return fmt.Errorf("%s: the digest of %s is %.70q", master.ManifestFile, o.Name, o.SHA256)
	}
	kept := filepath.Join(s.dir, filesDir, o.SHA256)
	whole := false
	if info, err := os.Lstat(kept); err == nil && info.Mode().IsRegular() && info.Size() == o.Size {
		// It is read again: it may have been damaged since it was stored, and every byte is promised.
		got, _, err := digestFile(ctx, kept)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		whole = err == nil && got == o.SHA256
	}
	if !whole {
		copied := filepath.Join(work, "file")
		if err := copyFile(ctx, from, copied, o); err != nil {
			return err
		}
		if err := os.Rename(copied, kept); err != nil {
			return fmt.Errorf("master store: %w", err)
		}
		if err := syncDir(filepath.Join(s.dir, filesDir)); err != nil {
			return err
		}
	}
	if err := os.Link(kept, to); err != nil {
		return fmt.Errorf("master store: %w", err)
	}
	return nil
}

// copyFile copies a file, leaving out runs of zeros, and checks it against what the manifest says.
func copyFile(ctx context.Context, from, to string, o master.Output) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o444)
	if err != nil {
		return fmt.Errorf("master store: %w", err)
	}
	defer out.Close()
	h := sha256.New()
	size, err := files.CopySparse(ctx, io.TeeReader(in, h), out)
	if err != nil {
		return fmt.Errorf("%s: %w", from, err)
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != o.SHA256 || size != o.Size {
		return fmt.Errorf("%s: %w: %d bytes of sha256 %.16s, wanted %d of %.16s; build it again", from, ErrChanged, size, got,
			o.Size, o.SHA256)
	}
	if err := out.Truncate(size); err != nil {
		return fmt.Errorf("master store: %w", err)
	}
	if err := out.Sync(); err != nil {
		return fmt.Errorf("master store: %w", err)
	}
	return out.Close()
}

// writeFile writes a new file that is on disk when it returns.
func writeFile(path string, b []byte) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o444)
	if err != nil {
		return fmt.Errorf("master store: %w", err)
	}
	defer f.Close()
	if _, err := f.Write(b); err != nil {
		return fmt.Errorf("master store: %w", err)
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("master store: %w", err)
	}
	return f.Close()
}

func syncDir(path string) error {
	if err := files.SyncFolder(path); err != nil {
		return fmt.Errorf("master store: %w", err)
	}
	return nil
}

// load reads the master of a digest.
func (s *Store) load(digest string) (*Master, error) {
	dir := filepath.Join(s.dir, mastersDir, digest)
	raw, m, err := readManifest(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %.16s", ErrUnknown, digest)
	}
	if err != nil {
		return nil, err
	}
	if digestOf(raw) != digest {
		return nil, fmt.Errorf("%s: %w: its manifest has another digest; remove the folder and publish it again", dir,
			ErrChanged)
	}
	have := &Master{Digest: digest, Dir: dir, Manifest: m}
	tags, err := s.tags()
	for tag, means := range tags {
		if means == digest {
			have.Tags = append(have.Tags, tag)
		}
	}
	slices.Sort(have.Tags)
	return have, err
}

// List returns all masters, by name and then digest. One that cannot be read does not hide the others; the error names
// it.
func (s *Store) List() (all []*Master, err error) {
	entries, err := os.ReadDir(filepath.Join(s.dir, mastersDir))
	if err != nil {
		return nil, fmt.Errorf("master store: %w", err)
	}
	var failed []error
	for _, e := range entries {
		if !digestPattern.MatchString(e.Name()) {
			continue
		}
		m, err := s.load(e.Name())
		if err != nil {
			failed = append(failed, err)
			continue
		}
		all = append(all, m)
	}
	slices.SortFunc(all, func(a, b *Master) int {
		if c := strings.Compare(a.Manifest.Master.Name, b.Manifest.Master.Name); c != 0 {
			return c
		}
		return strings.Compare(a.Digest, b.Digest)
	})
	return all, errors.Join(failed...)
}

// Find returns the master that a tag, a digest, or the first 6 and more digits of one mean.
func (s *Store) Find(ref string) (*Master, error) {
	tags, err := s.tags()
	if err != nil {
		return nil, err
	}
	if digest, ok := tags[ref]; ok {
		return s.load(digest)
	}
	if len(ref) < leastPrefix || strings.Trim(ref, "0123456789abcdef") != "" || len(ref) > 64 {
		return nil, fmt.Errorf("%w: %.80q; `rempart master list` shows them", ErrUnknown, ref)
	}
	entries, err := os.ReadDir(filepath.Join(s.dir, mastersDir))
	if err != nil {
		return nil, fmt.Errorf("master store: %w", err)
	}
	found := ""
	for _, e := range entries {
		if digestPattern.MatchString(e.Name()) && strings.HasPrefix(e.Name(), ref) {
			if found != "" {
				return nil, fmt.Errorf("%w: %s", ErrAmbiguous, ref)
			}
			found = e.Name()
		}
	}
	if found == "" {
		return nil, fmt.Errorf("%w: %s; `rempart master list` shows them", ErrUnknown, ref)
	}
	return s.load(found)
}
