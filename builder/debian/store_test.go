package debian

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"rempart/builder/rootfs/tree"
)

// renewed makes a lock of tool and lib with a cache of its own.
func renewed(t testing.TB, mirror string) *Lock {
	t.Helper()
	lock, err := newTestStore(t, mirror).RenewOf(context.Background(), trusty, "amd64", toolRoot, nil)
	if err != nil {
		t.Fatalf("renew: %v", err)
	}
	return lock
}

func contents(t testing.TB, packages []*Package) map[string]string {
	all := map[string]string{}
	for _, p := range packages {
		entries, err := p.Entries()
		must(t, err)
		for _, e := range entries {
			if e.Open != nil {
				all[e.Path] = read(t, e)
			}
		}
	}
	return all
}

func read(t testing.TB, e tree.Entry) string {
	r, err := e.Open()
	must(t, err)
	defer r.Close()
	b, err := io.ReadAll(r)
	must(t, err)
	return string(b)
}

func TestFetch(t *testing.T) {
	archive := newTestArchive(twoPackages()...)
	server := serve(t, archive.files(t))
	lock := renewed(t, server.URL)
	if len(lock.Packages) != 2 || lock.Packages[0].Name != "lib" || lock.Packages[1].Name != "tool" {
		t.Fatalf("renew: packages %+v; want lib and tool", lock.Packages)
	}
	cache := t.TempDir()
	var last Progress
	s := newTestStoreAt(t, cache, server.URL)
	s.options.Progress = func(p Progress) { last = p }
	packages, err := s.Fetch(context.Background(), lock)
	must(t, err)
	got := contents(t, packages)
	for name, want := range map[string]string{"usr/bin/tool": strings.Repeat("tool ", 40_000), "usr/share/lib/a": "aaa",
		"usr/share/lib/b": ""} {
		if got[name] != want {
			t.Errorf("/%s has %d bytes; want %d", name, len(got[name]), len(want))
		}
	}
	total := lock.Packages[0].Size + lock.Packages[1].Size
	if last.Stage != StageDone || last.Done != total || last.Total != total {
		t.Errorf("last progress = %+v; want done, %d of %d", last, total, total)
	}
	if control, err := packages[1].deb.Control(); err != nil || control.Get("Depends") != "lib (>= 1:1)" {
		t.Errorf("Control of tool: %v, %v", control, err)
	}
	if origin := packages[1].Origin(); origin != "package tool 1.2-3" {
		t.Errorf("Origin = %q", origin)
	}

	// With a full cache nothing is asked of anybody: the mirror is closed and there is no other.
	server.Close()
	before := len(server.seen())
	offline := newTestStoreAt(t, cache, "")
	packages, err = offline.Fetch(context.Background(), lock, "tool")
	if err != nil || len(packages) != 2 {
		t.Fatalf("Fetch from the cache = %d packages, %v; want 2", len(packages), err)
	}
	if after := len(server.seen()); after != before {
		t.Errorf("Fetch from the cache made %d requests", after-before)
	}
	if only, err := offline.Fetch(context.Background(), lock, "lib"); err != nil || len(only) != 1 {
		t.Errorf("Fetch of lib = %d packages, %v; want 1", len(only), err)
	}
	if _, err := offline.Fetch(context.Background(), lock, "nothing"); err == nil || !strings.Contains(err.Error(),
		"rempart lock") {
		t.Errorf("Fetch of a package that is not locked: error %v; want one that names `rempart lock`", err)
	}
}

// Damage in the cache is found and mended, with the .deb in the cache or else from the mirror.
func TestFetchMendsCache(t *testing.T) {
	server := serve(t, newTestArchive(twoPackages()...).files(t))
	lock := renewed(t, server.URL)
	s := newTestStore(t, server.URL)
	flip := func(file string) {
		b, err := os.ReadFile(file)
		must(t, err)
		b[len(b)/2] ^= 1
		must(t, os.WriteFile(file, b, 0o644))
	}
	want := func(requests int) {
		t.Helper()
		before := len(server.seen())
		packages, err := s.Fetch(context.Background(), lock)
		must(t, err)
		if got := contents(t, packages)["usr/bin/tool"]; got != strings.Repeat("tool ", 40_000) {
			t.Errorf("content differs after mending")
		}
		if got := len(server.seen()) - before; got != requests {
			t.Errorf("%d requests; want %d", got, requests)
		}
	}
	want(2)
	tool := lock.Packages[1]
	flip(s.unpackedPath(tool.Unpacked))
	want(0)
	flip(s.debPath(tool.SHA256))
	want(0) // the packed form is not looked at while the other is sound
	flip(s.unpackedPath(tool.Unpacked))
	want(1)
	must(t, os.Truncate(s.unpackedPath(tool.Unpacked), 10))
	want(0)
}

// Whatever goes wrong has its name, and nothing wrong stays in the cache.
func TestFetchErrors(t *testing.T) {
	archive := newTestArchive(twoPackages()...)
	files := archive.files(t)
	lock := renewed(t, serve(t, files).URL)
	tool := lock.Packages[1]
	answer := func(change func(w http.ResponseWriter, content []byte)) func(http.ResponseWriter, *http.Request,
		[]byte) bool {
		return func(w http.ResponseWriter, r *http.Request, content []byte) bool {
			if !strings.HasSuffix(r.URL.Path, tool.Path) {
				return false
			}
			change(w, content)
			return true
		}
	}
	for _, c := range []struct {
		name string
		hook func(http.ResponseWriter, *http.Request, []byte) bool
		want error
		text string
		part bool // something to go on with may stay
	}{
		{"other bytes", answer(func(w http.ResponseWriter, content []byte) {
			changed := bytes.Clone(content)
			changed[len(changed)-1] ^= 1
			w.Write(changed)
		}), ErrDigest, "try another with --mirror", false},
		{"too long", answer(func(w http.ResponseWriter, content []byte) {
			w.(http.Flusher).Flush() // no Content-Length
			w.Write(append(bytes.Clone(content), 0))
		}), ErrDigest, "sends more", false},
		{"longer by its header", answer(func(w http.ResponseWriter, content []byte) {
			w.Write(append(bytes.Clone(content), 0))
		}), ErrDigest, "the mirror has", false},
		{"cut short", answer(func(w http.ResponseWriter, content []byte) {
			w.(http.Flusher).Flush()
			w.Write(content[:len(content)/2])
		}), ErrTruncated, "bytes arrived", true},
		{"empty", answer(func(w http.ResponseWriter, content []byte) { w.(http.Flusher).Flush() }), ErrTruncated, "0 of",
			false},
		{"stalled", func(w http.ResponseWriter, r *http.Request, content []byte) bool {
			if !strings.HasSuffix(r.URL.Path, tool.Path) {
				return false
			}
			w.Header().Set("Content-Length", fmt.Sprint(len(content)))
			w.Write(content[:10])
			w.(http.Flusher).Flush()
			<-r.Context().Done()
			return true
		}, ErrTruncated, "no data arrived for", true},
		{"gone", answer(func(w http.ResponseWriter, _ []byte) { w.WriteHeader(http.StatusNotFound) }), ErrGone,
			"`rempart lock`", false},
		{"forbidden", answer(func(w http.ResponseWriter, _ []byte) { w.WriteHeader(http.StatusForbidden) }), nil, "403",
			false},
		{"broken", answer(func(w http.ResponseWriter, _ []byte) { w.WriteHeader(http.StatusBadGateway) }), nil, "502", false},
		{"redirected to a file", answer(func(w http.ResponseWriter, _ []byte) {
			w.Header().Set("Location", "file:///etc/passwd")
			w.WriteHeader(http.StatusFound)
		}), nil, "redirects to file", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			server := serve(t, files)
			server.hook = c.hook
			s := newTestStore(t, server.URL)
			_, err := s.Fetch(context.Background(), lock, "tool")
			if c.want != nil && !errors.Is(err, c.want) || err == nil || !strings.Contains(err.Error(), c.text) {
				t.Errorf("Fetch: error %v; want %v with %q", err, c.want, c.text)
			}
			if err != nil && !strings.Contains(err.Error(), "tool 1.2-3") {
				t.Errorf("Fetch: error %v does not name the package", err)
			}
			for _, file := range cacheFiles(t, s) {
				if strings.Contains(file, tool.SHA256) && !(c.part && strings.HasSuffix(file, partSuffix)) {
					t.Errorf("the cache keeps %s", file)
				}
			}
			// The next try, with nothing wrong, must not be hindered by what was left.
			server.mu.Lock()
			server.hook = nil
			server.mu.Unlock()
			if _, err := s.Fetch(context.Background(), lock, "tool"); err != nil {
				t.Errorf("Fetch afterwards: %v", err)
			}
			for _, file := range cacheFiles(t, s) {
				if strings.HasSuffix(file, partSuffix) {
					t.Errorf("after success the cache keeps %s", file)
				}
			}
		})
	}
}

func TestFetchOffline(t *testing.T) {
	server := serve(t, newTestArchive(twoPackages()...).files(t))
	lock := renewed(t, server.URL)
	server.Close()
	s := newTestStore(t, server.URL)
	_, err := s.Fetch(context.Background(), lock)
	if !errors.Is(err, ErrOffline) || errors.Is(err, ErrGone) {
		t.Errorf("Fetch: error %v; want ErrOffline", err)
	}
	if files := cacheFiles(t, s); len(files) > 0 {
		t.Errorf("the cache holds %q; want nothing", files)
	}
	if _, err := newTestStore(t, "").Fetch(context.Background(), lock); !errors.Is(err, ErrNoMirror) ||
		!strings.Contains(err.Error(), "--mirror http://MIRROR/debian") {
		t.Errorf("Fetch without any mirror: error %v; want ErrNoMirror with the flags to give", err)
	}
}

// A download that was broken off, by the mirror or by the user, goes on where it stopped.
func TestFetchResumes(t *testing.T) {
	archive := newTestArchive(twoPackages()...)
	server := serve(t, archive.files(t))
	lock := renewed(t, server.URL)
	tool := lock.Packages[1]
	ctx, cancel := context.WithCancel(context.Background())
	half := int(tool.Size / 2)
	server.hook = func(w http.ResponseWriter, r *http.Request, content []byte) bool {
		if !strings.HasSuffix(r.URL.Path, tool.Path) {
			return false
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(content)))
		w.Write(content[:half])
		w.(http.Flusher).Flush()
		<-r.Context().Done()
		return true
	}
	s := newTestStore(t, server.URL)
	s.options.Progress = func(p Progress) {
		if p.Name == "tool" && p.Done >= int64(half) {
			cancel()
		}
	}
	if _, err := s.Fetch(ctx, lock, "tool"); !errors.Is(err, context.Canceled) {
		t.Fatalf("Fetch broken off: error %v; want context.Canceled", err)
	}
	part := "debs/" + tool.SHA256 + ".deb" + partSuffix
	if files := cacheFiles(t, s); !slices.Contains(files, part) {
		t.Fatalf("the cache holds %q; want %s among them", files, part)
	}
	server.mu.Lock()
	server.hook = nil
	server.mu.Unlock()
	if _, err := s.Fetch(context.Background(), lock); err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("%s bytes=%d-", tool.Path, half)
	if !slices.Contains(server.seen(), want) {
		t.Errorf("requests %q; want %q among them", server.seen(), want)
	}

	// A part that holds something else is thrown away, not trusted.
	other := newTestStore(t, server.URL)
	must(t, os.MkdirAll(filepath.Join(other.options.CacheDir, "debs"), 0o755))
	must(t, os.WriteFile(filepath.Join(other.options.CacheDir, part), []byte("something else"), 0o644))
	if _, err := other.Fetch(context.Background(), lock); err != nil {
		t.Errorf("Fetch with a foreign part: %v", err)
	}
	// Nor is one that is longer than the file.
	third := newTestStore(t, server.URL)
	must(t, os.MkdirAll(filepath.Join(third.options.CacheDir, "debs"), 0o755))
	must(t, os.WriteFile(filepath.Join(third.options.CacheDir, part), make([]byte, tool.Size+1), 0o644))
	if _, err := third.Fetch(context.Background(), lock); err != nil {
		t.Errorf("Fetch with a part that is too long: %v", err)
	}
}

// A mirror that fails now and then is asked again; one that lacks a file is followed by the next.
func TestFetchRetries(t *testing.T) {
	server := serve(t, newTestArchive(twoPackages()...).files(t))
	lock := renewed(t, server.URL)
	failures := 0
	server.hook = func(w http.ResponseWriter, r *http.Request, _ []byte) bool {
		server.mu.Lock()
		defer server.mu.Unlock()
		if failures++; failures > 2 {
			return false
		}
		w.WriteHeader(http.StatusServiceUnavailable)
		return true
	}
	if _, err := newTestStore(t, server.URL).Fetch(context.Background(), lock, "lib"); err != nil {
		t.Errorf("Fetch from a mirror that fails twice: %v", err)
	}
}

// Several stores at one cache, as several processes would be, do not get in each other's way, and bring a package once.
func TestFetchConcurrently(t *testing.T) {
	server := serve(t, newTestArchive(twoPackages()...).files(t))
	lock := renewed(t, server.URL)
	cache := t.TempDir()
	before := len(server.seen())
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			packages, err := newTestStoreAt(t, cache, server.URL).Fetch(context.Background(), lock)
			if err != nil {
				t.Errorf("Fetch: %v", err)
				return
			}
			if got := contents(t, packages)["usr/share/lib/a"]; got != "aaa" {
				t.Errorf("content = %q", got)
			}
		})
	}
	group.Wait()
	if got := len(server.seen()) - before; got != 2 {
		t.Errorf("%d requests; want 2", got)
	}
}

func TestFetchFromFiles(t *testing.T) {
	archive := newTestArchive(twoPackages()...)
	dir := filepath.Join(t.TempDir(), "a mirror+with odd%20name")
	archive.write(t, dir)
	lock := renewed(t, "file:"+strings.NewReplacer("%", "%25", " ", "%20").Replace(dir))
	for _, mirror := range []string{dir, "file://" + strings.NewReplacer("%", "%25", " ", "%20").Replace(dir)} {
		if _, err := newTestStore(t, mirror).Fetch(context.Background(), lock); err != nil {
			t.Errorf("Fetch from %s: %v", mirror, err)
		}
	}
	if _, err := newTestStore(t, filepath.Join(dir, "nothing")).Fetch(context.Background(), lock); err == nil {
		t.Error("Fetch from a directory that is not there: no error")
	}

	// A plain directory of .debs, under usual, apt's and any other names.
	files := archive.files(t)
	flat := t.TempDir()
	if _, err := newTestStore(t, flat).Fetch(context.Background(), lock); !errors.Is(err, ErrGone) {
		t.Errorf("Fetch from an empty directory: error %v; want ErrGone", err)
	}
	must(t, os.WriteFile(filepath.Join(flat, "lib_1%3a2~rc1-1_all.deb"), files[lock.Packages[0].Path], 0o644))
	must(t, os.Mkdir(filepath.Join(flat, "more"), 0o755))
	must(t, os.WriteFile(filepath.Join(flat, "more", "renamed.deb"), files[lock.Packages[1].Path], 0o644))
	if _, err := newTestStore(t, flat).Fetch(context.Background(), lock); err != nil {
		t.Errorf("Fetch from a directory of .debs: %v", err)
	}
	must(t, os.WriteFile(filepath.Join(flat, "more", "renamed.deb"), []byte("!<arch>\n"), 0o644))
	must(t, os.WriteFile(filepath.Join(flat, "tool_1.2-3_amd64.deb"), []byte("!<arch>\n"), 0o644))
	if _, err := newTestStore(t, flat).Fetch(context.Background(), lock); !errors.Is(err, ErrDigest) {
		t.Errorf("Fetch from a directory with another .deb of that name: error %v; want ErrDigest", err)
	}
	if _, err := newTestStore(t, flat).RenewOf(context.Background(), trusty, "amd64", toolRoot, nil); !errors.Is(err,
		ErrSignature) {
		t.Errorf("renew from a directory of .debs: error %v; want ErrSignature", err)
	}
}

// A lock that names another unpacked form than the .deb has is refused, and so is a .deb of another package.
func TestFetchBelievesLockAlone(t *testing.T) {
	server := serve(t, newTestArchive(twoPackages()...).files(t))
	lock := renewed(t, server.URL)
	lock.Packages[0].Unpacked = strings.Repeat("0", 64)
	s := newTestStore(t, server.URL)
	if _, err := s.Fetch(context.Background(), lock); !errors.Is(err, ErrDigest) {
		t.Errorf("Fetch with a wrong unpacked digest: error %v; want ErrDigest", err)
	}
	for _, file := range cacheFiles(t, s) {
		if strings.HasPrefix(file, "unpacked/") && !strings.Contains(file, lock.Packages[1].Unpacked) {
			t.Errorf("the cache keeps %s", file)
		}
	}
	lock = renewed(t, server.URL)
	lock.Packages[0].Version = "1:3"
	if _, err := newTestStore(t, server.URL).Fetch(context.Background(), lock); !errors.Is(err, ErrDigest) ||
		!strings.Contains(err.Error(), "control file says") {
		t.Errorf("Fetch of a package that says another version: error %v; want ErrDigest", err)
	}
}

// The best mirror decides whether a package is gone; troubles of those after it do not hide that.
func TestFetchGoneAtTheBestMirror(t *testing.T) {
	files := newTestArchive(twoPackages()...).files(t)
	lock := renewed(t, serve(t, files).URL)
	empty := serve(t, nil)
	broken := serve(t, nil)
	broken.hook = func(w http.ResponseWriter, _ *http.Request, _ []byte) bool {
		w.WriteHeader(http.StatusForbidden)
		return true
	}
	good := serve(t, files)
	for _, c := range []struct {
		mirrors []*testServer
		want    error
		ok      bool
	}{
		{[]*testServer{empty, broken}, ErrGone, false},
		{[]*testServer{broken, empty}, nil, false},
		{[]*testServer{broken, empty, good}, nil, true},
	} {
		apt := t.TempDir()
		var list strings.Builder
		for _, m := range c.mirrors {
			fmt.Fprintf(&list, "deb %s %s main\n", m.URL, trusty)
		}
		must(t, os.WriteFile(filepath.Join(apt, "sources.list"), []byte(list.String()), 0o644))
		s := newTestStore(t, "")
		s.options.AptDir = apt
		_, err := s.Fetch(context.Background(), lock)
		if (err == nil) != c.ok || errors.Is(err, ErrGone) != (c.want == ErrGone) {
			t.Errorf("Fetch: error %v; want %v", err, c.want)
		}
	}
}
