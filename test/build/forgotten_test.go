package build

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"rempart/builder/debian"
)

// forgotten is the default lock with one package at a version that no mirror has any more, as any lock will be one day.
func forgotten(t *testing.T) (file, name string) {
	t.Helper()
	lock, err := debian.DefaultLock("amd64")
	if err != nil {
		t.Fatal(err)
	}
	name = lock.Packages[0].Name
	for i := range lock.Packages {
		// A small one, so that a mistake here costs no download of a kernel.
		if lock.Packages[i].Size < 100<<10 {
			name = lock.Packages[i].Name
			p := &lock.Packages[i]
			p.Path = strings.ReplaceAll(p.Path, p.Name+"_", p.Name+"_0~gone-")
			p.Version = "0~gone-" + p.Version
			p.SHA256, p.Unpacked = strings.Repeat("0", 64), strings.Repeat("1", 64)
			break
		}
	}
	file = filepath.Join(t.TempDir(), "old.lock")
	if err := lock.WriteFile(file); err != nil {
		t.Fatal(err)
	}
	if again, err := debian.ReadLock(file); err != nil {
		t.Fatal(err)
	} else if p, ok := again.Package(name); !ok || !strings.HasPrefix(string(p.Version), "0~gone-") {
		t.Fatalf("the lock has %+v; want a version that is gone", p)
	}
	return file, name
}

// TestForgottenVersion builds with a lock that names what the mirror, the real one, no longer has: the build is
// refused and names the way on; told to, it renews the lock for this once, says so, and leaves the file alone.
func TestForgottenVersion(t *testing.T) {
	lock, name := forgotten(t)
	before := digest(t, lock)
	dir := filepath.Join(t.TempDir(), "master")
	out, err := exec.Command(rempart(t), "build", profile, "--lock", lock, "--output", dir).CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 {
		t.Fatalf("rempart build with a forgotten version = %v\n%s; want exit status 1", err, out)
	}
	for _, offline := range []error{debian.ErrOffline, debian.ErrNoMirror} {
		if strings.Contains(string(out), offline.Error()) {
			t.Skipf("SKIPPED, NOT PASSED: no mirror can be asked from here: %s", out)
		}
	}
	s := string(out)
	if !strings.Contains(s, name) || !strings.Contains(s, "`rempart lock") || strings.Contains(s, "WARNING") {
		t.Errorf("rempart build with a forgotten version says %q; want it to name %s and `rempart lock`", s, name)
	}
	if left, err := os.ReadDir(filepath.Dir(dir)); err != nil || len(left) != 0 {
		t.Errorf("the refused build left %v, %v", left, err)
	}

	again := exec.Command(rempart(t), "build", profile, "--lock", lock, "--renew-lock", "--output", dir)
	out, err = again.CombinedOutput()
	if err != nil {
		t.Fatalf("rempart build --renew-lock: %v\n%s", err, out)
	}
	s = string(out)
	if strings.Count(s, "rempart: WARNING: ") != 2 || !strings.Contains(s, name) ||
		!regexp.MustCompile("lock was renewed for this build only.*`rempart lock` renews it for good").MatchString(s) {
		t.Errorf("rempart build --renew-lock says %q; want warnings that tell what is gone and what was done", s)
	}
	if digest(t, lock) != before {
		t.Error("rempart build --renew-lock changed the lock file")
	}
	packages := manifestOf(t, dir).Packages
	for _, p := range packages {
		if p.Name == name && strings.Contains(p.Version, "gone") {
			t.Errorf("the master has %s %s", p.Name, p.Version)
		}
	}
	if want := manifestOf(t, sharedMaster(t)).Packages; len(packages) != len(want) {
		t.Errorf("the master has %d packages; want %d", len(packages), len(want))
	}
}
