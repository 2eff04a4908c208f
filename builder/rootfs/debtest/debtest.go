// Package debtest gives tests the files of real Debian packages, fetched with apt-get and opened with dpkg-deb: the
// tests of what is built from packages then do not rest on our own reader of packages. Packages are kept between
// runs below the temporary directory.
//
// What it deliberately does not do: anything outside of tests.
package debtest

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"rempart/builder/rootfs/tree"
)

// KernelPackage returns the name of the package that linux-image-cloud-amd64 stands for.
func KernelPackage(t testing.TB) string {
	t.Helper()
	Tool(t, "apt", "apt-cache")
	name, err := kernelPackage()
	if err != nil {
		t.Fatal(err)
	}
	return name
}

// kernelPackage asks once: apt-cache takes most of a second.
var kernelPackage = sync.OnceValues(func() (string, error) {
	cmd := exec.Command("apt-cache", "depends", "--no-recommends", "linux-image-cloud-amd64")
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s: %w\n%s(this test needs a Debian mirror in apt's sources)", cmd, err, out)
	}
	for _, word := range strings.Fields(string(out)) {
		if strings.HasPrefix(word, "linux-image-") && word != "linux-image-cloud-amd64" {
			return word, nil
		}
	}
	return "", fmt.Errorf("%s names no kernel:\n%s", cmd, out)
})

// Entries returns the files of a package.
func Entries(t testing.TB, name string) []tree.Entry {
	t.Helper()
	archive := fetch(t, name)
	f, err := os.Open(archive)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	var entries []tree.Entry
	byPath := make(map[string]tree.Entry)
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if err == io.EOF {
			return entries
		}
		if err != nil {
			t.Fatalf("%s: %v", archive, err)
		}
		offset, err := f.Seek(0, io.SeekCurrent)
		if err != nil {
			t.Fatal(err)
		}
		e := tree.Entry{
			Path:   filepath.Clean(strings.TrimPrefix(h.Name, "./")),
			Mode:   h.FileInfo().Mode(),
			UID:    h.Uid,
			GID:    h.Gid,
			Origin: "package " + name,
		}
		switch h.Typeflag {
		case tar.TypeSymlink:
			e.Link = h.Linkname
		case tar.TypeLink:
			target, ok := byPath[filepath.Clean(strings.TrimPrefix(h.Linkname, "./"))]
			if !ok {
				t.Fatalf("%s: %s is a hard link to %s, which is not there", archive, h.Name, h.Linkname)
			}
			target.Path = e.Path
			e = target
		case tar.TypeReg:
			e.Size = h.Size
			e.Open = func() (io.ReadCloser, error) {
				return io.NopCloser(io.NewSectionReader(f, offset, h.Size)), nil
			}
		}
		byPath[e.Path] = e
		entries = append(entries, e)
	}
}

// fetch returns the path of the package's file archive, a tar file.
func fetch(t testing.TB, name string) string {
	t.Helper()
	dir := filepath.Join(os.TempDir(), fmt.Sprintf("rempart-debtest-%d", os.Getuid()))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	unlock := lock(t, dir)
	defer unlock()
	archive := filepath.Join(dir, name+".tar")
	if _, err := os.Stat(archive); err == nil {
		return archive
	}
	work, err := os.MkdirTemp(dir, "fetch-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(work)
	cmd := command(t, "apt", "apt-get", "download", "-q", name)
	cmd.Dir = work
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("apt-get download %s: %v\n%s\n(this test needs a Debian mirror in apt's sources)", name, err, out)
	}
	debs, err := filepath.Glob(filepath.Join(work, "*.deb"))
	if err != nil || len(debs) != 1 {
		t.Fatalf("apt-get download %s left %q (%v); want one .deb", name, debs, err)
	}
	part := filepath.Join(work, "archive")
	f, err := os.Create(part)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	cmd = command(t, "dpkg", "dpkg-deb", "--fsys-tarfile", debs[0])
	cmd.Stdout = f
	if err := cmd.Run(); err != nil {
		t.Fatalf("dpkg-deb --fsys-tarfile %s: %v", debs[0], err)
	}
	if err := os.Rename(part, archive); err != nil {
		t.Fatal(err)
	}
	return archive
}

// lock keeps test binaries that run at the same time from fetching the same package.
func lock(t testing.TB, dir string) (unlock func()) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	return func() { f.Close() }
}

// Tool returns the path of a program that judges a result. A test without its judge fails: it would prove nothing.
func Tool(t testing.TB, debianPackage, name string) string {
	t.Helper()
	p, err := exec.LookPath(name)
	if err != nil {
		// An ordinary user's PATH often lacks the sbin directories.
		for _, dir := range []string{"/usr/sbin", "/sbin"} {
			if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
				return filepath.Join(dir, name)
			}
		}
		t.Fatalf("this test needs %s: apt-get install %s", name, debianPackage)
	}
	return p
}

func command(t testing.TB, debianPackage, name string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(Tool(t, debianPackage, name), args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	return cmd
}

func run(t testing.TB, debianPackage, name string, args ...string) []byte {
	t.Helper()
	cmd := command(t, debianPackage, name, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s%s", name, strings.Join(args, " "), err, out, &stderr)
	}
	return out
}

// Run runs a program that judges a result and fails the test when the program does. It returns what it printed.
func Run(t testing.TB, debianPackage, name string, args ...string) string {
	t.Helper()
	return string(run(t, debianPackage, name, args...))
}
