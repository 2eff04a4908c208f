package child

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"rempart/firstboot/contract"
	"rempart/profiles"
)

// OpenStored opens what a profile stores beside its JSON under a digest: of a changed profile, or of the master. The
// error wraps fs.ErrNotExist when neither has it.
func OpenStored(root, digest string) (*os.File, error) {
	if !filepath.IsLocal(digest) || filepath.Base(digest) != digest {
		return nil, fmt.Errorf("%q is no digest: %w", digest, fs.ErrNotExist)
	}
	f, err := os.Open(filepath.Join(root, contract.LiveSets, digest))
	if errors.Is(err, fs.ErrNotExist) {
		f, err = os.Open(filepath.Join(root, contract.SetsDir, digest))
	}
	return f, err
}

// RestoreSet gives a set the ranges that are stored beside the profile.
func RestoreSet(root string, s *profiles.Set) error {
	return s.Restore(func(part profiles.StoredPart) ([]byte, error) {
		f, err := OpenStored(root, part.Digest)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		return io.ReadAll(io.LimitReader(f, part.MostBytes()+1)) // its digest is checked
	})
}
