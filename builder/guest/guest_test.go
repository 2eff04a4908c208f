package guest

import (
	"encoding/json"
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"rempart/profiles"
)

func TestReadProfile(t *testing.T) {
	p, err := profiles.Load("home-firewall")
	if err != nil {
		t.Fatal(err)
	}
	src, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	got, err := readProfile(fstest.MapFS{"etc/rempart/profile.json": {Data: src}})
	if err != nil || got.Name != p.Name || len(got.Links) != len(p.Links) {
		t.Errorf("readProfile = %+v, %v; want %s", got, err, p.Name)
	}
	for name, root := range map[string]fstest.MapFS{"no file": {},
		"junk":      {"etc/rempart/profile.json": {Data: []byte("{")}},
		"too large": {"etc/rempart/profile.json": {Data: make([]byte, maxProfile+1)}}} {
		if p, err := readProfile(root); err == nil {
			t.Errorf("readProfile of %s = %+v; want an error", name, p)
		}
	}
}

// TestReadStored: what a profile stores beside its JSON is read out of the root with it, or it is not read at all.
func TestReadStored(t *testing.T) {
	p, err := profiles.Load("home-firewall")
	if err != nil {
		t.Fatal(err)
	}
	s := profiles.Set{Name: "many"}
	for i := range 100 {
		a := netip.AddrFrom4([4]byte{10, 0, byte(i), 1})
		s.Ranges = append(s.Ranges, profiles.AddrRange{First: a, Last: a})
	}
	which, content := s.Which(), s.Ranges.Binary()
	s.Stored = &which
	p.Sets = []profiles.Set{s}
	src, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	path := "etc/rempart/sets/" + which.V4.Digest
	root := fstest.MapFS{"etc/rempart/profile.json": {Data: src}, path: {Data: content}}
	if got, err := readProfile(root); err != nil || !slices.Equal(got.Sets[0].Ranges, s.Ranges) {
		t.Errorf("readProfile = %v; want the set with its ranges", err)
	}
	root[path] = &fstest.MapFile{Data: append(content, 1)}
	if _, err := readProfile(root); !errors.Is(err, profiles.ErrStored) {
		t.Errorf("with other ranges readProfile = %v; want %v", err, profiles.ErrStored)
	}
	delete(root, path)
	if _, err := readProfile(root); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without the ranges readProfile = %v; want %v", err, fs.ErrNotExist)
	}
}

func TestEnsureState(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.raw")
	if created, err := EnsureState(path, 1<<20); !created || err != nil {
		t.Fatalf("EnsureState = %v, %v; want it created", created, err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Size() != 1<<20 || info.Mode().Perm() != 0o600 {
		t.Errorf("state disk is %v, %v; want 1 MiB that only its owner reads", info, err)
	}
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if created, err := EnsureState(path, 1<<20); created || err != nil {
		t.Errorf("EnsureState of what is there = %v, %v; want it left alone", created, err)
	}
	if got, _ := os.ReadFile(path); string(got) != "precious" {
		t.Errorf("the state disk is now %q; want it untouched", got)
	}
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := EnsureState(empty, 1<<20); err == nil {
		t.Error("EnsureState of an empty file = nil error; want one")
	}
	if _, err := EnsureState(filepath.Join(empty, "x"), 1<<20); err == nil {
		t.Error("EnsureState in no folder = nil error; want one")
	}
}

func TestStatePath(t *testing.T) {
	for dir, want := range map[string]string{"/m/fw-1/": "/m/fw-1.state.raw", "/m/out": "/m/out.fw-1.state.raw"} {
		if got := (&Master{Dir: dir}).StatePath("fw-1"); got != want {
			t.Errorf("StatePath in %s = %s; want %s", dir, got, want)
		}
	}
}

func TestLinks(t *testing.T) {
	p := &profiles.Profile{Links: []profiles.Link{{Name: "wan", MAC: "02:00:00:aa:bb:cc"}, {Name: "lan"}}}
	nics, err := Links("fw", p)
	if err != nil || nics[0].MAC.String() != "02:00:00:aa:bb:cc" ||
		!strings.HasPrefix(nics[1].MAC.String(), "00:16:3e:") {
		t.Errorf("Links = %v, %v; want the profile's address first and a derived one second", nics, err)
	}
}

func TestLines(t *testing.T) {
	var got []string
	l := &lines{each: func(s string) { got = append(got, s) }}
	long := strings.Repeat("x", 3*maxLine)
	for _, piece := range []string{"REA", "DY fw\r\nFAILED a\n\x1b[31mred\n", long, "\n", "rest"} {
		if n, err := l.Write([]byte(piece)); n != len(piece) || err != nil {
			t.Errorf("Write(%d bytes) = %d, %v", len(piece), n, err)
		}
	}
	want := []string{"READY fw", "FAILED a", "\ufffd[31mred", strings.Repeat("x", maxLine)}
	if strings.Join(got, "|") != strings.Join(want, "|") {
		t.Errorf("lines are %q; want %q", got, want)
	}
	if l.failure() != "FAILED a" || l.lastLine() != want[3] {
		t.Errorf("failure, last = %q, %q; want %q, %.10q...", l.failure(), l.lastLine(), "FAILED a", want[3])
	}
}
