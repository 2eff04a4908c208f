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
