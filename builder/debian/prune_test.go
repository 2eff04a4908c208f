package debian

import (
	"context"
	"os"
	"slices"
	"testing"
	"time"
)

// What was not used for long leaves the cache once something else is used; what a build uses never does.
func TestPrune(t *testing.T) {
	server := serve(t, newTestArchive(twoPackages()...).files(t))
	lock := renewed(t, server.URL)
	lib, tool := lock.Packages[0], lock.Packages[1]
	s := newTestStore(t, server.URL)
	fetch := func(name string) {
		t.Helper()
		packages, err := s.Fetch(context.Background(), lock, name)
		must(t, err)
		for _, p := range packages {
			must(t, p.Close())
		}
	}
	fetch("tool")
	age := func(l Locked, by time.Duration) {
		for _, name := range []string{s.debPath(l.SHA256), s.unpackedPath(l.Unpacked)} {
			must(t, os.Chtimes(name, time.Time{}, time.Now().Add(-by)))
		}
	}
	for _, c := range []struct {
		libAge, toolAge time.Duration
		libStays        bool
		toolStays       bool
	}{
		{2 * markEvery, keepUnused - time.Hour, true, true},
		{2 * keepUnused, keepUnused - time.Hour, true, true}, // used just now
		{time.Hour, 2 * keepUnused, true, true},              // nothing new to note, so nothing is looked through
		{2 * markEvery, keepUnused + time.Hour, true, false},
	} {
		age(lib, c.libAge)
		age(tool, c.toolAge)
		fetch("lib")
		for _, p := range []struct {
			Locked
			stays bool
		}{{lib, c.libStays}, {tool, c.toolStays}} {
			for _, file := range []string{"debs/" + p.SHA256 + ".deb", "unpacked/" + p.Unpacked + ".deb"} {
				if got := slices.Contains(cacheFiles(t, s), file); got != p.stays {
					t.Errorf("ages %v and %v: %s of %s is there: %v; want %v", c.libAge, c.toolAge, file, p.Name, got, p.stays)
				}
			}
		}
	}
}
