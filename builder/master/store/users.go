package store

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"rempart/builder/files"
)

// homesDir holds a file for each folder of guests that are made from masters of the store; its content is the path.
const homesDir = "homes"

// With finds a master and does something with it, during which no master goes: whoever begins to use one does so here.
// It must not change the store.
func (s *Store) With(ref string, do func(*Master) error) error {
	unlock, err := s.lock()
	if err != nil {
		return err
	}
	defer unlock()
	m, err := s.Find(ref)
	if err != nil {
		return err
	}
	return do(m)
}

// AddHome has the store know that guests in a folder, an absolute path, may use its masters. Homes tells it to whoever
// is about to remove some.
func (s *Store) AddHome(home string) error {
	if !filepath.IsAbs(home) {
		return fmt.Errorf("master store: folder of guests %q: want a path that begins with a slash", home)
	}
	dir := filepath.Join(s.dir, homesDir)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("master store: %w", err)
	}
	sum := sha256.Sum256([]byte(home))
	file := filepath.Join(dir, hex.EncodeToString(sum[:]))
	if b, err := os.ReadFile(file); err == nil && string(b) == home {
		return nil
	}
	if err := files.Write(file, []byte(home), 0o644); err != nil {
		return fmt.Errorf("master store: %w", err)
	}
	return nil
}

// Homes are the folders of guests that may use masters of the store.
func (s *Store) Homes() ([]string, error) {
	dir := filepath.Join(s.dir, homesDir)
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("master store: %w", err)
	}
	var homes []string
	for _, e := range entries {
		if !digestPattern.MatchString(e.Name()) {
			continue
		}
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, fmt.Errorf("master store: %w", err)
		}
		homes = append(homes, string(b))
	}
	return homes, nil
}
