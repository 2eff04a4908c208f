// Package judge is for the tests of this tree: it runs the foreign programs that say whether what is written is right.
package judge

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"rempart/builder/disk"
)

// Run runs a program of a Debian package and returns what it printed on both outputs. The test fails when the program
// is missing (naming the package) or does not succeed.
func Run(t testing.TB, pkg, program string, args ...string) string {
	t.Helper()
	out, err := command(t, pkg, program, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", program, args, err, out)
	}
	return string(out)
}

// Stdout is Run for programs whose standard output is data.
func Stdout(t testing.TB, pkg, program string, args ...string) []byte {
	t.Helper()
	out, err := command(t, pkg, program, args...).Output()
	if err != nil {
		t.Fatalf("%s %q: %v", program, args, err)
	}
	return out
}

func command(t testing.TB, pkg, program string, args ...string) *exec.Cmd {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		// The programs for administrators are not in every user's PATH.
		path = filepath.Join("/usr/sbin", program)
		if _, err := os.Stat(path); err != nil {
			t.Fatalf("%s is missing: apt-get install %s", program, pkg)
		}
	}
	cmd := exec.CommandContext(t.Context(), path, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "TZ=UTC")
	return cmd
}

// Raw writes an image to a new file under the test's directory and returns its path.
func Raw(t testing.TB, image *disk.Sparse) string {
	t.Helper()
	f, err := os.CreateTemp(t.TempDir(), "*.raw")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := disk.WriteRaw(t.Context(), f, image); err != nil {
		t.Fatal(err)
	}
	return f.Name()
}

// TinyDisk returns a folder on a filesystem of 1 MiB, for tests of full disks. It needs root to mount it.
func TinyDisk(t testing.TB) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED, NOT PASSED: mounting a tmpfs of 1 MiB to fill it needs root")
	}
	dir := t.TempDir()
	if err := syscall.Mount("rempart-test", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Errorf("unmounting %s: %v", dir, err)
		}
	})
	return dir
}
