package debian

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestRenew(t *testing.T) {
	packages := append(twoPackages(),
		testPackage{name: "lib", version: "1:2-1", arch: "all", suite: trusty + updatesSuffix},
		testPackage{name: "lib", version: "1:2-1+security1", arch: "all", suite: trusty + securitySuffix,
			files: map[string]string{"usr/share/lib/a": "fixed"}})
	archive := newTestArchive(packages[:2]...)
	server := serve(t, archive.files(t))
	s := newTestStore(t, server.URL)
	ctx := context.Background()
	first, err := s.RenewOf(ctx, trusty, "amd64", toolRoot, nil)
	must(t, err)
	if lib, _ := first.Package("lib"); lib.Version != "1:2~rc1-1" || lib.Archive != trusty || !slices.Equal(lib.For,
		[]string{"tool"}) {
		t.Errorf("lib = %+v; want 1:2~rc1-1 of %s for tool", lib, trusty)
	}

	archive.packages = packages
	archive.date = archive.date.Add(time.Minute)
	server.mu.Lock()
	server.files = archive.files(t)
	server.mu.Unlock()
	second, err := s.RenewOf(ctx, trusty, "amd64", toolRoot, first)
	must(t, err)
	if lib, _ := second.Package("lib"); lib.Version != "1:2-1+security1" || lib.Archive != trusty+securitySuffix {
		t.Errorf("lib = %+v; want the security update", lib)
	}
	if got := fmt.Sprint(second.Changes(first)); got != "[  lib 1:2~rc1-1 -> 1:2-1+security1]" {
		t.Errorf("Changes = %s", got)
	}
	if got := fmt.Sprint(first.Changes(nil)); got != "[+ lib 1:2~rc1-1 + tool 1.2-3]" {
		t.Errorf("Changes from nothing = %s", got)
	}
	if fetched, err := newTestStore(t, server.URL).Fetch(ctx, second); err != nil || contents(t,
		fetched)["usr/share/lib/a"] != "fixed" {
		t.Errorf("Fetch of the renewed lock: %v", err)
	}

	// A lock is not renewed backwards.
	archive.date = archive.date.Add(-time.Hour)
	server.mu.Lock()
	server.files = archive.files(t)
	server.mu.Unlock()
	if _, err := s.RenewOf(ctx, trusty, "amd64", toolRoot, second); !errors.Is(err, ErrStale) ||
		!strings.Contains(err.Error(), "withholds") {
		t.Errorf("renew from an older state: error %v; want ErrStale", err)
	}
	// An unchanged package is neither brought nor unpacked again.
	fresh := newTestStore(t, server.URL)
	if _, err := fresh.RenewOf(ctx, trusty, "amd64", toolRoot, first); err == nil {
		t.Error("renew from an older state: no error")
	}
	before := len(server.seen())
	archive.date = time.Now()
	server.mu.Lock()
	server.files = archive.files(t)
	server.mu.Unlock()
	third, err := fresh.RenewOf(ctx, trusty, "amd64", toolRoot, second)
	must(t, err)
	for _, request := range server.seen()[before:] {
		if strings.HasPrefix(request, "pool/") {
			t.Errorf("an unchanged package was asked for: %s", request)
		}
	}
	if changes := third.Changes(second); len(changes) > 0 {
		t.Errorf("Changes = %v; want none", changes)
	}
}

func TestRenewErrors(t *testing.T) {
	replace := func(old, new string) func(string) string {
		return func(s string) string {
			if !strings.Contains(s, old) {
				panic("the Release has no " + old)
			}
			return strings.Replace(s, old, new, 1)
		}
	}
	now := time.Now().UTC()
	for _, c := range []struct {
		name    string
		release func(string) string // of the main suite
		files   func(map[string][]byte)
		want    error
		text    string
	}{
		{"other suite", replace("Codename: trusty", "Codename: bookworm"), nil, ErrSuite,
			`Codename "bookworm"; expected "trusty"`},
		{"other distribution", replace("Origin: Debian", "Origin: Raspbian"), nil, ErrSuite, "Raspbian"},
		{"security as main", replace("Label: Debian", "Label: Debian-Security"), nil, ErrSuite, "Label"},
		{"other architectures", replace("all amd64", "all arm64"), nil, ErrSuite, "expected amd64"},
		{"no index", replace("main/binary-amd64", "main/binary-armel"), nil, ErrSuite, "no index"},
		{"expired", replace("Acquire", "Valid-Until: "+now.Add(-time.Minute).Format(time.RFC1123)+"\nAcquire"), nil,
			ErrStale, "clock"},
		{"from the future", replace("Date: ", "Date: "+now.AddDate(1, 0, 0).Format(time.RFC1123)+"\nX-Date: "), nil,
			ErrStale, "clock is wrong"},
		{"path that leads out", replace(" main/", " ../main/"), nil, nil, "cannot use the line"},
		{"two paragraphs", replace("Origin", "A: b\n\nOrigin"), nil, ErrSignature, "one paragraph"},
		{"unsigned", nil, func(files map[string][]byte) {
			files["dists/trusty/InRelease"] = []byte("Origin: Debian\nCodename: trusty\n")
		}, ErrSignature, "clear-signed"},
		{"foreign signature", nil, func(files map[string][]byte) {
			files["dists/trusty/InRelease"] = sign(t, newTestKey(), "Origin: Debian\n")
		}, ErrSignature, "none of Debian's"},
		{"index changed", nil, func(files map[string][]byte) {
			for name, content := range files {
				if strings.HasPrefix(name, "dists/trusty/main") {
					files[name] = append(bytes.Clone(content[:len(content)-1]), 0)
				}
			}
		}, ErrDigest, "Packages.xz"},
		{"suite missing", nil, func(files map[string][]byte) { delete(files, "dists/trusty/InRelease") }, ErrGone, "404"},
		{"no security archive", nil, func(files map[string][]byte) { delete(files, "dists/trusty-security/InRelease") },
			ErrGone, "--security-mirror"},
	} {
		t.Run(c.name, func(t *testing.T) {
			archive := newTestArchive(twoPackages()...)
			if c.release != nil {
				archive.release[trusty] = c.release
			}
			files := archive.files(t)
			if c.files != nil {
				c.files(files)
			}
			s := newTestStore(t, serve(t, files).URL)
			lock, err := s.RenewOf(context.Background(), trusty, "amd64", toolRoot, nil)
			if lock != nil || err == nil || c.want != nil && !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) {
				t.Errorf("renew = %v, error %v; want %v with %q", lock, err, c.want, c.text)
			}
			for _, file := range cacheFiles(t, s) {
				t.Errorf("the cache keeps %s", file)
			}
			indices := filepath.Join(s.options.CacheDir, "indices", "trusty-main*")
			if found, _ := filepath.Glob(indices); c.name == "index changed" &&
				len(found) > 0 {
				t.Errorf("the cache keeps %q", found)
			}
		})
	}
}

// Without by-hash the plain name is read, and other packings of the index too.
func TestRenewOtherLayouts(t *testing.T) {
	for _, c := range []struct {
		name    string
		release func(string) string
		change  func(name string) string // new name of a file, empty to leave it out
	}{
		{"by-hash missing", nil, func(name string) string {
			if strings.Contains(name, "by-hash") {
				return ""
			}
			return name
		}},
		{"by-hash alone", nil, func(name string) string {
			if strings.HasSuffix(name, "Packages.xz") {
				return ""
			}
			return name
		}},
		{"no by-hash", func(s string) string { return strings.Replace(s, "Acquire-By-Hash: yes\n", "", 1) },
			func(name string) string { return name }},
	} {
		t.Run(c.name, func(t *testing.T) {
			archive := newTestArchive(twoPackages()...)
			for _, suite := range suitesOf(trusty) {
				archive.release[suite] = c.release
			}
			files := map[string][]byte{}
			for name, content := range archive.files(t) {
				if name = c.change(name); name != "" {
					files[name] = content
				}
			}
			renewed(t, serve(t, files).URL)
		})
	}
}

// The mirror comes from apt's configuration; others' entries beside Debian's are asked last and not believed.
func TestRenewFromApt(t *testing.T) {
	debians := serve(t, prefixed(newTestArchive(twoPackages()...).files(t)))
	foreign := newTestArchive(testPackage{name: "tool", version: "99-1", arch: "amd64"})
	foreign.key = newTestKey()
	vendor := serve(t, foreign.files(t))
	apt := t.TempDir()
	must(t, os.Mkdir(filepath.Join(apt, "sources.list.d"), 0o755))
	must(t, os.WriteFile(filepath.Join(apt, "sources.list"),
		fmt.Appendf(nil, "deb %s trusty main\ndeb cdrom:[Debian]/ trusty main\n", vendor.URL), 0o644))
	must(t, os.WriteFile(filepath.Join(apt, "sources.list.d", "debian.sources"),
		fmt.Appendf(nil, "Types: deb\nURIs: %s/debian\nSuites: trusty trusty-updates\nComponents: main\n", debians.URL),
		0o644))
	s := newTestStore(t, "")
	s.options.AptDir = apt
	// No entry for the security archive: it is looked for beside the main one.
	lock, err := s.RenewOf(context.Background(), trusty, "amd64", toolRoot, nil)
	must(t, err)
	if tool, _ := lock.Package("tool"); tool.Version != "1.2-3" {
		t.Errorf("tool = %s; want that of the signed archive", tool.Version)
	}
	if !slices.ContainsFunc(debians.seen(), func(r string) bool {
		return strings.HasPrefix(r,
			"debian-security/dists/trusty-security")
	}) {
		t.Errorf("requests %q; want some to debian-security", debians.seen())
	}
	if !slices.Contains(vendor.seen(), "dists/trusty/InRelease") {
		t.Errorf("the vendor's archive was not looked at: the test shows nothing")
	}
	fetched := newTestStore(t, "")
	fetched.options.AptDir = apt
	if _, err := fetched.Fetch(context.Background(), lock); err != nil {
		t.Errorf("Fetch with mirrors of apt's configuration: %v", err)
	}
}

// prefixed splits an archive into debian/ and debian-security/.
func prefixed(files map[string][]byte) map[string][]byte {
	split := map[string][]byte{}
	for name, content := range files {
		if strings.HasPrefix(name, "dists/"+trusty+securitySuffix) {
			split["debian-security/"+name] = content
		} else {
			split["debian/"+name] = content
		}
	}
	return split
}

func TestRenewMirrorList(t *testing.T) {
	server := serve(t, newTestArchive(twoPackages()...).files(t))
	list := filepath.Join(t.TempDir(), "mirrors")
	must(t, os.WriteFile(list, []byte("# ours\nhttp://127.0.0.1:1/closed\tpriority:2\n"+server.URL+"\tpriority:1\n"),
		0o644))
	apt := t.TempDir()
	must(t, os.WriteFile(filepath.Join(apt, "sources.list"),
		fmt.Appendf(nil, "deb mirror+file:%[1]s trusty main\ndeb mirror+file:%[1]s trusty-security main\n", list), 0o644))
	s := newTestStore(t, "")
	s.options.AptDir = apt
	if _, err := s.RenewOf(context.Background(), trusty, "amd64", toolRoot, nil); err != nil {
		t.Errorf("renew from a list of mirrors: %v", err)
	}
}

func TestRenewSecurityMirror(t *testing.T) {
	files := newTestArchive(twoPackages()...).files(t)
	security := serve(t, files)
	main := serve(t, files)
	main.hook = func(w http.ResponseWriter, r *http.Request, _ []byte) bool {
		if !strings.Contains(r.URL.Path, securitySuffix) {
			return false
		}
		http.NotFound(w, r)
		return true
	}
	s := newTestStore(t, main.URL)
	s.options.SecurityMirror = security.URL
	lock, err := s.RenewOf(context.Background(), trusty, "amd64", toolRoot, nil)
	if err != nil || len(lock.Archives) != 3 {
		t.Errorf("renew with a security mirror: %v", err)
	}
	s.options.SecurityMirror = NoSecurity
	lock, err = s.RenewOf(context.Background(), trusty, "amd64", toolRoot, nil)
	if err != nil || len(lock.Archives) != 2 {
		t.Errorf("renew without security: %v", err)
	}
}

func TestRenewRefusesSuites(t *testing.T) {
	s := newTestStore(t, "http://127.0.0.1:1")
	for _, suite := range []string{"stable", "bookworm-security", "", "../x", "Bookworm"} {
		if _, err := s.Renew(context.Background(), suite, "amd64", nil); err == nil || !strings.Contains(err.Error(),
			"code name") {
			t.Errorf("Renew of suite %q: error %v; want one about code names", suite, err)
		}
	}
	if _, err := s.Renew(context.Background(), "bookworm", "riscv64", nil); err == nil || !strings.Contains(err.Error(),
		"riscv64") {
		t.Errorf("Renew for riscv64: error %v; want one that names it", err)
	}
}

func TestWriteFile(t *testing.T) {
	lock, err := DefaultLock("amd64")
	must(t, err)
	name := filepath.Join(t.TempDir(), "a.lock")
	must(t, os.WriteFile(name, []byte("before"), 0o600))
	must(t, lock.WriteFile(name))
	got, err := ReadLock(name)
	if err != nil || !bytes.Equal(got.Text(), lock.Text()) {
		t.Errorf("ReadLock after WriteFile: %v", err)
	}
	if left, _ := os.ReadDir(filepath.Dir(name)); len(left) != 1 {
		t.Errorf("WriteFile leaves %d files; want 1", len(left))
	}
	if err := lock.WriteFile(filepath.Join(name, "below-a-file")); err == nil {
		t.Error("WriteFile below a file: no error")
	}
}
