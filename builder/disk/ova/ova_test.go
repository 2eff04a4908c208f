package ova_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"rempart/builder/disk"
	"rempart/builder/disk/internal/judge"
	"rempart/builder/disk/ova"
)

func content(t testing.TB, size int64) *disk.Sparse {
	t.Helper()
	s := disk.NewSparse(size)
	b := make([]byte, 100_000)
	rand.NewChaCha8([32]byte{6}).Read(b)
	if err := s.Put(70_000, bytes.NewReader(b), int64(len(b))); err != nil {
		t.Fatal(err)
	}
	return s
}

var machine = ova.Machine{Name: "fw-1", Memory: 128 << 20, CPUs: 1, NICs: []string{"lan0", "a & b"}}

func write(t testing.TB, s *disk.Sparse) string {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "machine.ova"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := ova.Write(t.Context(), f, s, machine); err != nil {
		t.Fatal(err)
	}
	return f.Name()
}

// TestForeign has tar, sha256sum, xmllint and qemu-img look at what is written, and reads it again.
func TestForeign(t *testing.T) {
	s := content(t, 40<<20)
	path := write(t, s)
	dir := t.TempDir()
	if names := judge.Run(t, "tar", "tar", "-xvf", path, "-C", dir); names != "fw-1.ovf\nfw-1.mf\nfw-1-disk1.vmdk\n" {
		t.Errorf("tar -x: %q; want the description, the manifest, the disk", names)
	}
	judge.Run(t, "qemu-utils", "qemu-img", "compare", "-f", "vmdk", "-F", "raw", filepath.Join(dir, "fw-1-disk1.vmdk"),
		judge.Raw(t, s))
	judge.Run(t, "libxml2-utils", "xmllint", "--noout", filepath.Join(dir, "fw-1.ovf"))
	manifest, err := os.ReadFile(filepath.Join(dir, "fw-1.mf"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"fw-1.ovf", "fw-1-disk1.vmdk"} {
		sum := strings.Fields(judge.Run(t, "coreutils", "sha256sum", filepath.Join(dir, name)))[0]
		if want := fmt.Sprintf("SHA256(%s)= %s\n", name, sum); !strings.Contains(string(manifest), want) {
			t.Errorf("the manifest lacks %q:\n%s", want, manifest)
		}
	}
	description, err := os.ReadFile(filepath.Join(dir, "fw-1.ovf"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`ovf:capacity="41943040"`, "<rasd:VirtualQuantity>128<", "a &amp; b",
		"<rasd:InstanceID>6</rasd:InstanceID>"} {
		if !strings.Contains(string(description), want) {
			t.Errorf("the description lacks %s:\n%s", want, description)
		}
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	i, err := ova.Open(t.Context(), bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	got, want := sha256.New(), sha256.New()
	if _, err := io.Copy(got, io.NewSectionReader(i, 0, i.Size())); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(want, io.NewSectionReader(s, 0, s.Size())); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Sum(nil), want.Sum(nil)) {
		t.Error("the archive's disk is another than was written")
	}
	again, err := os.ReadFile(write(t, s))
	if err != nil || !bytes.Equal(b, again) {
		t.Errorf("two writes differ (%v)", err)
	}
}

// TestManifests are those of other tools, whose digests sha1sum and the like make: with SHA1 the archive is taken and
// called weak, and a changed file is found by each.
func TestManifests(t *testing.T) {
	s := content(t, 1<<20)
	for _, tt := range []struct {
		program, format string
		weak            bool
	}{{"sha1sum", "SHA1(%s)= %s\n", true}, {"sha1sum", "SHA1 (%s) = %s\r\n", true},
		{"sha256sum", "sha256(%s)=%s\n", false}, {"sha512sum", "SHA512 (%s) = %s\n", false}} {
		dir := t.TempDir()
		judge.Run(t, "tar", "tar", "-xf", write(t, s), "-C", dir)
		manifest := ""
		for _, name := range []string{"fw-1.ovf", "fw-1-disk1.vmdk"} {
			sum := strings.Fields(judge.Run(t, "coreutils", tt.program, filepath.Join(dir, name)))[0]
			manifest += fmt.Sprintf(tt.format, name, sum)
		}
		open := func(manifest string) (*ova.Image, error) {
			if err := os.WriteFile(filepath.Join(dir, "fw-1.mf"), []byte(manifest), 0o600); err != nil {
				t.Fatal(err)
			}
			judge.Run(t, "tar", "tar", "-cf", filepath.Join(dir, "x.ova"), "-C", dir, "fw-1.ovf", "fw-1.mf", "fw-1-disk1.vmdk")
			b, err := os.ReadFile(filepath.Join(dir, "x.ova"))
			if err != nil {
				t.Fatal(err)
			}
			return ova.Open(t.Context(), bytes.NewReader(b), int64(len(b)))
		}
		i, err := open(manifest)
		if err != nil || i.Weak != tt.weak || i.Size() != s.Size() {
			t.Errorf("Open of an archive with %q = %+v, %v; want weak %v", manifest, i, err, tt.weak)
		}
		last := strings.TrimRight(manifest, "\r\n")
		other := "0"
		if strings.HasSuffix(last, other) {
			other = "1"
		}
		for name, bad := range map[string]string{"another digest": last[:len(last)-1] + other,
			"an unknown one": strings.ReplaceAll(strings.ToUpper(manifest), "SHA", "MD"), "half a line": "SHA1(fw-1.ovf"} {
			if _, err := open(bad); !errors.Is(err, ova.ErrCorrupt) {
				t.Errorf("Open of an archive with %s (%q) = %v; want %v", name, bad, err, ova.ErrCorrupt)
			}
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	whole, err := os.ReadFile(write(t, content(t, 1<<20)))
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		spoil func(b []byte) []byte
		want  error
	}{
		"nothing":        {func([]byte) []byte { return nil }, ova.ErrFormat},
		"noise":          {func(b []byte) []byte { return bytes.Repeat([]byte("x"), 2000) }, ova.ErrFormat},
		"a changed disk": {func(b []byte) []byte { b[len(b)-60_000]++; return b }, ova.ErrCorrupt},
		"a changed description": {func(b []byte) []byte {
			return bytes.Replace(b, []byte("128 MiB"), []byte("129 MiB"), 1)
		}, ova.ErrCorrupt},
		"a manifest without the disk": {func(b []byte) []byte {
			at := bytes.Index(b, []byte("SHA256(fw-1-disk1.vmdk)"))
			copy(b[at:], bytes.Repeat([]byte(" "), bytes.IndexByte(b[at:], '\n')))
			return b
		}, ova.ErrCorrupt},
		"a disk of another name": {func(b []byte) []byte {
			return bytes.Replace(b, []byte("fw-1-disk1.vmdk"), []byte("fw-1-disk2.vmdk"), 1)
		}, ova.ErrCorrupt},
	} {
		b := tt.spoil(bytes.Clone(whole))
		if _, err := ova.Open(t.Context(), bytes.NewReader(b), int64(len(b))); !errors.Is(err, tt.want) {
			t.Errorf("%s: Open = %v; want %v", name, err, tt.want)
		}
	}
	f, err := os.Create(filepath.Join(t.TempDir(), "x"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, m := range []ova.Machine{{}, {Name: "../x", Memory: 1, CPUs: 1}, {Name: "x", Memory: 0, CPUs: 1}} {
		if err := ova.Write(t.Context(), f, content(t, 1<<20), m); err == nil {
			t.Errorf("Write of %+v = nil; want an error", m)
		}
	}
}

func FuzzOpen(f *testing.F) {
	whole, err := os.ReadFile(write(f, content(f, 1<<20)))
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte{0, 0, 12, 1})
	f.Fuzz(func(t *testing.T, changes []byte) {
		b := bytes.Clone(whole)
		for ; len(changes) >= 4; changes = changes[4:] {
			b[int(binary.BigEndian.Uint32(changes)>>8)%len(b)] = changes[3]
		}
		i, err := ova.Open(t.Context(), bytes.NewReader(b), int64(len(b)))
		if err != nil {
			return
		}
		if n, err := i.ReadAt(make([]byte, 70_000), 60_000); n < 70_000 && err == nil {
			t.Errorf("ReadAt = %d without an error", n)
		}
	})
}
