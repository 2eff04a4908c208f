package aptconf

import (
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// write makes an apt configuration directory of files by name.
func write(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func read(t testing.TB, files map[string]string) *Config {
	t.Helper()
	c, problems, err := Read(write(t, files))
	if err != nil || len(problems) > 0 {
		t.Fatalf("Read = %v, %v; want no problem", problems, err)
	}
	return c
}

// confs are configurations that apt takes.
var confs = map[string]map[string]string{
	"nothing":  {},
	"one line": {"apt.conf": `Acquire::http::Proxy "http://proxy:3128/";`},
	"braces": {"apt.conf": `Acquire { http { Proxy "http://a:1"; Proxy::host.example "DIRECT"; };
		https::Proxy "http://b:2" ; }; `},
	"comments": {"apt.conf": "// one\n/* two\n lines */ Acquire::http::Proxy /* x */ \"http://c:3\"; # three\n# four\n"},
	"order": {"apt.conf.d/10a": `Acquire::http::Proxy "http://first:1";`,
		"apt.conf.d/20b.conf":     `acquire::HTTP::proxy "http://second:2";`,
		"apt.conf.d/30c.dpkg-old": `Acquire::http::Proxy "http://ignored:3";`,
		"apt.conf.d/.hidden":      `Acquire::http::Proxy "http://ignored:4";`},
	"main last": {"apt.conf.d/10a": `Acquire::http::Proxy "http://part:1";`, "apt.conf": `Acquire::http::Proxy "DIRECT";`},
	"clear": {"apt.conf.d/10": `Acquire::http::Proxy "http://p:1"; Acquire::http::Proxy::h "http://q:2";`,
		"apt.conf.d/20": "#clear Acquire::http;\nAcquire::https::Proxy \"http://r:3\";"},
	"lists": {"apt.conf": `DPkg::Post-Invoke { "rm -f /x || true"; "second { ; }"; };
		Acquire::Languages:: "none"; APT::NeverAutoRemove { "^a"; "b"; }; Acquire::http::Proxy "http://d:4";`},
	"unquoted": {"apt.conf": "Acquire::http::Timeout 10;\nAcquire::http::Proxy proxy.example:8080;"},
}

// TestAsAptReadsIt compares with apt-config(8).
func TestAsAptReadsIt(t *testing.T) {
	if _, err := exec.LookPath("apt-config"); err != nil {
		t.Skip("SKIPPED, NOT PASSED: not compared with apt: apt-config is missing (Debian package apt)")
	}
	names := []string{"Acquire::http::Proxy", "Acquire::https::Proxy", "Acquire::http::Proxy::host.example",
		"Acquire::http::Proxy::h", "Acquire::http::Timeout"}
	for what, files := range confs {
		c := read(t, files)
		dir := write(t, files)
		main := filepath.Join(t.TempDir(), "main")
		if err := os.WriteFile(main, []byte(`Dir::Etc "`+dir+`";`), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			cmd := exec.Command("apt-config", "shell", "v", name)
			cmd.Env = append(os.Environ(), "APT_CONFIG="+main)
			out, err := cmd.Output()
			if err != nil {
				t.Fatalf("%s: apt-config: %v: %s", what, err, out)
			}
			want := strings.TrimSuffix(strings.TrimPrefix(strings.TrimSpace(string(out)), "v='"), "'")
			if got := c.Get(name); got != want {
				t.Errorf("%s: Get(%s) = %q; apt reads %q", what, name, got, want)
			}
		}
	}
}

func TestMalformed(t *testing.T) {
	for text, want := range map[string]string{
		`A "x`:                       "line 1: a quotation mark is missing",
		"\nA::B { C \"d\";":          "line 2: the file ends",
		"A \"b\"":                    "line 1: the file ends",
		`};`:                         "never opened",
		`A b c d;`:                   "4 words",
		strings.Repeat("a{", 100):    "braces inside each other",
		strings.Repeat("x", maxFile): "",
	} {
		dir := write(t, map[string]string{"apt.conf": text, "apt.conf.d/a": `Acquire::http::Proxy "http://p:1";`})
		c, problems, err := Read(dir)
		if err != nil || len(problems) != 1 || !strings.Contains(problems[0].Error(), want) ||
			!strings.Contains(problems[0].Error(), "apt.conf") {
			t.Errorf("Read of %.20q: %v, %v; want one problem with %q", text, problems, err, want)
		}
		if got := c.Get("Acquire::http::Proxy"); got != "http://p:1" {
			t.Errorf("Read of %.20q: the sound file says %q; want it to count", text, got)
		}
	}
	if _, problems, err := Read(write(t, map[string]string{"apt.conf": strings.Repeat(" ", maxFile+1)})); err != nil ||
		len(problems) != 1 || !strings.Contains(problems[0].Error(), "larger than") {
		t.Errorf("Read of a huge file: %v, %v; want it refused", problems, err)
	}
	if c, problems, err := Read(filepath.Join(t.TempDir(), "none")); err != nil || len(problems) > 0 || c.Get("a") != "" {
		t.Errorf("Read of no directory = %v, %v, %v; want an empty configuration", c, problems, err)
	}
	if _, _, err := Read(filepath.Join(write(t, map[string]string{"apt.conf.d": ""}))); err == nil {
		t.Error("Read where apt.conf.d is a file = nil error; want one")
	}
}

func parse(t *testing.T, address string) *url.URL {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func TestProxy(t *testing.T) {
	const both = `Acquire::http::Proxy "http://a:1"; Acquire::https::Proxy "http://b:2";
		Acquire::http::Proxy::near "DIRECT"; Acquire::http::Proxy::far "socks5h://u:p@c:3";`
	for _, tt := range []struct{ conf, address, want string }{
		{"", "http://h/", "unset"},
		{both, "http://h/", "http://a:1"},
		{both, "https://h/", "http://b:2"},
		{both, "http://near:80/x", "none"},
		{both, "https://near/", "none"},
		{both, "http://far/", "socks5h://u:p@c:3"},
		{both, "file:///x", "unset"},
		{`Acquire::http::Proxy "http://a:1";`, "https://h/", "http://a:1"},
		{`Acquire::http::Proxy "proxy:3128";`, "http://h/", "http://proxy:3128"},
		{`Acquire::http::Proxy "direct";`, "http://h/", "none"},
		{`Acquire::http::Proxy "ftp://u:secret@a";`, "http://h/", "error"},
		{`Acquire::http::Proxy "http://u:secret@";`, "http://h/", "error"},
		{`Acquire::http::Proxy "http://[u:secret";`, "http://h/", "error"},
	} {
		c := read(t, map[string]string{"apt.conf": tt.conf})
		u, set, err := c.Proxy(parse(t, tt.address))
		got := "none"
		switch {
		case err != nil:
			if got = "error"; strings.Contains(err.Error(), "secret") {
				t.Errorf("Proxy of %s shows a password: %v", tt.conf, err)
			}
		case u != nil:
			got = u.String()
		case !set:
			got = "unset"
		}
		if got != tt.want {
			t.Errorf("Proxy(%s) with %s = %s, %v; want %s", tt.address, tt.conf, got, err, tt.want)
		}
	}
	c := read(t, map[string]string{"apt.conf": `Acquire::http::Proxy "http://a:1";`,
		"auth.conf": "machine http://a login me password it"})
	if u, _, err := c.Proxy(parse(t, "http://h/")); err != nil || u.String() != "http://me:it@a:1" {
		t.Errorf("Proxy = %v, %v; want its login from auth.conf", u, err)
	}
	c = read(t, map[string]string{"apt.conf": `Acquire::http::Proxy-Auto-Detect "/bin/x";`})
	if c.AutoDetect() != "/bin/x" || read(t, nil).AutoDetect() != "" {
		t.Errorf("AutoDetect = %q; want the program, and none where there is none", c.AutoDetect())
	}
}

// The addresses and entries of apt_auth.conf(5), and what it does not show.
func TestLogin(t *testing.T) {
	const address = "https://example.org/debian/dists/x"
	for entry, want := range map[string]bool{
		"machine example.org login apt password debian":                              true,
		"machine example.org\nlogin apt\n\tpassword debian\n":                        true,
		"machine example.org/deb login apt password debian":                          true,
		"machine example.org/debian login apt password debian":                       true,
		"machine example.org/debian/ login apt password debian":                      true,
		"machine https://example.org login apt password debian":                      true,
		"machine EXAMPLE.org colour red login apt password debian":                   true,
		"machine a login x password y machine example.org login apt password debian": true,
		"machine example.org:443 login apt password debian":                          false,
		"machine example.org/deb/ login apt password debian":                         false,
		"machine example.org/ubuntu login apt password debian":                       false,
		"machine example.orga login apt password debian":                             false,
		"machine example.net login apt password debian":                              false,
		"machine http://example.org login apt password debian":                       false,
		"# machine example.org login apt password debian":                            false,
		"login apt password debian":                                                  false,
		"machine example.org":                                                        false,
		"machine":                                                                    false,
		"machine / login apt password debian":                                        false,
	} {
		c := read(t, map[string]string{"auth.conf.d/a.conf": entry})
		user := c.Login(parse(t, address))
		if got := user != nil; got != want || got && user.String() != "apt:debian" {
			t.Errorf("Login with %q = %v; want apt:debian: %v", entry, user, want)
		}
	}
	c := read(t, map[string]string{"auth.conf": "machine http://[2001:db8::1]:81 login first password a",
		"auth.conf.d/b.conf": "machine http://[2001:db8::1] login second password b",
		"auth.conf.d/c":      "machine http://c login ignored password c"})
	for address, want := range map[string]string{"http://[2001:db8::1]:81/": "first:a",
		"http://[2001:db8::1]/": "second:b", "http://c/": "", "https://[2001:db8::1]/": ""} {
		got := ""
		if user := c.Login(parse(t, address)); user != nil {
			got = user.String()
		}
		if got != want {
			t.Errorf("Login(%s) = %q; want %q", address, got, want)
		}
	}
}

func FuzzConfig(f *testing.F) {
	for _, files := range confs {
		for _, text := range files {
			f.Add(text)
		}
	}
	f.Fuzz(func(t *testing.T, text string) {
		c := &Config{values: map[string]string{}}
		_ = c.parse(text) // any text may be wrong
		for name := range c.values {
			if strings.ToLower(name) != name {
				t.Errorf("the name %q is not in lower case and never found", name)
			}
		}
		c.logins = parseLogins(text)
		u := &url.URL{Scheme: "https", Host: "h", Path: "/"}
		if proxy, set, err := c.Proxy(u); proxy != nil && (!set || err != nil || proxy.Host == "") {
			t.Errorf("Proxy = %v, %v, %v; want a proxy with a host, or none", proxy, set, err)
		}
		c.Login(u)
	})
}
