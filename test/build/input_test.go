package build

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// sound is a profile without a fault.
const sound = "rempart: 1\nname: fw\nlinks: {a: {address: 10.0.0.1/24}}\nzones: {home: a}\nadmin: {from: home}\n"

// badInput is a profile in which each line of want is wrong: the place, and what must be said of it.
var badInput = []struct {
	name, profile string
	want          []string
}{
	{"empty", "", []string{"1:1: the profile is empty"}},
	{"unknown keys", "rempart: 1\nname: fw\nlinks:\n  a: {address: 10.0.0.1/24, mtuu: 1500}\nzones: {home: a}\n" +
		"admin: {from: home}\nzonez: {}\n",
		[]string{`4:29: links.a: unknown key "mtuu"; did you mean "mtu"?`, `7:1: unknown key "zonez"`}},
	{"wrong types", "rempart: 1\nname: [fw]\nmemory: {}\nlinks: {a: 7}\nzones: {home: a}\nadmin: {from: home}\n",
		[]string{"2:7: name", "3:9: memory", "4:12: links.a"}},
	{"overlapping subnets", "rempart: 1\nname: fw\nlinks:\n  a: {address: 10.0.0.1/16}\n  b: {address: 10.0.1.1/24}\n" +
		"zones: {home: a, dmz: b}\nadmin: {from: home}\n", []string{"5:16: links.b"}},
	{"duplicate names", "rempart: 1\nname: fw\nlinks:\n  a: {address: 10.0.0.1/24}\n  a: {address: 10.0.1.1/24}\n" +
		"zones: {home: a}\nadmin: {from: home}\n", []string{"5:3:"}},
	{"duplicate MACs", "rempart: 1\nname: fw\nlinks:\n  a: {address: 10.0.0.1/24, mac: \"52:54:00:00:00:01\"}\n" +
		"  b: {address: 10.0.1.1/24, mac: \"52:54:00:00:00:01\"}\nzones: {home: a, dmz: b}\nadmin: {from: home}\n",
		[]string{"5:34: links.b"}},
	{"gateway off its subnet", "rempart: 1\nname: fw\nlinks:\n  a: {address: 10.0.0.1/24, gateway: 192.0.2.1}\n" +
		"zones: {home: a}\nadmin: {from: home}\n", []string{"4:38: links.a"}},
	{"ports out of range", sound + "forwards:\n  - {from: home, to: 10.0.0.2, tcp: [0, 65536]}\n",
		[]string{"7:38: forwards.tcp", "7:41: forwards.tcp"}},
	{"link name of 16 bytes", "rempart: 1\nname: fw\nlinks: {abcdefghijklmnop: {address: 10.0.0.1/24}}\n" +
		"zones: {home: abcdefghijklmnop}\nadmin: {from: home}\n", []string{"3:9:"}},
	{"10 MB", sound + strings.Repeat("# nothing but comment, and a lot of it\n", 270_000),
		[]string{"1:1: the profile is larger"}},
	{"binary junk", junk(), []string{"1:1: "}},
	{"deep nesting", strings.Repeat("[", 100_000), []string{""}},
	{"aliases", strings.Replace(sound, "name: fw", "name: &n fw", 1) + "kernel: *n\n", []string{"2:7:", "6:9:"}},
	{"several at once", "rempart: 1\nname: fw-1_\nmemory: 1K\nlinks:\n  a: {address: 10.0.0.1/33}\nzones: {home: b}\n" +
		"admin: {from: hom}\n", []string{"2:7:", "3:9:", "5:16:", "6:15:", "7:15:"}},
}

// junk is the same at each run.
func junk() string {
	b := make([]byte, 64<<10)
	random := rand.NewChaCha8([32]byte{1})
	random.Read(b)
	return "\x7fELF" + string(b)
}

// place is what follows the name of the file in a finding.
var place = regexp.MustCompile(`^:\d+:\d+: .`)

// TestBadInput gives what is wrong to every command that reads a profile: a line for each error with its place, exit
// status 2, and nothing written anywhere.
func TestBadInput(t *testing.T) {
	good := exec.Command(rempart(t), "check", "-")
	good.Stdin = strings.NewReader(sound)
	if out, err := good.CombinedOutput(); err != nil {
		t.Fatalf("rempart check of the profile the others are made from: %v\n%s", err, out)
	}
	for _, in := range badInput {
		t.Run(in.name, func(t *testing.T) {
			dir := t.TempDir()
			file := filepath.Join(dir, "bad.yaml")
			if err := os.WriteFile(file, []byte(in.profile), 0o600); err != nil {
				t.Fatal(err)
			}
			var first string
			for _, args := range [][]string{{"check", file}, {"build", file, "--output", filepath.Join(dir, "out")},
				{"policy", "show", file}, {"run", file}, {"test", file}} {
				got := refused(t, dir, nil, args...)
				lines := strings.Split(strings.TrimSuffix(got, "\n"), "\n")
				for _, line := range lines {
					if !place.MatchString(strings.TrimPrefix(line, file)) || len(line) > 1000 ||
						strings.ContainsFunc(line, func(r rune) bool { return r < ' ' || r == 0x7f }) {
						t.Errorf("rempart %s prints %q; want lines of FILE:LINE:COLUMN: what is wrong", args[0], line)
					}
				}
				for _, w := range in.want {
					if !strings.Contains("\n"+got, "\n"+file+":"+w) {
						t.Errorf("rempart %s prints %q; want a line that begins with %s:%s", args[0], got, file, w)
					}
				}
				if len(in.want) != len(lines) {
					t.Errorf("rempart %s prints %d lines; want %d:\n%s", args[0], len(lines), len(in.want), got)
				}
				if first == "" {
					first = got
				}
				if got != first {
					t.Errorf("rempart %s prints %q; want what rempart check prints: %q", args[0], got, first)
				}
			}
			// The same by standard input has another name and the same places.
			fromPipe := refused(t, dir, []byte(in.profile), "check", "-")
			if n := strings.Count(fromPipe, "\n"); n != len(in.want) {
				t.Errorf("rempart check - prints %d lines; want %d:\n%s", n, len(in.want), fromPipe)
			}
		})
	}
}

// refused runs rempart, which must exit with 2, print to standard error alone and write nothing. It returns what it
// printed.
func refused(t *testing.T, dir string, stdin []byte, args ...string) string {
	t.Helper()
	var out, errs bytes.Buffer
	cmd := exec.Command(rempart(t), args...)
	cmd.Dir, cmd.Stdin, cmd.Stdout, cmd.Stderr = dir, bytes.NewReader(stdin), &out, &errs
	cmd.Env = append(os.Environ(), "HOME="+dir, "XDG_STATE_HOME="+dir, "XDG_CACHE_HOME="+dir, "TMPDIR="+dir)
	err := cmd.Run()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 2 || out.Len() > 0 {
		t.Errorf("rempart %s = %v, %q, %q; want exit status 2 and nothing on standard output", args, err, out.String(),
			errs.String())
	}
	left, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range left {
		if e.Name() != "bad.yaml" {
			t.Errorf("rempart %s leaves %s", args, e.Name())
		}
	}
	return errs.String()
}
