package rootfs

import (
	"strings"
	"testing"
	"testing/fstest"

	"rempart/builder/rootfs/tree"
)

func overlayOf(manifest string) fstest.MapFS {
	return fstest.MapFS{
		"o/etc/secret": {Data: []byte("s")},
		"o/bin/run":    {Data: []byte("#!")},
		"o.manifest":   {Data: []byte(manifest)},
	}
}

// TestOverlay applies each kind of line.
func TestOverlay(t *testing.T) {
	entries, err := Overlay(overlayOf(`
# comment
etc/secret 0600 900:901
bin/run    4755
bin/       0700
tmp/       1777
a/b        -> ../etc/secret
`), "o")
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string]tree.Entry)
	for _, e := range entries {
		got[e.Path] = e
		if e.Origin != "overlay o" {
			t.Errorf("/%s has origin %q; want overlay o", e.Path, e.Origin)
		}
	}
	for p, want := range map[string]string{"etc": "drwxr-xr-x", "etc/secret": "-rw-------", "bin/run": "urwxr-xr-x",
		"bin": "drwx------", "tmp": "dtrwxrwxrwx", "a/b": "Lrwxrwxrwx"} {
		if e := got[p]; e.Mode.String() != want {
			t.Errorf("/%s has mode %v; want %s", p, e.Mode, want)
		}
	}
	if e := got["etc/secret"]; e.UID != 900 || e.GID != 901 || e.Size != 1 {
		t.Errorf("/etc/secret = %+v; want 1 byte of 900:901", e)
	}
	if e := got["a/b"]; e.Link != "../etc/secret" {
		t.Errorf("/a/b = %+v; want a link to ../etc/secret", e)
	}
}

// TestOverlayRefuses has one wrong line each.
func TestOverlayRefuses(t *testing.T) {
	for _, c := range []struct{ line, want string }{
		{"etc/secret", "1 words"},
		{"etc/secret 0600 0:0 more", "4 words"},
		{"etc/secret rw", "octal"},
		{"etc/secret 10000", "octal"},
		{"etc/secret 0600 root", "UID:GID"},
		{"etc/secret 0600 0:-1", "UID:GID"},
		{"etc/nothing 0600", "no file"},
		{"etc/secret/ 0700", "directories end in a slash"},
		{"etc 0700", "directories end in a slash"},
		{"etc/secret -> x", "cannot be a link"},
		{"../x -> y", "not a clean path"},
		{"/etc/x -> y", "not a clean path"},
		{"a//b/ 0755", "not a clean path"},
		{"./ 0755", "not a clean path"},
		{"x -> y\nx -> z", "twice"},
		{"x -> y\nx -> a\x00b", "o.manifest:2: a NUL"},
	} {
		_, err := Overlay(overlayOf(c.line), "o")
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "o.manifest:") {
			t.Errorf("Overlay with %q = %v; want o.manifest:LINE and %q", c.line, err, c.want)
		}
	}
	if _, err := Overlay(fstest.MapFS{}, "o"); err == nil {
		t.Error("Overlay that is not there = nil; want an error")
	}
}

// FuzzOverlay gives the manifest's parser bytes from outside: what it accepts must lie in a tree or be refused there.
func FuzzOverlay(f *testing.F) {
	f.Add("etc/secret 0600 900:901\na/b -> ../etc/secret\ntmp/ 1777\n# c")
	f.Fuzz(func(t *testing.T, manifest string) {
		entries, err := Overlay(overlayOf(manifest), "o")
		if err != nil {
			return
		}
		tr := new(tree.Tree)
		for _, e := range entries {
			if err := tr.Add(e); err != nil && strings.Contains(err.Error(), "clean path") {
				t.Errorf("the manifest's parser let %q through: %v", e.Path, err)
			}
		}
	})
}
