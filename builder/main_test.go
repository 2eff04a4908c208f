package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/spf13/pflag"

	"rempart/firstboot/contract"
)

func TestUsage(t *testing.T) {
	for _, c := range []struct {
		args   string
		code   int
		stdout string // begins so; empty: nothing at all
		stderr string // has this; empty: nothing at all
	}{
		{"", exitUsage, "", "Usage: rempart COMMAND"},
		{"help", exitDone, "rempart turns", ""},
		{"-h", exitDone, "rempart turns", ""},
		{"--help", exitDone, "rempart turns", ""},
		{"help build", exitDone, "build a master", ""},
		{"build --help", exitDone, "build a master", ""},
		{"build -h", exitDone, "build a master", ""},
		{"help biuld", exitUsage, "", `there is no command "biuld"; did you mean "build"?`},
		{"help build run", exitUsage, "", "expected one command"},
		{"biuld", exitUsage, "", `there is no command "biuld"; did you mean "build"?`},
		{"hlep", exitUsage, "", `did you mean "help"?`},
		{"frobnicate", exitUsage, "", "`rempart help` lists them"},
		{"--mirror x build", exitUsage, "", `expected a command before the option "--mirror"`},
		{"build home-firewall", exitUsage, "", "want --output DIR, or --publish; see `rempart help build`"},
		{"build --fromat raw", exitUsage, "", `unknown flag: --fromat; did you mean "--format"?; see`},
		{"build -q", exitUsage, "", "unknown shorthand flag: 'q' in -q; see `rempart help build`"},
		{"build home-firewall -o x --size nonsense", exitUsage, "", "--size"},
		{"build home-firewall -o x --format vhd", exitUsage, "", "--format vhd: want raw, qcow2"},
		{"run home-firewall --firmware coreboot", exitUsage, "", "--firmware"},
		{"run home-firewall --memory many", exitUsage, "", "--memory"},
		{"test home-firewall --accel fpga", exitUsage, "", "--accel"},
		{"test", exitUsage, "", "want one profile"},
		{"policy show", exitUsage, "", "expected show or explain and one profile"},
		{"policy shwo home-firewall", exitUsage, "", "expected show or explain and one profile"},
		{"version x", exitUsage, "", "expected no arguments"},
		{"completion", exitUsage, "", "expected one of bash, zsh, fish"},
		{"completion tcsh", exitUsage, "", `no script for the shell "tcsh"`},
	} {
		code, out, errs := rempart(strings.Fields(c.args)...)
		if code != c.code || !strings.HasPrefix(out, c.stdout) || (c.stdout == "") != (out == "") ||
			!strings.Contains(errs, c.stderr) || (c.stderr == "") != (errs == "") {
			t.Errorf("rempart %s = %d, %q, %q; want %d, %q..., ...%q...", c.args, code, out, errs, c.code, c.stdout, c.stderr)
		}
		if c.args != "" && strings.Count(errs, "\n") > 1 {
			t.Errorf("rempart %s prints %q; want one line for an error", c.args, errs)
		}
	}
}

// TestHelpFits holds the help of every command to what a terminal shows, and to telling of every option.
func TestHelpFits(t *testing.T) {
	for _, cmd := range commands() {
		code, out, _ := rempart("help", cmd.name)
		if code != exitDone {
			t.Errorf("rempart help %s = %d; want 0", cmd.name, code)
		}
		usage, _, _ := strings.Cut(out, "\nOptions:\n")
		for line := range strings.Lines(usage) {
			if len(line) > 121 {
				t.Errorf("rempart help %s has a line of %d characters: %s", cmd.name, len(line)-1, line)
			}
		}
		flags := pflag.NewFlagSet(cmd.name, pflag.ContinueOnError)
		cmd.setup(flags)
		flags.VisitAll(func(f *pflag.Flag) {
			if !strings.Contains(out, "--"+f.Name) || f.Usage == "" {
				t.Errorf("rempart help %s does not tell what --%s is", cmd.name, f.Name)
			}
		})
	}
}

func TestVersion(t *testing.T) {
	for _, call := range []string{"version", "--version"} {
		code, out, errs := rempart(call)
		want := "rempart " + contract.Version + ", " + runtime.Version() + "\n"
		if code != exitDone || errs != "" || !strings.HasPrefix(out, want) {
			t.Errorf("rempart %s = %d, %q, %q; want 0 and both versions", call, code, out, errs)
		}
	}
	code, out, _ := rempart("version", "--json")
	var v versionResult
	if err := json.Unmarshal([]byte(out), &v); err != nil || code != exitDone || v.Version != contract.Version {
		t.Errorf("rempart version --json = %d, %s: %v", code, out, err)
	}
	_, text, _ := rempart("version")
	for _, g := range v.Guests {
		if len(g.SHA256) != 64 || !strings.Contains(text, g.Name+" for "+g.Arch+"  sha256:"+g.SHA256) {
			t.Errorf("rempart version = %q; want the digest of %+v", text, g)
		}
	}
}

// fullDisk takes some bytes and then nothing more.
type fullDisk struct{ room int }

var errFull = errors.New("no space left on device")

func (f *fullDisk) Write(b []byte) (int, error) {
	n := min(len(b), f.room)
	f.room -= n
	if n < len(b) {
		return n, errFull
	}
	return n, nil
}

// TestStandardOutputFull shows that no command takes half of what it printed for all of it.
func TestStandardOutputFull(t *testing.T) {
	for _, args := range []string{"help", "help build", "version", "version --json", "schema", "new", "new home-firewall",
		"check home-firewall", "check --json home-firewall", "policy show home-firewall", "completion bash",
		"completion zsh", "completion fish"} {
		_, whole, _ := rempart(strings.Fields(args)...)
		for _, room := range []int{0, len(whole) / 2, len(whole) - 1} {
			var errs bytes.Buffer
			c := &console{in: strings.NewReader(""), out: &fullDisk{room}, err: &errs}
			code := run(context.Background(), c, strings.Fields(args))
			if code != exitFailed || strings.Count(errs.String(), errFull.Error()) != 1 {
				t.Errorf("rempart %s with room for %d of %d bytes = %d, %q; want 1 and one line that says why", args, room,
					len(whole), code, errs.String())
			}
		}
		var errs bytes.Buffer
		c := &console{in: strings.NewReader(""), out: &fullDisk{len(whole)}, err: &errs}
		if code := run(context.Background(), c, strings.Fields(args)); code != exitDone || errs.Len() > 0 {
			t.Errorf("rempart %s with just enough room = %d, %q; want 0", args, code, errs.String())
		}
	}
}

func TestReport(t *testing.T) {
	for _, tt := range []struct {
		err  error
		code int
		want string
	}{
		{nil, exitDone, ""},
		{errors.New("the sky fell"), exitFailed, "rempart x: the sky fell\n"},
		{usageError{"want more"}, exitUsage, "rempart x: want more; see `rempart help x`\n"},
		{fmt.Errorf("somewhere: %w", errDifferent), exitDifferent, ""},
	} {
		var errs bytes.Buffer
		if code := report(&console{err: &errs}, "x", tt.err); code != tt.code || errs.String() != tt.want {
			t.Errorf("report(%v) = %d, %q; want %d, %q", tt.err, code, errs.String(), tt.code, tt.want)
		}
	}
}

// TestInterrupted breaks off a call in the middle of a download that would never end.
func TestInterrupted(t *testing.T) {
	asked := make(chan struct{})
	var once sync.Once
	mirror := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		once.Do(func() { close(asked) })
		<-r.Context().Done()
	}))
	defer mirror.Close()
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	dir := t.TempDir()
	for _, args := range [][]string{
		{"build", "home-firewall", "--mirror", mirror.URL, "--output", filepath.Join(dir, "out")},
		{"lock", "--mirror", mirror.URL, "--output", filepath.Join(dir, "a.lock")},
	} {
		ctx, interrupt := context.WithCancel(context.Background())
		go func() {
			<-asked
			interrupt()
		}()
		var out, errs bytes.Buffer
		code := run(ctx, &console{in: strings.NewReader(""), out: &out, err: &errs}, args)
		if want := "rempart " + args[0] + ": interrupted\n"; code != exitFailed || out.Len() > 0 || errs.String() != want {
			t.Errorf("rempart %s, interrupted = %d, %q, %q; want 1 and %q", args[0], code, out.String(), errs.String(), want)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("what was interrupted left %v, %v", left, err)
	}
}
