package tree

import (
	"io"
	"io/fs"
	"slices"
	"strings"
	"testing"
)

// TestAdd lays entries on each other and looks at what came of it.
func TestAdd(t *testing.T) {
	var tr Tree
	for _, e := range []Entry{
		Bytes("etc/rempart/profile.json", 0o644, []byte("{}"), "a"),
		Dir("etc", 0o700, "b"), // a directory on a directory keeps what is in it
		Symlink("home", "var/home", "a"),
		Bytes("home", 0o644, []byte("file"), "b"), // a file on a link replaces it
		Dir(".", 0o711, "b"),
	} {
		if err := tr.Add(e); err != nil {
			t.Fatal(err)
		}
	}
	var got []string
	for _, e := range tr.Entries() {
		got = append(got, e.Path+" "+e.Mode.String()+" "+e.Origin)
	}
	want := []string{". drwx--x--x b", "etc drwx------ b", "etc/rempart drwxr-xr-x a",
		"etc/rempart/profile.json -rw-r--r-- a", "home -rw-r--r-- b"}
	if !slices.Equal(got, want) {
		t.Errorf("Entries() = %q; want %q", got, want)
	}
	r, err := tr.Lookup("home").Open()
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(r); string(b) != "file" || err != nil {
		t.Errorf("/home holds %q, %v; want file", b, err)
	}
	if e := tr.Lookup("nothing"); e != nil {
		t.Errorf("Lookup(nothing) = %+v; want nil", e)
	}
}

// TestAddRefuses lays what cannot be laid.
func TestAddRefuses(t *testing.T) {
	for _, c := range []struct {
		name  string
		first Entry
		e     Entry
		want  string
	}{
		{"an absolute path", Dir("etc", 0o755, "a"), Bytes("/etc/x", 0o644, nil, "b"), "clean path"},
		{"a path that leads out", Dir("etc", 0o755, "a"), Bytes("../x", 0o644, nil, "b"), "clean path"},
		{"a NUL", Dir("etc", 0o755, "a"), Bytes("x\x00y", 0o644, nil, "b"), "clean path"},
		{"a file for the root", Dir("etc", 0o755, "a"), Bytes(".", 0o644, nil, "b"), "must be a directory"},
		{"something below a link", Symlink("lib", "usr/lib", "a"), Bytes("lib/x", 0o644, nil, "b"), "below /lib"},
		{"a file for a full directory", Bytes("etc/x", 0o644, nil, "a"), Bytes("etc", 0o644, nil, "b"), "filled"},
		{"a link for a full directory", Bytes("etc/x", 0o644, nil, "a"), Symlink("etc", "x", "b"), "filled"},
	} {
		var tr Tree
		if err := tr.Add(c.first); err != nil {
			t.Fatal(err)
		}
		if err := tr.Add(c.e); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("Add of %s = %v; want an error with %q", c.name, err, c.want)
		}
	}
}

// TestParentsComeFirst wants an order in which an archive can be unpacked, whatever the order of Add.
func TestParentsComeFirst(t *testing.T) {
	var tr Tree
	for _, p := range []string{"a/b/c", "a.b", "a-b/x", "a", "z"} {
		e := Bytes(p, 0o644, nil, "t")
		if p == "a" {
			e = Dir(p, 0o755, "t")
		}
		if err := tr.Add(e); err != nil {
			t.Fatal(err)
		}
	}
	seen := map[string]fs.FileMode{}
	for _, e := range tr.Entries() {
		if i := strings.LastIndexByte(e.Path, '/'); i >= 0 && !seen[e.Path[:i]].IsDir() {
			t.Errorf("%s comes before its directory", e.Path)
		}
		seen[e.Path] = e.Mode
	}
}
