package debian

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"
)

// The machine's own mirror, if it has one: the signature of its real InRelease, and one small package of the default
// lock, with its ELF programs inside.
func TestLiveMirror(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	s, err := OpenStore(Options{CacheDir: t.TempDir()})
	must(t, err)
	lock, err := DefaultLock("amd64")
	must(t, err)
	mirrors, err := s.mirrorsFor(ctx, lock.Suite)
	if errors.Is(err, ErrNoMirror) {
		t.Skipf("SKIPPED, NOT PASSED: not tested with a real mirror: %v", err)
	}
	must(t, err)
	signed, err := s.get(ctx, mirrors[0].file("dists/"+lock.Suite+"/InRelease"), maxRelease)
	if errors.Is(err, ErrOffline) {
		t.Skipf("SKIPPED, NOT PASSED: not tested with a real mirror: %v", err)
	}
	must(t, err)
	text, err := openSigned(signed, s.keys, time.Now())
	must(t, err)
	release, err := parseRelease(text, lock.Suite, "amd64")
	must(t, err)
	if indices, err := release.indices("amd64"); err != nil || !strings.HasSuffix(indices[0][0],
		"/binary-amd64/Packages.xz") {
		t.Errorf("indices = %v, %v", indices, err)
	}
	packages, err := s.Fetch(ctx, lock, "logsave")
	if errors.Is(err, ErrGone) {
		t.Skipf("SKIPPED, NOT PASSED: not tested with a real package: the mirror has moved on; "+
			"renew the default lock: %v", err)
	}
	must(t, err)
	defer packages[0].Close()
	entries, err := packages[0].Entries()
	must(t, err)
	for _, e := range entries {
		if e.Path != "sbin/logsave" && e.Path != "usr/sbin/logsave" {
			continue
		}
		r, err := e.Open()
		must(t, err)
		magic := make([]byte, 4)
		if _, err := io.ReadFull(r, magic); err != nil || string(magic) != "\x7fELF" {
			t.Errorf("/%s starts with %q, %v; want an ELF file", e.Path, magic, err)
		}
		return
	}
	t.Errorf("logsave has no program of that name among %d entries", len(entries))
}

// BenchmarkFetchWarm is what every build with a full cache pays: all packages of the default lock, checked and listed.
func BenchmarkFetchWarm(b *testing.B) {
	s, err := OpenStore(Options{})
	must(b, err)
	lock, err := DefaultLock("amd64")
	must(b, err)
	for b.Loop() {
		packages, err := s.Fetch(context.Background(), lock)
		if err != nil {
			b.Skipf("SKIPPED, NOT MEASURED: %v", err)
		}
		for _, p := range packages {
			if _, err := p.Entries(); err != nil {
				b.Fatal(err)
			}
			p.Close()
		}
	}
}
