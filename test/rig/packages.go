package rig

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"rempart/builder/debian"
	"rempart/builder/rootfs/tree"
)

// Packages brings the Debian packages of a lock, or of a new one where a mirror has forgotten some of them.
func Packages(ctx context.Context, lockFile string, roots []debian.Root) ([]*debian.Package, error) {
	store, err := debian.OpenStore(debian.Options{Mirror: os.Getenv("REMPART_MIRROR")})
	if err != nil {
		return nil, err
	}
	lock, err := debian.ReadLock(lockFile)
	if err != nil {
		return nil, err
	}
	packages, err := store.Fetch(ctx, lock)
	if !errors.Is(err, debian.ErrGone) {
		return packages, err
	}
	fmt.Fprintf(os.Stderr, "NOTE: newer packages than %s names are used: %v\n", lockFile, err)
	if lock, err = store.RenewOf(ctx, debian.DefaultSuite, "amd64", roots, lock); err != nil {
		return nil, err
	}
	return store.Fetch(ctx, lock)
}

// Entries are the files of the packages of a lock, which can be read until the test is over.
func Entries(t *testing.T, lockFile string, roots []debian.Root) (all []tree.Entry) {
	t.Helper()
	packages, err := Packages(t.Context(), lockFile, roots)
	if err != nil {
		t.Fatalf("packages of %s: %v", lockFile, err)
	}
	for _, p := range packages {
		t.Cleanup(func() { p.Close() })
		entries, err := p.Entries()
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, entries...)
	}
	return all
}

// CheckLock tells whether a lock names the packages of every root; update renews it first.
func CheckLock(t *testing.T, lockFile string, roots []debian.Root, update bool) {
	t.Helper()
	if update {
		store, err := debian.OpenStore(debian.Options{})
		if err != nil {
			t.Fatal(err)
		}
		lock, err := store.RenewOf(t.Context(), debian.DefaultSuite, "amd64", roots, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := lock.WriteFile(lockFile); err != nil {
			t.Fatal(err)
		}
	}
	lock, err := debian.ReadLock(lockFile)
	if err != nil {
		t.Fatal(err)
	}
	for _, root := range roots {
		if !slices.ContainsFunc(lock.Packages, func(p debian.Locked) bool { return slices.Contains(p.For, root.Name) }) {
			t.Errorf("%s has nothing for %s; run this test with -update", filepath.Base(lockFile), root.Name)
		}
	}
}
