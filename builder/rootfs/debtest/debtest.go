// Package debtest gives tests the files of real Debian packages: those of the embedded lock, through the same cache
// that rempart itself uses, so that tests run offline once anything was built. REMPART_MIRROR names a Debian mirror
// where apt's configuration has none.
//
// What it deliberately does not do: anything outside of tests.
package debtest

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"rempart/builder/debian"
	"rempart/builder/rootfs/tree"
)

// arch is the architecture whose lock is used.
const arch = "amd64"

// packages are those of the lock that a root and an initramfs are made of. They stay open as long as the test binary
// runs.
type packages struct {
	byName  map[string]*debian.Package
	kernel  string
	renewed error // why the lock could not be used as it is; nil if it was
}

// locked fetches once: checking the kernel's digest takes a moment.
var locked = sync.OnceValues(func() (*packages, error) {
	ctx := context.Background()
	lock, err := debian.DefaultLock(arch)
	if err != nil {
		return nil, err
	}
	store, err := debian.OpenStore(debian.Options{Mirror: os.Getenv("REMPART_MIRROR")})
	if err != nil {
		return nil, err
	}
	p := &packages{byName: make(map[string]*debian.Package)}
	roots := []string{debian.RootAuthorities, debian.RootE2fsprogs, debian.RootKernel(arch)}
	fetched, err := store.Fetch(ctx, lock, roots...)
	if errors.Is(err, debian.ErrGone) {
		p.renewed = err
		if lock, err = store.Renew(ctx, lock.Suite, lock.Arch, lock); err != nil {
			return nil, err
		}
		fetched, err = store.Fetch(ctx, lock, roots...)
	}
	if err != nil {
		return nil, err
	}
	for _, pkg := range fetched {
		p.byName[pkg.Name] = pkg
		if strings.HasPrefix(pkg.Name, "linux-image-") {
			p.kernel = pkg.Name
		}
	}
	if p.kernel == "" {
		return nil, errors.New("the lock names no package linux-image-*")
	}
	return p, nil
})

func get(t testing.TB) *packages {
	t.Helper()
	p, err := locked()
	if err != nil {
		t.Fatal(err)
	}
	if p.renewed != nil {
		t.Logf("WARNING: this test uses a renewed scratch copy of the lock: %v", p.renewed)
	}
	return p
}

// KernelPackage returns the name of the package that linux-image-cloud-amd64 stands for.
func KernelPackage(t testing.TB) string {
	t.Helper()
	return get(t).kernel
}

// Entries returns the files of a package of the lock: a kernel, e2fsprogs or one that it depends on.
func Entries(t testing.TB, name string) []tree.Entry {
	t.Helper()
	pkg, ok := get(t).byName[name]
	if !ok {
		t.Fatalf("the lock names no package %s for a root", name)
	}
	entries, err := pkg.Entries()
	if err != nil {
		t.Fatal(err)
	}
	return entries
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

// Run runs a program that judges a result and fails the test when the program does. It returns what it printed.
func Run(t testing.TB, debianPackage, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(Tool(t, debianPackage, name), args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s%s", name, strings.Join(args, " "), err, out, &stderr)
	}
	return string(out)
}
