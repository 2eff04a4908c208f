package deb

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// arMember is one member of a package under test.
type arMember struct {
	name    string
	content []byte
}

func ar(members ...arMember) []byte {
	var b bytes.Buffer
	b.WriteString(arMagic)
	for _, m := range members {
		b.WriteString(arHeader(m.name, int64(len(m.content))))
		b.Write(m.content)
		if len(m.content)%2 == 1 {
			b.WriteByte('\n')
		}
	}
	return b.Bytes()
}

func tarOf(t testing.TB, headers ...tar.Header) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		content := h.Uname // carries the content of a file in these tests
		h.Uname = ""
		if h.Typeflag == tar.TypeReg {
			h.Size = int64(len(content))
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			if _, err := io.WriteString(w, content); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func file(name, content string) tar.Header {
	return tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Uname: content}
}

const controlText = "Package: test\nVersion: 1-1\nArchitecture: amd64\nMaintainer: T <t@example.org>\n" +
	"Description: a test\n"

// debOf is a package with the given data.tar, plain.
func debOf(t testing.TB, data []byte) []byte {
	return ar(arMember{"debian-binary", []byte("2.0\n")},
		arMember{"control.tar", tarOf(t, file("./control", controlText))}, arMember{"data.tar", data})
}

func pack(t testing.TB, packing string, content []byte) []byte {
	var b bytes.Buffer
	var w io.WriteCloser
	var err error
	switch packing {
	case "gz":
		w = gzip.NewWriter(&b)
	case "xz":
		w, err = xz.NewWriter(&b)
	case "zst":
		w, err = zstd.NewWriter(&b)
	default:
		return content
	}
	if err == nil {
		_, err = w.Write(content)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func open(t testing.TB, b []byte) *Deb {
	d, err := Open(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	return d
}

// All kinds of entries, in all packings, are read from the plain form as they were put in.
func TestEntries(t *testing.T) {
	data := tarOf(t,
		tar.Header{Name: "./", Typeflag: tar.TypeDir, Mode: 0o755},
		tar.Header{Name: "./usr/", Typeflag: tar.TypeDir, Mode: 0o755},
		tar.Header{Name: "./usr/bin/", Typeflag: tar.TypeDir, Mode: 0o1777, Uid: 1, Gid: 2},
		tar.Header{Name: "./usr/bin/su", Typeflag: tar.TypeReg, Mode: 0o4755, Uname: "su", Gid: 42},
		tar.Header{Name: "./usr/bin/link", Typeflag: tar.TypeLink, Linkname: "./usr/bin/su"},
		tar.Header{Name: "./usr/bin/sym", Typeflag: tar.TypeSymlink, Linkname: "../../etc/x", Mode: 0o777},
		tar.Header{Name: "./dev/null", Typeflag: tar.TypeChar, Mode: 0o666, Devmajor: 1, Devminor: 3},
		file("./"+strings.Repeat("long/", 60)+"name", strings.Repeat("x", 1000)),
		file("./usr/share/ünïcode [odd] \n name", ""),
	)
	want := strings.Join([]string{
		"usr drwxr-xr-x 0:0 0",
		"usr/bin dtrwxrwxrwx 1:2 0",
		"usr/bin/su urwxr-xr-x 0:42 2 su",
		"usr/bin/link urwxr-xr-x 0:42 2 su",
		"usr/bin/sym Lrwxrwxrwx 0:0 0 -> ../../etc/x",
		"dev/null Dcrw-rw-rw- 0:0 0 1:3",
		strings.Repeat("long/", 60) + "name -rw-r--r-- 0:0 1000 " + strings.Repeat("x", 1000),
		"usr/share/ünïcode [odd] \n name -rw-r--r-- 0:0 0 ",
	}, "\n")
	for _, packing := range []string{"", "gz", "xz", "zst"} {
		suffix := ""
		if packing != "" {
			suffix = "." + packing
		}
		packed := open(t, ar(arMember{"debian-binary", []byte("2.0\n")}, arMember{"_extra", []byte("odd")},
			arMember{"control.tar" + suffix, pack(t, packing, tarOf(t, file("./md5sums", ""), file("./control", controlText)))},
			arMember{"data.tar" + suffix, pack(t, packing, data)}))
		if packing != "" {
			if _, err := packed.Entries("x"); !errors.Is(err, ErrMalformed) {
				t.Errorf("Entries of a packed package: error %v; want ErrMalformed", err)
			}
		}
		plain, err := os.Create(filepath.Join(t.TempDir(), "plain.deb"))
		if err != nil {
			t.Fatal(err)
		}
		defer plain.Close()
		if err := packed.Repack(plain); err != nil {
			t.Fatalf("%q: Repack: %v", packing, err)
		}
		info, _ := plain.Stat()
		d, err := Open(plain, info.Size())
		if err != nil {
			t.Fatalf("%q: Open of the plain form: %v", packing, err)
		}
		if c, err := d.Control(); err != nil || c.Get("version") != "1-1" {
			t.Errorf("%q: Control = %v, %v", packing, c, err)
		}
		entries, err := d.Entries("package test")
		if err != nil {
			t.Fatalf("%q: Entries: %v", packing, err)
		}
		var got []string
		for _, e := range entries {
			line := fmt.Sprintf("%s %v %d:%d %d", e.Path, e.Mode, e.UID, e.GID, e.Size)
			switch {
			case e.Mode&fs.ModeSymlink != 0:
				line += " -> " + e.Link
			case e.Mode&fs.ModeDevice != 0:
				line += fmt.Sprintf(" %d:%d", e.Major, e.Minor)
			case e.Open != nil:
				for range 2 {
					r, err := e.Open()
					if err != nil {
						t.Fatal(err)
					}
					content, err := io.ReadAll(r)
					if err != nil {
						t.Fatal(err)
					}
					line = strings.TrimSuffix(line, " "+string(content)) + " " + string(content)
				}
			}
			if e.Origin != "package test" {
				t.Errorf("Origin of /%s = %q", e.Path, e.Origin)
			}
			got = append(got, line)
		}
		if strings.Join(got, "\n") != want {
			t.Errorf("%q: entries\n%s\nwant\n%s", packing, strings.Join(got, "\n"), want)
		}
		judge(t, plain.Name(), data)
	}
}

// judge lets dpkg-deb read the plain form.
func judge(t *testing.T, name string, data []byte) {
	if _, err := exec.LookPath("dpkg-deb"); err != nil {
		t.Log("NOT CHECKED with dpkg-deb: it is missing (Debian package dpkg)")
		return
	}
	if out, err := exec.Command("dpkg-deb", "-f", name, "Version").CombinedOutput(); err != nil || string(out) != "1-1\n" {
		t.Errorf("dpkg-deb -f: %v: %s", err, out)
	}
	out, err := exec.Command("dpkg-deb", "--fsys-tarfile", name).Output()
	if err != nil || !bytes.Equal(out, data) {
		t.Errorf("dpkg-deb --fsys-tarfile: %v, %d bytes; want the %d of data.tar", err, len(out), len(data))
	}
}

func TestOpenErrors(t *testing.T) {
	good := debOf(t, tarOf(t))
	format, control, data := arMember{"debian-binary", []byte("2.0\n")}, arMember{"control.tar", nil},
		arMember{"data.tar", nil}
	many := []arMember{format}
	for range maxMembers {
		many = append(many, arMember{"_x", nil})
	}
	for _, c := range []struct {
		name string
		deb  []byte
		want string
	}{
		{"empty", nil, "does not start"},
		{"not ar", []byte("#!/bin/sh\n"), "does not start"},
		{"no members", []byte(arMagic), "first member"},
		{"cut in a header", good[:len(arMagic)+30], "cut short"},
		{"cut in a member", good[:len(good)-1], "impossible size"},
		{"no format", ar(control, data), "first member"},
		{"other format", ar(arMember{"debian-binary", []byte("3.0\n")}, control, data), "expected 2."},
		{"no data", ar(format, control), "missing"},
		{"wrong order", ar(format, data, control), "unexpected"},
		{"two data", ar(format, control, data, data), "unexpected"},
		{"unknown member", ar(format, arMember{"evil", nil}, control, data), "unexpected"},
		{"bzip2", ar(format, control, arMember{"data.tar.bz2", nil}), "not supported"},
		{"too many members", ar(many...), "more than"},
		{"negative size", bytes.Replace(good, []byte("4         `\n"), []byte("-4        `\n"), 1), "impossible size"},
		{"huge size", bytes.Replace(good, []byte("4         `\n"), []byte("9999999999`\n"), 1), "impossible size"},
		{"no end of header", bytes.Replace(good, []byte("`\n"), []byte("xx"), 1), "no header"},
	} {
		_, err := Open(bytes.NewReader(c.deb), int64(len(c.deb)))
		if !errors.Is(err, ErrMalformed) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: Open: error %v; want ErrMalformed with %q", c.name, err, c.want)
		}
	}
}

func TestEntriesErrors(t *testing.T) {
	bigger := tarOf(t, file("./a", "12345"))
	for _, c := range []struct {
		name string
		data []byte
		want string
	}{
		{"absolute", tarOf(t, file("/etc/passwd", "")), "inside the root"},
		{"up", tarOf(t, file("./../etc/passwd", "")), "inside the root"},
		{"up later", tarOf(t, file("./a/../../b", "")), "inside the root"},
		{"not clean", tarOf(t, file("./a//b", "")), "inside the root"},
		{"no name", tarOf(t, file("", "")), "inside the root"},
		{"not UTF-8", tarOf(t, file("./a\xff", "")), "inside the root"},
		{"too long", tarOf(t, file("./"+strings.Repeat("a/", maxPath)+"b", "")), "inside the root"},
		{"root as file", tarOf(t, file(".", "")), "root is not a directory"},
		{"hard link out", tarOf(t, tar.Header{Name: "./a", Typeflag: tar.TypeLink, Linkname: "/etc/shadow"}),
			"inside the root"},
		{"hard link to nothing", tarOf(t, tar.Header{Name: "./a", Typeflag: tar.TypeLink, Linkname: "./b"}),
			"no earlier file"},
		{"hard link to itself", tarOf(t, tar.Header{Name: "./a", Typeflag: tar.TypeLink, Linkname: "./a"}),
			"no earlier file"},
		{"hard link to a link", tarOf(t, tar.Header{Name: "./b", Typeflag: tar.TypeSymlink, Linkname: "/x"},
			tar.Header{Name: "./a", Typeflag: tar.TypeLink, Linkname: "./b"}), "no earlier file"},
		{"twice", tarOf(t, file("./a", "1"), file("./a", "2")), "twice"},
		{"below a link", tarOf(t, tar.Header{Name: "./a", Typeflag: tar.TypeSymlink, Linkname: "/etc"}, file("./a/b", "")),
			"not a directory"},
		{"below a file", tarOf(t, file("./a", ""), file("./a/b", "")), "not a directory"},
		{"link to nowhere", tarOf(t, tar.Header{Name: "./a", Typeflag: tar.TypeSymlink}), "target"},
		{"fifo", tarOf(t, tar.Header{Name: "./a", Typeflag: tar.TypeFifo}), "not supported"},
		{"cut in a file", bigger[:512], "cut short"},
		{"cut in a header", bigger[:300], "unexpected EOF"},
		{"junk", bytes.Repeat([]byte("junk"), 512), "invalid tar header"},
	} {
		entries, err := open(t, debOf(t, c.data)).Entries("x")
		if !errors.Is(err, ErrMalformed) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: Entries = %v, error %v; want ErrMalformed with %q", c.name, entries, err, c.want)
		}
	}
}

// A package that unpacks to more than its bound is refused while it is unpacked, not after.
func TestBounds(t *testing.T) {
	bomb := pack(t, "gz", make([]byte, maxControl+1))
	d := open(t, ar(arMember{"debian-binary", []byte("2.0\n")}, arMember{"control.tar.gz", bomb}, arMember{"data.tar",
		nil}))
	if err := d.Repack(discard{}); !errors.Is(err, ErrMalformed) || !strings.Contains(err.Error(), "more than") {
		t.Errorf("Repack of a control.tar that is too large: error %v; want ErrMalformed", err)
	}
}

type discard struct{}

func (discard) Write(p []byte) (int, error)        { return len(p), nil }
func (discard) Seek(_ int64, _ int) (int64, error) { return 0, nil }

// FuzzDeb: whatever the bytes, reading ends in time, and entries are as consumers expect them.
func FuzzDeb(f *testing.F) {
	data := tarOf(f, tar.Header{Name: "./", Typeflag: tar.TypeDir}, file("./a/b", "content"),
		tar.Header{Name: "./c", Typeflag: tar.TypeLink, Linkname: "./a/b"},
		tar.Header{Name: "./d", Typeflag: tar.TypeSymlink, Linkname: "a"})
	f.Add(debOf(f, data))
	for _, packing := range []string{"gz", "xz", "zst"} {
		f.Add(ar(arMember{"debian-binary", []byte("2.0\n")},
			arMember{"control.tar." + packing, pack(f, packing, tarOf(f, file("./control", controlText)))},
			arMember{"data.tar." + packing, pack(f, packing, data)}))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := Open(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			return
		}
		d.Control()
		d.Walk(func(hdr *tar.Header, content io.Reader) error {
			_, err := io.CopyN(io.Discard, content, 1<<20)
			if err == io.EOF {
				err = nil
			}
			return err
		})
		entries, err := d.Entries("fuzz")
		if err != nil {
			return
		}
		for _, e := range entries {
			if !fs.ValidPath(e.Path) || e.Path == "." || e.Size < 0 || e.Size > int64(len(b)) ||
				e.Mode.IsRegular() != (e.Open != nil) {
				t.Fatalf("entry %+v", e)
			}
			if e.Open == nil {
				continue
			}
			r, err := e.Open()
			if err != nil {
				t.Fatal(err)
			}
			if n, err := io.Copy(io.Discard, r); n != e.Size || err != nil {
				t.Fatalf("/%s: read %d bytes, %v; want %d", e.Path, n, err, e.Size)
			}
		}
	})
}
