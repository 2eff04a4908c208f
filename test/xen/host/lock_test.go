package host

import (
	"flag"
	"slices"
	"testing"

	"rempart/builder/debian"
)

var update = flag.Bool("update", false, "renew dom0.lock")

// TestLock: the lock names the packages of every root.
func TestLock(t *testing.T) {
	if *update {
		store, err := debian.OpenStore(debian.Options{})
		if err != nil {
			t.Fatal(err)
		}
		lock, err := store.RenewOf(t.Context(), debian.DefaultSuite, "amd64", Roots(), nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := lock.WriteFile(lockFile()); err != nil {
			t.Fatal(err)
		}
	}
	lock, err := debian.ReadLock(lockFile())
	if err != nil {
		t.Fatal(err)
	}
	for _, root := range Roots() {
		if !slices.ContainsFunc(lock.Packages, func(p debian.Locked) bool { return slices.Contains(p.For, root.Name) }) {
			t.Errorf("dom0.lock has nothing for %s; go test ./test/xen/host -run TestLock -update", root.Name)
		}
	}
}
