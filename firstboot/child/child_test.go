package child

import (
	"bytes"
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"rempart/firstboot/contract/identity"
	"rempart/profiles"
)

func TestParseInjections(t *testing.T) {
	got,
		err := ParseInjections("slow:policy:3s,panic:link,fail:link,hog:control,fill:log,,slow:x,nonsense,slow:y:-1s,fail:," +
		"panic:z:1s,slow:w:11m")
	want := map[string]Injection{"policy": {Slow: 3 * time.Second}, "link": {Panic: true, Fail: true},
		"control": {Hog: true}, "log": {Fill: true}}
	if !maps.Equal(got, want) {
		t.Errorf("ParseInjections = %+v; want %+v", got, want)
	}
	for _, bad := range []string{"slow:x", "nonsense", "slow:y:-1s", "fail:", "panic:z:1s", "slow:w:11m"} {
		if err == nil || !strings.Contains(err.Error(), `"`+bad+`"`) {
			t.Errorf("ParseInjections says %v; want it to name %q", err, bad)
		}
	}
	for name, in := range want {
		back, err := ParseInjections(in.String(name))
		if err != nil || back[name] != in {
			t.Errorf("ParseInjections(%q) = %+v, %v; want %+v", in.String(name), back, err, in)
		}
	}
}

func TestMessages(t *testing.T) {
	for line, good := range map[string]bool{
		`{"ready":true}`:                true,
		`{"ready":true,"profile":"ab"}`: true,
		`{"profile":"ab"}`:              false,
		`{"ready":true,"profile":"` + strings.Repeat("a", maxDigest+1) + `"}`: false,
		`{"key":"policy","value":"closed"}`:                                   true,
		`{"key":"links","value":[]}`:                                          true,
		`{}`:                                                                  false,
		`{"ready":true,"key":"x","value":1}`:                                  false,
		`{"key":"policy"}`:                                                    false,
		`{"value":1}`:                                                         false,
		`{"key":"policy","value":1} {}`:                                       false,
		`{"key":"policy","value":1,"other":2}`:                                false,
		`[]`:                                                                  false,
		`nonsense`:                                                            false,
		``:                                                                    false,
		`{"key":"` + strings.Repeat("k", MaxKey+1) + `","value":1}`:    false,
		`{"key":"k","value":"` + strings.Repeat("v", MaxLine) + `"}`:   false,
		`{"key":"k","value":` + strings.Repeat("[", MaxLine-100) + `}`: false,
	} {
		_, err := DecodeMessage([]byte(line))
		if (err == nil) != good || err != nil && !errors.Is(err, ErrMessage) {
			t.Errorf("DecodeMessage(%.60q) = %v; want good %v", line, err, good)
		}
	}
}

func TestTellerWritesWhatDecodes(t *testing.T) {
	var b, log bytes.Buffer
	ready, tell := teller(&b, slog.New(newHandler(&log)))
	tell(KeyWarning, "two\nlines")
	ready("abc")
	tell("big", strings.Repeat("x", MaxLine))
	tell("impossible", func() {})
	lines := strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n")
	if len(lines) != 2 {
		t.Fatalf("wrote %d lines, want 2: %.200q", len(lines), b.String())
	}
	m, err := DecodeMessage([]byte(lines[0]))
	var text string
	if err != nil || m.Key != KeyWarning || json.Unmarshal(m.Value, &text) != nil || text != "two\nlines" {
		t.Errorf("told %+v, %v; want the warning", m, err)
	}
	if m, err := DecodeMessage([]byte(lines[1])); err != nil || !m.Ready || m.Profile != "abc" {
		t.Errorf("told %+v, %v; want ready for abc", m, err)
	}
	if n := strings.Count(log.String(), "error: PID 1 was not told"); n != 2 {
		t.Errorf("logged %d failures, want 2: %s", n, log.String())
	}
}

func TestLogIsOneLineARecord(t *testing.T) {
	var b bytes.Buffer
	log := slog.New(newHandler(&b)).With("a", 1).WithGroup("g")
	log.Info("two\nlines", "k", "v w", "e", errors.New("x"))
	log.Warn("w")
	log.Error("e", "empty", "")
	want := "two; lines a=1 g.k=\"v w\" g.e=x\nwarning: w a=1\nerror: e a=1 g.empty=\"\"\n"
	if b.String() != want {
		t.Errorf("log = %q; want %q", b.String(), want)
	}
}

func FuzzMessage(f *testing.F) {
	f.Add([]byte(`{"key":"links","value":[{"name":"lan0"}]}`))
	f.Add([]byte(`{"ready":true}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		m, err := DecodeMessage(line)
		if err != nil {
			return
		}
		out, err := m.Encode()
		if err != nil {
			// Escaping may lengthen a value beyond the line's bound; nothing else may fail.
			if len(line) < MaxLine/8 {
				t.Errorf("Encode of what was decoded from %q: %v", line, err)
			}
			return
		}
		if _, err := DecodeMessage(bytes.TrimSuffix(out, []byte("\n"))); err != nil {
			t.Errorf("DecodeMessage(%q) = %v after a round trip", out, err)
		}
	})
}

func FuzzInjections(f *testing.F) {
	f.Add("slow:policy:3s,panic:link,fail:link")
	f.Fuzz(func(t *testing.T, s string) {
		got, _ := ParseInjections(s)
		for name, in := range got {
			if in.Slow < 0 || in.Slow > maxSlow || name == "" {
				t.Errorf("ParseInjections(%q)[%q] = %+v", s, name, in)
			}
		}
	})
}

// TestFactsAreNotTrusted: what reads the identity's public part neither waits, nor takes what no identity says.
func TestFactsAreNotTrusted(t *testing.T) {
	root := t.TempDir()
	path := filepath.Join(root, identity.FactsPath)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	text := func(s string) func() error {
		return func() error { return os.WriteFile(path, []byte(s), 0o600) }
	}
	for _, tt := range []struct {
		name string
		lay  func() error
		want string // empty: taken
	}{
		{"none", func() error { return nil }, ""},
		{"good", text(`{"hostname":"fw-2"}`), ""},
		{"a host name that is none", text(`{"hostname":"not a name"}`), "host name"},
		{"too large", text(strings.Repeat(" ", maxFacts+1)), "more than"},
		{"a pipe", func() error { return syscall.Mkfifo(path, 0o600) }, "no regular file"},
		{"a link", func() error { return os.Symlink("/dev/zero", path) }, "too many levels"},
	} {
		if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		if err := tt.lay(); err != nil {
			t.Fatal(err)
		}
		var p profiles.Profile
		err := ApplyIdentity(root, &p)
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v; want %q", tt.name, err, tt.want)
		}
	}
}
