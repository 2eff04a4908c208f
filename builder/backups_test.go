package main

import (
	"crypto/rand"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"aead.dev/minisign"

	"rempart/builder/master/store"
)

// TestBackupWithMaster moves a guest with its master, in one file, to where there is neither: its state and its master
// are the same there. A master that nobody trusted signed and nobody gave a tag is refused, each time, unless it is
// asked for.
func TestBackupWithMaster(t *testing.T) {
	makeForeign(t)
	g, err := openCreated("web")
	if err != nil {
		t.Fatal(err)
	}
	written, err := os.ReadFile(g.StateDisk())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file, alone := filepath.Join(dir, "web.backup"), filepath.Join(dir, "alone.backup")
	signed := filepath.Join(dir, "signed.backup")
	do := func(code int, want string, args ...string) {
		t.Helper()
		got, out, errs := rempart(args...)
		if got != code || !strings.Contains(out+errs, want) {
			t.Errorf("rempart %q = %d, %q, %q; want %d, and %q", args, got, out, errs, code, want)
		}
	}
	do(exitDone, "with its master "+g.Master[:12], "backup", "web", file, "--with-master")
	do(exitDone, "its master is", "backup", "web", alone)
	public, private, err := minisign.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key, err := public.MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	keyFile := filepath.Join(dir, "key.pub")
	if err := os.WriteFile(keyFile, key, 0o600); err != nil {
		t.Fatal(err)
	}
	here, err := store.Open(g.Store)
	if err != nil {
		t.Fatal(err)
	}
	m, err := here.Find(g.Master)
	if err != nil {
		t.Fatal(err)
	}
	if err := here.Sign(m, private); err != nil {
		t.Fatal(err)
	}
	do(exitDone, "with its master", "backup", "web", signed, "--with-master")
	do(exitFailed, "there is a guest of that name already", "restore", file, "--store", g.Store)

	t.Setenv("REMPART_GUESTS", filepath.Join(dir, "there"))
	theirs := filepath.Join(dir, "masters")
	if err := os.MkdirAll(filepath.Join(theirs, "masters", strings.Repeat("0", 64)), 0o700); err != nil {
		t.Fatal(err) // a master that is damaged, and none of this one's business
	}
	do(exitFailed, "no such master in the store", "restore", alone, "--store", theirs)
	for range 2 { // the first leaves nothing in the store
		do(exitFailed, "--allow-unsigned", "restore", file, "--store", theirs)
		do(exitFailed, "no such master in the store", "restore", alone, "--store", theirs)
	}
	do(exitFailed, "no guest", "status", "web")
	do(exitDone, "web is back", "restore", file, "--store", theirs, "--allow-unsigned")
	do(exitDone, "every byte as its manifest says", "verify", "web")
	do(exitDone, "two is back", "restore", alone, "--store", theirs, "--as", "two")

	theirs = filepath.Join(dir, "trusting")
	do(exitFailed, "not signed by a trusted key", "restore", signed, "--store", theirs, "--as", "three")
	do(exitDone, "", "master", "trust", "me", "--key", keyFile, "--store", theirs)
	do(exitDone, "three is back", "restore", signed, "--store", theirs, "--as", "three")
	for _, name := range []string{"web", "two", "three"} {
		g, err := openCreated(name)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(g.StateDisk()); err != nil || len(got) != len(written) {
			t.Errorf("%s has a state of %d bytes, %v; want the %d it was written of", name, len(got), err, len(written))
		}
	}
}
