// Package judge runs the foreign programs that say in tests whether what this tree writes is right.
package judge

import (
	"os"
	"os/exec"
	"path/filepath"
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
