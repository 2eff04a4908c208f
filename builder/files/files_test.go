package files

import (
	"os"
	"path/filepath"
	"testing"
)

func TestWriteAndMove(t *testing.T) {
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "sub", "b")
	for _, content := range []string{"one", "two"} {
		if err := Write(a, []byte(content), 0o640); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(a)
		info, _ := os.Stat(a)
		if err != nil || string(got) != content || info.Mode().Perm() != 0o640 {
			t.Errorf("after Write(%q): %q, %v, %v; want it with mode 0640", content, got, info.Mode(), err)
		}
	}
	if err := Write(filepath.Join(dir, "sub", "c"), nil, 0o600); err == nil {
		t.Error("Write into a folder that is not there = nil; want an error")
	}
	if err := os.Mkdir(filepath.Join(dir, "sub"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := Move(a, b); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(b); err != nil || string(got) != "two" {
		t.Errorf("after Move: %q, %v; want two", got, err)
	}
	if err := Write(filepath.Join(dir, "sub"), nil, 0o600); err == nil {
		t.Error("Write over a folder = nil; want an error")
	}
	if left, _ := filepath.Glob(filepath.Join(dir, ".*")); len(left) != 0 {
		t.Errorf("left behind: %q; want nothing", left)
	}
}

func TestData(t *testing.T) {
	t.Setenv("XDG_DATA_HOME", "/x")
	want := "/x/rempart/guests"
	if os.Geteuid() == 0 {
		want = "/var/lib/rempart/guests"
	}
	if got, err := Data("guests"); err != nil || got != want {
		t.Errorf("Data(guests) = %q, %v; want %q", got, err, want)
	}
}
