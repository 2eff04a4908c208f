package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"rempart/profiles"
)

// TestCompletion asks the shells themselves what can follow a line, with the script rempart prints for each.
func TestCompletion(t *testing.T) {
	ask := map[string]func(t *testing.T, script, dir string, line []string) []string{
		"bash": askBash, "zsh": askZsh, "fish": askFish,
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "my fw.yaml"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, s := range shells() {
		t.Run(s.name, func(t *testing.T) {
			if _, err := exec.LookPath(s.name); err != nil {
				t.Fatalf("%s is missing: apt-get install %s", s.name, s.name)
			}
			code, text, errs := rempart("completion", s.name)
			if code != exitDone || errs != "" {
				t.Fatalf("rempart completion %s = %d, %q; want 0", s.name, code, errs)
			}
			script := filepath.Join(t.TempDir(), "script")
			if err := os.WriteFile(script, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			for _, c := range []struct {
				line     []string // the last word is the one that is completed
				want, no []string
			}{
				{[]string{"b"}, []string{"build"}, []string{"run", "my fw.yaml"}},
				{[]string{""}, []string{"build", "run", "test", "help", "version"}, []string{"my fw.yaml"}},
				{[]string{"build", "--fo"}, []string{"--format"}, []string{"--firmware", "--output"}},
				{[]string{"build", "--format", ""}, []string{"raw", "qcow2"}, []string{"bios", "home-firewall"}},
				{[]string{"run", "--firmware", "u"}, []string{"uefi"}, []string{"user", "--until-ready"}},
				{[]string{"check", "h"}, []string{"home-firewall"}, []string{"help"}},
				{[]string{"check", "m"}, []string{"my fw.yaml"}, []string{"home-firewall"}},
				{[]string{"help", "lo"}, []string{"lock"}, []string{"my fw.yaml"}},
				{[]string{"help", "build", "--fo"}, nil, []string{"--format"}},
				{[]string{"completion", ""}, shellNames(), []string{"my fw.yaml", "build"}},
				{[]string{"schema", ""}, nil, []string{"my fw.yaml", "home-firewall"}},
				{[]string{"policy", "show", "h"}, profiles.Builtin()[slices.Index(profiles.Builtin(), "home-firewall"):][:1], nil},
			} {
				got := ask[s.name](t, script, dir, c.line)
				for _, w := range c.want {
					if !slices.Contains(got, w) {
						t.Errorf("%s completes %q with %q; want %q among it", s.name, c.line, got, w)
					}
				}
				for _, w := range c.no {
					if slices.Contains(got, w) {
						t.Errorf("%s completes %q with %q; want no %q", s.name, c.line, got, w)
					}
				}
			}
		})
	}
}

// TestCompletionKnowsEverything holds the scripts against the commands and their options.
func TestCompletionKnowsEverything(t *testing.T) {
	for _, s := range shells() {
		_, text, _ := rempart("completion", s.name)
		for _, c := range completions() {
			if !strings.Contains(text, c.name) {
				t.Errorf("the script for %s lacks the command %s", s.name, c.name)
			}
			for _, o := range c.options {
				if long := strings.TrimPrefix(o.names[0], "--"); !strings.Contains(text, long) {
					t.Errorf("the script for %s lacks the option --%s of %s", s.name, long, c.name)
				}
			}
		}
	}
}

func askBash(t *testing.T, script, dir string, line []string) []string {
	return askShell(t, dir, "bash", append([]string{"--norc", "-c", `set -u; source "$1"; shift
COMP_WORDS=(rempart "$@"); COMP_CWORD=$#; COMPREPLY=(); _rempart
if ((${#COMPREPLY[@]})); then printf '%s\n' "${COMPREPLY[@]}"; fi`, "bash", script}, line...)...)
}

// askZsh stands in for the two builtins that work only while a person types.
func askZsh(t *testing.T, script, dir string, line []string) []string {
	out := askShell(t, dir, "zsh", append([]string{"-f", "-c", `compdef() { : }
compadd() { [[ $1 == -- ]] && shift; print -rl -- "$@" }
compset() { : }
_files() { print -rl -- *(N) }
source "$1"; shift
words=(rempart "$@"); CURRENT=$#words; _rempart`, "zsh", script}, line...)...)
	// zsh itself keeps what begins with the word typed
	return slices.DeleteFunc(out, func(s string) bool { return !strings.HasPrefix(s, line[len(line)-1]) })
}

func askFish(t *testing.T, script, dir string, line []string) []string {
	out := askShell(t, dir, "fish", "--no-config", "-c", `source $argv[1]; complete -C "$argv[2]"`, script,
		"rempart "+strings.Join(line, " "))
	for i := range out {
		out[i], _, _ = strings.Cut(out[i], "\t") // the description
		out[i] = strings.ReplaceAll(out[i], `\ `, " ")
	}
	return out
}

func askShell(t *testing.T, dir, name string, args ...string) []string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir = dir
	home := t.TempDir()
	cmd.Env = append(os.Environ(), "HOME="+home, "XDG_CONFIG_HOME="+home, "XDG_DATA_HOME="+home, "XDG_CACHE_HOME="+home)
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil || errs.Len() > 0 {
		t.Fatalf("%s: %v\n%s", name, err, errs.String())
	}
	return strings.Split(strings.TrimSuffix(string(out), "\n"), "\n")
}
