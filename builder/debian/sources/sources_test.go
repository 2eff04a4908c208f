package sources

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func show(entries []Entry) string {
	var lines []string
	for _, e := range entries {
		signed := e.SignedBy
		if strings.Contains(signed, "PGP") {
			signed = "inline"
		}
		lines = append(lines, fmt.Sprintf("%d %s %s %v %v %s", e.Line, e.URI, e.Suite, e.Components, e.Archs, signed))
	}
	return strings.Join(lines, "\n")
}

func TestParseList(t *testing.T) {
	for _, c := range []struct{ text, want, problem string }{
		{"deb http://deb.example.org/debian bookworm main contrib",
			"1 http://deb.example.org/debian bookworm [main contrib] [] ", ""},
		{"\n  deb\thttp://a/debian  bookworm\tmain # why\n#deb http://b bookworm main\n",
			"2 http://a/debian bookworm [main] [] ", ""},
		{"deb-src http://a bookworm main", "", ""},
		{"deb [ arch=amd64,i386 signed-by=/usr/share/keyrings/d.gpg ] https://a bookworm main",
			"1 https://a bookworm [main] [amd64 i386] /usr/share/keyrings/d.gpg", ""},
		{"deb [signed-by=/k.asc trusted=yes] http://a stable main", "1 http://a stable [main] [] /k.asc", ""},
		{"deb cdrom:[Debian GNU/Linux 12 _Bookworm_ - DVD]/ bookworm main",
			"1 cdrom:[Debian GNU/Linux 12 _Bookworm_ - DVD]/ bookworm [main] [] ", ""},
		{"deb mirror+file:/etc/apt/mirrors.txt bookworm main", "1 mirror+file:/etc/apt/mirrors.txt bookworm [main] [] ", ""},
		{"deb http://a ./", "1 http://a ./ [] [] ", ""},
		{`deb "http://a b/" bookworm main`, "1 http://a b/ bookworm [main] [] ", ""},
		{"deb http://a", "", "f:1: expected"},
		{"deb http://a bookworm", "", "components"},
		{"deb http://a x/ main", "", "components"},
		{"deb [arch=amd64 http://a bookworm main", "", "missing"},
		{"rpm http://a bookworm main\ndeb http://b bookworm main", "2 http://b bookworm [main] [] ", "f:1: \"rpm\""},
	} {
		entries, problems := ParseList("f", []byte(c.text))
		if got := show(entries); got != c.want {
			t.Errorf("ParseList(%q) =\n%s\nwant\n%s", c.text, got, c.want)
		}
		if got := fmt.Sprint(problems); (c.problem == "") != (len(problems) == 0) || !strings.Contains(got, c.problem) {
			t.Errorf("ParseList(%q): problems %s; want %q", c.text, got, c.problem)
		}
	}
}

func TestParseDeb822(t *testing.T) {
	for _, c := range []struct{ text, want, problem string }{
		{"Types: deb\nURIs: http://a/debian\nSuites: bookworm bookworm-updates\nComponents: main\nSigned-By: /k.gpg\n",
			"1 http://a/debian bookworm [main] [] /k.gpg\n1 http://a/debian bookworm-updates [main] [] /k.gpg", ""},
		{"Types: deb deb-src\n# http://snapshot\nURIs: http://a http://b\nSuites: sid\nComponents:\n main\n contrib\n" +
			"Architectures: amd64 arm64\n",
			"1 http://a sid [main contrib] [amd64 arm64] \n1 http://b sid [main contrib] [amd64 arm64] ", ""},
		{"Enabled: no\nTypes: deb\nURIs: http://a\nSuites: sid\nComponents: main\n", "", ""},
		{"Enabled: False\nTypes: deb\nURIs: http://a\nSuites: sid\nComponents: main\n", "", ""},
		{"Enabled: yes\nTypes: deb\nURIs: http://a\nSuites: sid\nComponents: main\n", "1 http://a sid [main] [] ", ""},
		{"Types: deb-src\nURIs: http://a\nSuites: sid\nComponents: main\n", "", ""},
		{"types: deb\nuris: http://a\nsuites: ./\n", "1 http://a ./ [] [] ", ""},
		{"Types: deb\nURIs: http://a\nSuites: sid\nComponents: main\nSigned-By:\n" +
			" -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n mQ==\n -----END PGP PUBLIC KEY BLOCK-----\n",
			"1 http://a sid [main] [] inline", ""},
		{"Types: deb\nSuites: sid\nComponents: main\n", "", "f:1: the field URIs is missing"},
		{"Types: deb\nURIs: http://a\nSuites: sid\n", "", "Components"},
		{"URIs: http://a\nSuites: sid\nComponents: main\n\nTypes: deb\nURIs: http://b\nSuites: sid\nComponents: main\n",
			"5 http://b sid [main] [] ", "f:1: the field Types"},
		{"Types: deb\nURIs: http://b\nSuites: sid\nComponents: main\n\njunk\n", "1 http://b sid [main] [] ", "line 6"},
	} {
		entries, problems := ParseDeb822("f", []byte(c.text))
		if got := show(entries); got != c.want {
			t.Errorf("ParseDeb822(%q) =\n%s\nwant\n%s", c.text, got, c.want)
		}
		if got := fmt.Sprint(problems); (c.problem == "") != (len(problems) == 0) || !strings.Contains(got, c.problem) {
			t.Errorf("ParseDeb822(%q): problems %s; want %q", c.text, got, c.problem)
		}
	}
}

func TestRead(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if entries, problems, err := Read(dir); len(entries)+len(problems) > 0 || err != nil {
		t.Errorf("Read of an empty directory = %v, %v, %v; want nothing", entries, problems, err)
	}
	line := func(host string) string { return "deb http://" + host + " bookworm main\n" }
	write("sources.list", line("first"))
	write("sources.list.d/b.list", line("b"))
	write("sources.list.d/a.sources", "Types: deb\nURIs: http://a\nSuites: bookworm\nComponents: main\n")
	write("sources.list.d/c.list.disabled", line("c"))
	write("sources.list.d/d.list.save", line("d"))
	write("sources.list.d/.e.list", line("e"))
	write("sources.list.d/f g.list", line("f"))
	write("sources.list.d/h.list", "\x00\x01\xff junk")
	write("sources.list.d/i.list", strings.Repeat("#", maxFile+1))
	if err := os.Mkdir(filepath.Join(dir, "sources.list.d/j.list"), 0o755); err != nil {
		t.Fatal(err)
	}
	entries, problems, err := Read(dir)
	want := "1 http://first bookworm [main] [] \n1 http://a bookworm [main] [] \n1 http://b bookworm [main] [] "
	if got := show(entries); got != want || err != nil {
		t.Errorf("Read =\n%s\n%v; want\n%s", got, err, want)
	}
	if len(problems) != 3 {
		t.Errorf("problems = %v; want those of h, i and j", problems)
	}
	if entries[1].File != filepath.Join(dir, "sources.list.d/a.sources") {
		t.Errorf("File = %s", entries[1].File)
	}
}

func FuzzSources(f *testing.F) {
	f.Add([]byte("deb [arch=amd64 signed-by=/k] http://a bookworm main\ndeb cdrom:[x y]/ sid main\n"))
	f.Add([]byte("Types: deb\nURIs: http://a\nSuites: sid\nComponents: main\nEnabled: no\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		list, _ := ParseList("f", text)
		deb822, _ := ParseDeb822("f", text)
		for _, e := range append(list, deb822...) {
			if e.URI == "" || e.Suite == "" || e.Line < 1 || strings.HasSuffix(e.Suite, "/") == (len(e.Components) > 0) {
				t.Fatalf("%q gives %+v", text, e)
			}
		}
	})
}
