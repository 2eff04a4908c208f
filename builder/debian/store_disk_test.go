package debian

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestFetchReadOnlyCache(t *testing.T) {
	if !inMountNamespace(t) {
		return
	}
	server := serve(t, newTestArchive(twoPackages()...).files(t))
	lock := renewed(t, server.URL)
	dir := mountTmpfs(t, "size=4m,mode=755")
	s := newTestStoreAt(t, dir, server.URL)
	if _, err := s.Fetch(context.Background(), lock, "lib"); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", dir, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Fetch(context.Background(), lock, "lib"); err != nil {
		t.Errorf("Fetch from a read-only cache that has it: %v", err)
	}
	if _, err := s.Fetch(context.Background(), lock); !errors.Is(err, ErrReadOnly) || !strings.Contains(err.Error(),
		"XDG_CACHE_HOME") {
		t.Errorf("Fetch to a read-only cache: error %v; want ErrReadOnly", err)
	}
}

func TestFetchFullDisk(t *testing.T) {
	if !inMountNamespace(t) {
		return
	}
	server := serve(t, newTestArchive(twoPackages()...).files(t))
	lock := renewed(t, server.URL)
	// Room for the packed tool (a few KiB) but not for the 200 KB it unpacks to, then for nothing at all.
	for _, size := range []string{"size=64k", "nr_blocks=1"} {
		s := newTestStoreAt(t, mountTmpfs(t, size+",mode=755"), server.URL)
		_, err := s.Fetch(context.Background(), lock, "tool")
		if !errors.Is(err, ErrNoSpace) {
			t.Errorf("%s: Fetch: error %v; want ErrNoSpace", size, err)
		}
		for _, file := range cacheFiles(t, s) {
			if strings.HasSuffix(file, partSuffix) {
				t.Errorf("%s: the full disk keeps %s", size, file)
			}
		}
	}
}

// mountTmpfs mounts a filesystem in the mount namespace of the test.
func mountTmpfs(t *testing.T, options string) string {
	dir := t.TempDir()
	must(t, syscall.Mount("tmpfs", dir, "tmpfs", 0, options))
	t.Cleanup(func() { must(t, syscall.Unmount(dir, syscall.MNT_DETACH)) })
	return dir
}

// inMountNamespace runs the calling test again in a process with a mount namespace of its own, and says whether this
// is that process.
func inMountNamespace(t *testing.T) bool {
	const marker = "REMPART_TEST_IN_MOUNT_NAMESPACE"
	if os.Getenv(marker) == t.Name() {
		return true
	}
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED, NOT PASSED: mounting a small filesystem needs root")
	}
	again := exec.Command(os.Args[0], "-test.v", "-test.run=^"+t.Name()+"$")
	again.Env = append(os.Environ(), marker+"="+t.Name())
	again.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	if out, err := again.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("--- PASS: "+t.Name())) {
		t.Errorf("in a mount namespace: %v\n%s", err, out)
	}
	return false
}

func TestFetchFromSomebodyElsesCache(t *testing.T) {
	if os.Geteuid() == 0 {
		if err := asNobody(t); err != nil {
			t.Error(err)
		}
		return
	}
	s := newTestStore(t, "")
	l := Locked{Name: "lib", Version: "1", Unpacked: strings.Repeat("0", 64), SHA256: strings.Repeat("0", 64)}
	must(t, os.MkdirAll(filepath.Dir(s.unpackedPath(l.Unpacked)), 0o755))
	must(t, os.WriteFile(s.unpackedPath(l.Unpacked), nil, 0))
	_, err := s.Fetch(context.Background(), &Lock{Packages: []Locked{l}})
	if !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), "XDG_CACHE_HOME") {
		t.Errorf("Fetch from a cache that may not be read = %v; want a permission error with a way out", err)
	}
}

// asNobody runs the calling test again as a user who may not read every file.
func asNobody(t *testing.T) error {
	t.Helper()
	const nobody = 65534
	dir, err := os.MkdirTemp("", "rempart-test-nobody-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	program := filepath.Join(dir, "test")
	content, err := os.ReadFile(os.Args[0])
	if err != nil {
		return err
	}
	// Whatever the umask is, and whoever the process turns into.
	err = errors.Join(os.WriteFile(program, content, 0o755), os.Chmod(program, 0o755), os.Chmod(dir, 0o777))
	if err != nil {
		return err
	}
	again := exec.Command(program, "-test.v", "-test.run=^"+t.Name()+"$")
	again.Dir, again.Env = dir, append(os.Environ(), "TMPDIR="+dir)
	again.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	if out, err := again.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("--- PASS: "+t.Name())) {
		return fmt.Errorf("as nobody: %w\n%s", err, out)
	}
	return nil
}
