package debian

import (
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

const (
	// keepUnused is how long the cache keeps what no build has used: time enough to go back to an older lock.
	keepUnused = 90 * 24 * time.Hour
	// markEvery spares the disk a write for each package of each build.
	markEvery = 24 * time.Hour
)

// markUsed notes in the times of files when they were last used. Where that is news, which is once a day at most, what
// has not been used for long is removed. All of it is best effort: a cache that cannot be written serves all the same.
func (s *Store) markUsed(packages []*Package) {
	now := s.now()
	marked := false
	for _, p := range packages {
		if p == nil {
			continue
		}
		for _, name := range []string{s.unpackedPath(p.Unpacked), s.debPath(p.SHA256)} {
			info, err := os.Stat(name)
			if err != nil || now.Sub(info.ModTime()) < markEvery {
				continue
			}
			marked = os.Chtimes(name, time.Time{}, now) == nil || marked
		}
	}
	if marked {
		s.prune(now)
	}
}

// prune removes what was not used for long. Whoever has such a file open keeps it.
func (s *Store) prune(now time.Time) {
	for _, dir := range []string{filepath.Dir(s.debPath("")), filepath.Dir(s.unpackedPath(""))} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			continue
		}
		for _, entry := range entries {
			info, err := entry.Info()
			if err != nil || info.Mode().Type() != fs.FileMode(0) || now.Sub(info.ModTime()) < keepUnused {
				continue
			}
			name := filepath.Join(dir, entry.Name())
			if err := os.Remove(name); err == nil {
				s.log.Info("removed from the package cache: not used for long", "file", name, "last", info.ModTime())
			}
		}
	}
}
