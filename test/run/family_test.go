package run

import (
	"os"
	"path/filepath"
	"testing"

	"rempart/profiles"
	"rempart/test/rig"
)

// family is a home of guests of an ordinary user, and the store their masters are in.
type family struct {
	dir  string
	env  []string
	key  string // SSH key of its owner
	more string // of the profile, beyond what came with rempart
	// within are words that a call of rempart begins with, a program that runs it; none: it is run as it is.
	within []string
}

// newFamily publishes the master of a profile that came with rempart.
func newFamily(t *testing.T) *family {
	t.Helper()
	return newFamilyWith(t, "")
}

// source is the profile of the family's master.
func (f *family) source(t *testing.T) string {
	t.Helper()
	src, err := profiles.BuiltinSource(profile)
	if err != nil {
		t.Fatal(err)
	}
	return string(src) + f.more
}

// newFamilyWith does so for a profile with more in it.
func newFamilyWith(t *testing.T, more string) *family {
	t.Helper()
	dir, err := os.MkdirTemp("", "rempart-home-") // short, for the sockets' sake
	if err != nil {
		t.Fatal(err)
	}
	f := &family{dir: dir, more: more, env: []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "XDG_RUNTIME_DIR=" + dir,
		"XDG_DATA_HOME=" + dir, "XDG_CACHE_HOME=" + cache(t), "REMPART_GUESTS=" + dir + "/guests"}}
	t.Cleanup(func() { os.RemoveAll(dir) })
	f.key = rig.NewKey(t).Write(t, dir)
	file := filepath.Join(dir, "fw.yaml")
	if err := os.WriteFile(file, []byte(f.source(t)), 0o600); err != nil {
		t.Fatal(err)
	}
	f.do(t, 0, "published as fw-1", "build", file, "--publish", "--renew-lock", "--store", dir+"/masters")
	return f
}
