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
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"rempart/builder/files"
	"rempart/builder/master"
)

// tags are all tags and the digests they mean.
func (s *Store) tags() (map[string]string, error) {
	entries, err := os.ReadDir(filepath.Join(s.dir, tagsDir))
	if err != nil {
		return nil, fmt.Errorf("master store: %w", err)
	}
	all := map[string]string{}
	for _, e := range entries {
		if CheckTag(e.Name()) != nil {
			continue
		}
		b, err := os.ReadFile(filepath.Join(s.dir, tagsDir, e.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue // taken away between the two looks
		}
		digest := strings.TrimSuffix(string(b), "\n")
		if err != nil || !digestPattern.MatchString(digest) {
			return nil, fmt.Errorf("master store: tag %s holds no digest (%w); set it again with `rempart master tag`", e.Name(),
				errors.Join(ErrChanged, err))
		}
		all[e.Name()] = digest
	}
	return all, nil
}

// Tag makes a tag mean a master, whatever it meant before: that is the digest of another master, or empty.
func (s *Store) Tag(ref, tag string) (before string, err error) {
	if err := CheckTag(tag); err != nil {
		return "", err
	}
	unlock, err := s.lock()
	if err != nil {
		return "", err
	}
	defer unlock()
	m, err := s.Find(ref)
	if err != nil {
		return "", err
	}
	if all, err := s.tags(); err == nil && all[tag] != m.Digest { // one that cannot be read is set right by this
		before = all[tag]
	}
	fresh := filepath.Join(s.dir, workDir, "tag")
	if err := writeFile(fresh, []byte(m.Digest+"\n")); err != nil {
		return "", err
	}
	if err := os.Rename(fresh, filepath.Join(s.dir, tagsDir, tag)); err != nil {
		return "", fmt.Errorf("master store: %w", err)
	}
	return before, syncDir(filepath.Join(s.dir, tagsDir))
}

// Untag takes a tag away; the master it means stays.
func (s *Store) Untag(tag string) error {
	if err := CheckTag(tag); err != nil {
		return err
	}
	unlock, err := s.lock()
	if err != nil {
		return err
	}
	defer unlock()
	err = os.Remove(filepath.Join(s.dir, tagsDir, tag))
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: there is no tag %s", ErrUnknown, tag)
	}
	if err != nil {
		return fmt.Errorf("master store: %w", err)
	}
	return syncDir(filepath.Join(s.dir, tagsDir))
}

// Users looks who uses masters, and returns what tells whether one of a digest is used.
type Users func() (used func(digest string) bool, err error)

// Prune removes the masters that no tag means and that no user claims; and the files that no master has. Users are
// looked for while nobody can become one; see With. With pretend it only tells which masters would go. It returns them,
// and the bytes that are free then.
func (s *Store) Prune(users Users, pretend bool) (gone []*Master, freed int64, err error) {
	unlock, err := s.lock()
	if err != nil {
		return nil, 0, err
	}
	defer unlock()
	used, err := users()
	if err != nil {
		return nil, 0, err
	}
	all, err := s.List()
	if err != nil {
		return nil, 0, err // what cannot be read may be in use
	}
	kept := map[string]bool{}
	for _, m := range all {
		if len(m.Tags) == 0 && !used(m.Digest) {
			gone = append(gone, m)
			continue
		}
		for _, o := range m.Manifest.Outputs {
			kept[o.SHA256] = true
		}
	}
	for _, m := range gone {
		if pretend {
			break
		}
		// In one step: a master that is half there would be taken for a damaged one.
		away := filepath.Join(s.dir, workDir, "gone-"+m.Digest)
		if err := os.Rename(m.Dir, away); err != nil {
			return gone, freed, fmt.Errorf("master store: %w", err)
		}
		if err := os.RemoveAll(away); err != nil {
			return gone, freed, fmt.Errorf("master store: %w", err)
		}
	}
	files, err := os.ReadDir(filepath.Join(s.dir, filesDir))
	if err != nil {
		return gone, freed, fmt.Errorf("master store: %w", err)
	}
	for _, f := range files {
		info, err := f.Info()
		if err != nil || kept[f.Name()] || !digestPattern.MatchString(f.Name()) {
			continue
		}
		freed += info.Size()
		if !pretend {
			if err := os.Remove(filepath.Join(s.dir, filesDir, f.Name())); err != nil {
				return gone, freed, fmt.Errorf("master store: %w", err)
			}
		}
	}
	return gone, freed, nil
}

// Remove takes a master out, whatever tags mean it; they go with it. One that a user claims stays.
func (s *Store) Remove(ref string, users Users) error {
	m, err := s.Find(ref)
	if err != nil {
		return err
	}
	unused := func() error {
		used, err := users()
		if err == nil && used(m.Digest) {
			err = fmt.Errorf("master %.16s: %w by a guest", m.Digest, ErrInUse)
		}
		return err
	}
	if err := unused(); err != nil {
		return err
	}
	for _, tag := range m.Tags {
		if err := s.Untag(tag); err != nil {
			return err
		}
	}
	others, err := s.List()
	if err != nil {
		return err
	}
	_, _, err = s.Prune(func() (func(string) bool, error) {
		return func(digest string) bool {
			return digest != m.Digest && slices.ContainsFunc(others, func(o *Master) bool { return o.Digest == digest })
		}, unused()
	}, false)
	return err
}

// Verify reads every byte of a master again. The errors, one for each file that is not what the manifest says, wrap
// ErrChanged.
func (s *Store) Verify(ctx context.Context, m *Master) error {
	failed := make([]error, len(m.Manifest.Outputs)) // in their order
	group := errgroup.Group{}
	group.SetLimit(runtime.GOMAXPROCS(0))
	for i, o := range m.Manifest.Outputs {
		group.Go(func() error {
			if err := verifyFile(ctx, filepath.Join(m.Dir, o.Name), m.Manifest, o); err != nil {
				failed[i] = fmt.Errorf("master %.16s: %s: %w", m.Digest, o.Name, err)
			}
			return ctx.Err()
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	entries, err := os.ReadDir(m.Dir)
	if err != nil {
		return errors.Join(append(failed, err)...)
	}
	for _, e := range entries {
		known := e.Name() == master.ManifestFile || e.Name() == SignatureFile ||
			slices.ContainsFunc(m.Manifest.Outputs, func(o master.Output) bool { return o.Name == e.Name() })
		if !known {
			failed = append(failed, fmt.Errorf("master %.16s: %s: %w: the manifest does not name it", m.Digest, e.Name(),
				ErrChanged))
		}
	}
	return errors.Join(failed...)
}

// verifyFile reads every byte of a file of a master. It wraps ErrChanged when one is not what the manifest says.
func verifyFile(ctx context.Context, path string, m *master.Manifest, o master.Output) error {
	if o.Name == master.RawFile && o.SHA256 == m.Disk.SHA256 { // the disk as it is: the manifest has more of it
		f, size, err := open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		if same, err := m.Disk.Holds(ctx, f, size); err != nil || same {
			return err
		}
	}
	got, size, err := digestFile(ctx, path)
	if err == nil && (got != o.SHA256 || size != o.Size) {
		err = fmt.Errorf("%w: %d bytes of sha256 %.16s, wanted %d of %.16s", ErrChanged, size, got, o.Size, o.SHA256)
	}
	return err
}

// open opens a file, and tells how many bytes it has.
func open(path string) (f *os.File, size int64, err error) {
	if f, err = os.Open(path); err != nil {
		return nil, 0, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	return f, info.Size(), nil
}

func digestFile(ctx context.Context, path string) (digest string, size int64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return "", 0, err
	}
	defer f.Close()
	h := sha256.New()
	size, err = io.Copy(h, files.Interruptible(ctx, f))
	return hex.EncodeToString(h.Sum(nil)), size, err
}
