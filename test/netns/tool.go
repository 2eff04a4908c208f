package netns

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// programDirs are where programs are that Debian installs, whatever PATH says.
var programDirs = []string{"/usr/sbin", "/sbin", "/usr/bin", "/bin", "/lib/systemd"}

// Tool is where a foreign program of a Debian package is: on this machine, or where test/setup unpacks what would
// start a service if it were installed. Without it the test fails.
func Tool(t testing.TB, name, pkg string) string {
	t.Helper()
	tools, err := unpacked()
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range append(slices.Clone(programDirs), filepath.Join(tools, "usr/sbin"),
		filepath.Join(tools, "usr/bin")) {
		if path := filepath.Join(dir, name); isFile(path) {
			return path
		}
	}
	t.Fatalf("%s of the package %s is missing; `make setup` brings it", name, pkg)
	return ""
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}

// unpacked is bin/tools of the source tree, in which tests run.
func unpacked() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for at := dir; at != filepath.Dir(at); at = filepath.Dir(at) {
		if isFile(filepath.Join(at, "go.mod")) {
			return filepath.Join(at, "bin/tools"), nil
		}
	}
	return "", fmt.Errorf("%s is in no source tree", dir)
}
