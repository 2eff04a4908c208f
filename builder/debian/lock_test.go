package debian

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestDefaultLock(t *testing.T) {
	for _, arch := range architectures {
		t.Run(arch, func(t *testing.T) { testDefaultLock(t, arch) })
	}
	if _, err := DefaultLock("riscv64"); !errors.Is(err, ErrUnknown) || !strings.Contains(err.Error(), "arm64") {
		t.Errorf("DefaultLock(riscv64): error %v; want %v and those there are", err, ErrUnknown)
	}
}

func testDefaultLock(t *testing.T, arch string) {
	lock, err := DefaultLock(arch)
	must(t, err)
	if lock.Suite != DefaultSuite || lock.Arch != arch || len(lock.Archives) != 3 {
		t.Errorf("DefaultLock = %s %s of %d archives", lock.Suite, lock.Arch, len(lock.Archives))
	}
	text, err := defaultLocks.ReadFile("bookworm-" + arch + ".lock")
	must(t, err)
	if !bytes.Equal(lock.Text(), text) {
		t.Errorf("the default lock is not written as Text writes it: renew it with `rempart lock -o`")
	}
	roots, err := Roots(arch)
	must(t, err)
	if !slices.IsSortedFunc(roots, func(a, b Root) int { return strings.Compare(a.Name, b.Name) }) {
		t.Errorf("Roots(%s) = %v; want them sorted", arch, roots)
	}
	var names []string
	for _, root := range roots {
		names = append(names, root.Name)
		selected, err := lock.Select(root.Name)
		if err != nil || len(selected) == 0 || root.Follow == FollowNone && len(selected) != 1 {
			t.Errorf("Select(%s) = %d packages, %v", root.Name, len(selected), err)
		}
		if root.Follow == FollowMeta && !strings.HasPrefix(selected[0].Name, "linux-image-6.1.0-") {
			t.Errorf("Select(%s) = %s; want the kernel itself", root.Name, selected[0].Name)
		}
	}
	for _, p := range lock.Packages {
		if !slices.ContainsFunc(p.For, func(root string) bool { return slices.Contains(names, root) }) {
			t.Errorf("package %s is there for %v, of which none is a root", p.Name, p.For)
		}
	}
}

func goodLock(t testing.TB) string {
	lock, err := DefaultLock("amd64")
	must(t, err)
	lock.Packages = lock.Packages[:2]
	return string(lock.Text())
}

func TestReadLockErrors(t *testing.T) {
	good := goodLock(t)
	first := strings.SplitN(good, "  - name: ", 2)
	for _, c := range []struct {
		name string
		text string
		want string
	}{
		{"empty", "", "f.lock:1: it is empty"},
		{"comment", "# nothing\n", "f.lock:1: it is empty"},
		{"binary", "\x00\x01\x02", "f.lock: "},
		{"other yaml", "- a\n", "f.lock:1: "},
		{"unknown key", strings.Replace(good, "arch:", "arhc:", 1), "f.lock:6: field arhc not found"},
		{"unknown key of a package", strings.Replace(good, "    sha256:", "    sha265:", 1), "field sha265 not found"},
		{"key twice", good + "suite: bookworm\n", "already"},
		{"two documents", good + "---\n", "one document"},
		{"anchor", strings.Replace(good, "suite: ", "suite: &a ", 1), "f.lock:5: anchors"},
		{"tag", strings.Replace(good, "suite: ", "suite: !!str ", 1), "f.lock:5: anchors"},
		{"other format", strings.Replace(good, "rempart-lock: 1", "rempart-lock: 2", 1), "reads 1"},
		{"moving suite", strings.Replace(good, "suite: bookworm\n", "suite: stable\n", 1), "code name"},
		{"other arch", strings.Replace(good, "arch: amd64", "arch: ppc", 1), "ppc"},
		{"no packages", first[0][:strings.Index(first[0], "packages:")], "0 packages"},
		{"package twice", good + "  - name: " + first[1][strings.Index(first[1], "  - name: ")+len("  - name: "):],
			"there twice"},
		{"date", strings.Replace(good, `date: "`, `date: "x`, 1), "f.lock:8: archive"},
		{"archive", strings.Replace(good, "- suite: bookworm\n", "- suite: bookwor\n", 1), "f.lock:8: archive"},
		{"name", strings.Replace(good, "name: e2fsprogs", "name: E2", 1), "f.lock:25: package \"E2\": not a package name"},
		{"version", strings.Replace(good, "version: 1.47", "version: x1.47", 1), "f.lock:25: package"},
		{"package arch", strings.Replace(good, "    arch: amd64", "    arch: arm64", 1), "arch \"arm64\""},
		{"package archive", strings.Replace(good, "    archive: bookworm", "    archive: sid", 1), "not listed"},
		{"absolute path", strings.Replace(good, "path: pool", "path: /pool", 1),
			"f.lock:15: package \"ca-certificates\": path"},
		{"path up", strings.Replace(good, "path: pool/", "path: pool/../../", 1), "path"},
		{"path with a query", strings.Replace(good, "path: pool/", "path: pool/?", 1), "path"},
		{"size", strings.Replace(good, "size: ", "size: -", 1), "size"},
		{"size of another type", strings.Replace(good, "size: ", "size: x", 1), "f.lock:21: cannot"},
		{"sha256", strings.Replace(good, "sha256: ", "sha256: g", 1), "sha256"},
		{"upper case", strings.Replace(good, "sha256: f", "sha256: F", 1), "lower-case"},
		{"unpacked missing", strings.Replace(good, "    unpacked: ", "    # ", 1), "unpacked"},
		{"for nothing", strings.Replace(good, "for: [e2fsprogs]", "for: []", 1), "for: "},
		{"large", good + "#" + strings.Repeat("x", maxLockSize), "larger than"},
		{"deep", strings.Repeat("[", 100) + strings.Repeat("]", 100), "f.lock"},
	} {
		if c.text == good {
			t.Errorf("%s: the test changes nothing", c.name)
		}
		lock, err := parseLock("f.lock", []byte(c.text))
		if !errors.Is(err, ErrLock) || !strings.Contains(fmt.Sprint(err), c.want) {
			t.Errorf("%s: parseLock = %v, error %v; want ErrLock with %q", c.name, lock, err, c.want)
		}
	}
	if _, err := parseLock("f.lock", []byte(good)); err != nil {
		t.Errorf("parseLock of the lock unchanged: %v", err)
	}
	if _, err := ReadLock(filepath.Join(t.TempDir(), "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("ReadLock of no file: error %v; want os.ErrNotExist", err)
	}
}

func FuzzLock(f *testing.F) {
	f.Add(goodLock(f))
	f.Add("rempart-lock: 1\nsuite: &a bookworm\narch: *a\n")
	f.Fuzz(func(t *testing.T, text string) {
		lock, err := parseLock("f.lock", []byte(text))
		if err != nil {
			return
		}
		again, err := parseLock("again", lock.Text())
		if err != nil || !bytes.Equal(again.Text(), lock.Text()) {
			t.Fatalf("a lock that was read and written reads again with %v", err)
		}
		for _, p := range lock.Packages {
			p.content()
		}
	})
}

// Errors speak of locks, not of how this program is written.
func TestLockErrorsNameNoTypes(t *testing.T) {
	good := goodLock(t)
	for _, text := range []string{"x", "- a", "packages: [1]", "archives: [x]", good + "more: 1\n",
		strings.Replace(good, "    size: ", "    sizes: ", 1)} {
		_, err := parseLock("f", []byte(text))
		if !errors.Is(err, ErrLock) || strings.Contains(err.Error(), "debian.") {
			t.Errorf("parseLock(%.20q) = %v; want an error in the words of a lock", text, err)
		}
	}
}
