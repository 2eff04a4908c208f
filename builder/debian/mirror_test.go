package debian

import (
	"context"
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Configurations as machines have them, and the mirrors found in them for a suite.
func TestAptMirrors(t *testing.T) {
	const deb822 = "Types: deb\nURIs: http://deb.example.org/debian\nSuites: bookworm bookworm-updates\n" +
		"Components: main\n" +
		"Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n\n" +
		"Types: deb\nURIs: http://deb.example.org/debian-security\nSuites: bookworm-security\nComponents: main\n" +
		"Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n"
	for _, c := range []struct {
		name                    string
		list, sources           string
		main, updates, security string // addresses, blank between them; none for ErrNoMirror
	}{
		{"Debian 12, deb822", "", deb822, "http://deb.example.org/debian", "http://deb.example.org/debian",
			"http://deb.example.org/debian-security"},
		{"Debian 12, one-line",
			"deb http://ftp.example.org/debian/ bookworm main contrib\ndeb-src http://src/debian bookworm main\n" +
				"deb http://security.example.org/debian-security bookworm-security main\n" +
				"deb http://ftp.example.org/debian/ bookworm-updates main\n",
			"", "http://ftp.example.org/debian/", "http://ftp.example.org/debian/",
			"http://security.example.org/debian-security http://ftp.example.org/debian-security/"},
		{"Debian 13", "", strings.ReplaceAll(deb822, "bookworm", "trixie"), "http://deb.example.org/debian",
			"http://deb.example.org/debian",
			"http://deb.example.org/debian-security"},
		{"Debian sid", "deb http://deb.example.org/debian unstable main\n", "", "http://deb.example.org/debian",
			"http://deb.example.org/debian", "http://deb.example.org/debian-security"},
		{"Debian 10", "deb http://a/debian buster main\ndeb http://s/debian-security buster/updates main\n", "",
			"http://a/debian",
			"http://a/debian", "http://s/debian-security http://a/debian-security"},
		{"vendors beside Debian", "deb [signed-by=/k/docker.gpg] " +
			"https://download.example.com/linux/debian bookworm stable\n" +
			"deb [arch=amd64 signed-by=/k/ms.gpg] https://packages.example.com/debian/12/prod bookworm main\n" +
			"deb http://apt.example.org/ bookworm-pgdg main\ndeb http://flat/ ./\n", deb822,
			"http://deb.example.org/debian https://packages.example.com/debian/12/prod",
			"http://deb.example.org/debian https://packages.example.com/debian/12/prod",
			"http://deb.example.org/debian-security"},
		{"Ubuntu",
			"deb http://archive.example.com/ubuntu noble main universe\n" +
				"deb http://security.example.com/ubuntu noble-security main\n", "", "", "", ""},
		{"no apt", "", "", "", "", ""},
		{"installation medium alone", "deb cdrom:[Debian GNU/Linux 12]/ bookworm main\n", "", "", "", ""},
		{"snapshot", "deb http://snapshot.example.org/archive/debian/20250520T000000Z/ bookworm main\n", "",
			"http://snapshot.example.org/archive/debian/20250520T000000Z/",
			"http://snapshot.example.org/archive/debian/20250520T000000Z/",
			"http://snapshot.example.org/archive/debian-security/20250520T000000Z/"},
		{"disabled", "#deb http://a/debian bookworm main\n", "Enabled: no\n" + deb822[:strings.Index(deb822, "\n\n")+1], "",
			"", ""},
		{"password", "deb http://user:secret@a/debian bookworm main\n", "", "http://user:xxxxx@a/debian",
			"http://user:xxxxx@a/debian",
			"http://user:xxxxx@a/debian-security"},
		{"only contrib", "deb http://a/debian bookworm contrib\n", "", "", "", ""},
	} {
		dir := t.TempDir()
		must(t, os.Mkdir(filepath.Join(dir, "sources.list.d"), 0o755))
		must(t, os.WriteFile(filepath.Join(dir, "sources.list"), []byte(c.list), 0o644))
		must(t, os.WriteFile(filepath.Join(dir, "sources.list.d", "debian.sources"), []byte(c.sources), 0o644))
		s := newTestStore(t, "")
		s.options.AptDir = dir
		for suite, want := range map[string]string{"bookworm": c.main, "bookworm-updates": c.updates,
			"bookworm-security": c.security} {
			mirrors, err := s.mirrorsFor(context.Background(), suite)
			var got []string
			for _, m := range mirrors {
				got = append(got, m.String())
			}
			if strings.Join(got, " ") != want {
				t.Errorf("%s: mirrors for %s = %q; want %q", c.name, suite, got, want)
			}
			if want != "" {
				continue
			}
			if !errors.Is(err, ErrNoMirror) || !strings.Contains(err.Error(), "--mirror http://MIRROR/debian") {
				t.Errorf("%s: mirrors for %s: error %v; want ErrNoMirror with the flags to give", c.name, suite, err)
			}
		}
	}
}

func TestParseMirror(t *testing.T) {
	dir := t.TempDir()
	must(t, os.Mkdir(filepath.Join(dir, "dists"), 0o755))
	flat := t.TempDir()
	for _, c := range []struct{ given, want string }{
		{"http://a/debian", "http://a/debian"},
		{"https://a:8443", "https://a:8443"},
		{"file:" + dir, "file://" + dir},
		{"file://" + dir + "/", "file://" + dir},
		{"file://localhost" + dir, "file://" + dir},
		{dir, "file://" + dir},
		{flat, flat},
	} {
		m, err := parseMirror(c.given)
		if err != nil || m.String() != c.want {
			t.Errorf("parseMirror(%q) = %v, %v; want %s", c.given, m, err, c.want)
		}
	}
	for _, given := range []string{"ftp://a/debian", "http:///debian", "file://host/debian", "file:relative",
		"http://a b/", "/dev/null",
		filepath.Join(dir, "none"), "deb.example.org:80", "\x00"} {
		if m, err := parseMirror(given); err == nil {
			t.Errorf("parseMirror(%q) = %v; want an error", given, m)
		}
	}
}

// Names of the pool keep their letters on the way through an address.
func TestMirrorFile(t *testing.T) {
	const name = "pool/main/e/e2fsprogs/e2fsprogs_1.47.0-2+b2~x_amd64.deb"
	base, err := url.Parse("http://a/debian/")
	must(t, err)
	if got := (mirror{base: base}).file(name); got.Path != "/debian/"+name || got.String() != "http://a/debian/"+name {
		t.Errorf("file = %s", got)
	}
}

func TestDefaultCacheDir(t *testing.T) {
	for _, c := range []struct{ xdg, home, want string }{
		{"/x", "/h", "/x/rempart"}, {"relative", "/h", "/h/.cache/rempart"}, {"", "/h", "/h/.cache/rempart"}, {"", "",
			"/var/cache/rempart"},
	} {
		t.Setenv("XDG_CACHE_HOME", c.xdg)
		t.Setenv("HOME", c.home)
		if got := defaultCacheDir(); got != c.want {
			t.Errorf("defaultCacheDir with XDG_CACHE_HOME %q, HOME %q = %s; want %s", c.xdg, c.home, got, c.want)
		}
	}
}
