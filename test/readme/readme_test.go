// Package readme runs every command of README.md as a reader would: the blocks of shell one after the other, in one
// folder, with the rempart that `make` built. What a person does at the console of a guest, the test does.
//
// What it deliberately does not do: run `make test`, which runs this.
package readme

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"rempart/firstboot/contract"
	"rempart/test/rig"
)

// patience bounds each block: building, booting in software and trying packets take well under a minute each.
const patience = 5 * time.Minute

// block is a fenced block of shell.
type block struct {
	line int
	text string
}

func readme(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(rig.Top(), "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// blocks are those of README.md; a block that is not of shell is an error, for nobody would run it.
func blocks(t *testing.T) []block {
	t.Helper()
	var all []block
	var open *block
	n := 0
	for line := range strings.Lines(readme(t)) {
		n++
		fence, isFence := strings.CutPrefix(strings.TrimSpace(line), "```")
		switch {
		case isFence && open != nil:
			all, open = append(all, *open), nil
		case isFence:
			if fence != "sh" {
				t.Errorf("README.md:%d: a block of %q; want sh, so that it is run", n, fence)
			}
			open = &block{line: n + 1}
		case open != nil:
			open.text += line
		}
	}
	if open != nil {
		t.Errorf("README.md:%d: a block that does not end", open.line)
	}
	return all
}

// TestCommands runs the blocks.
func TestCommands(t *testing.T) {
	dir := t.TempDir()
	bin := binaries(t)
	env := append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"))
	at := append(env, reader(t)...)
	// The guests that are created live here, and not on after this.
	at = append(at, "REMPART_GUESTS="+filepath.Join(dir, "guests"))
	t.Cleanup(func() {
		stop := exec.Command(filepath.Join(bin, "rempart"), "stop", "--now", "fw")
		stop.Env = at
		_ = stop.Run() // it was stopped by the README, or was never made
	})
	all := blocks(t)
	seen := map[string]bool{}
	for _, b := range all {
		ok := t.Run(fmt.Sprintf("line %d", b.line), func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			cmd := exec.CommandContext(ctx, "bash", "-eu", "-c", b.text)
			cmd.Dir, cmd.Env = dir, env
			command := strings.TrimSpace(b.text)
			seen[command] = true
			switch {
			case command == "make test":
				cmd = exec.CommandContext(ctx, "make", "--dry-run", "test")
				cmd.Dir = rig.Top()
				if out := output(t, cmd); !strings.Contains(out, "test/all\n") {
					t.Errorf("make --dry-run test prints %q; want test/all", out)
				}
			case command == "make run":
				cmd.Dir = rig.Top()
				if out := output(t, cmd); !strings.Contains(out, "EXPECTED") || !strings.Contains(out, "flows, all right") {
					t.Errorf("make run prints %s; want a table of flows, all right", out)
				}
			case strings.HasPrefix(command, "rempart run "):
				cmd.Env = at
				atConsole(t, cmd, func() {})
			case strings.HasPrefix(command, "rempart create "):
				cmd.Env = at
				output(t, cmd)
			case speaksToGuest.MatchString(command):
				// In another terminal, the text says: the guest runs meanwhile.
				cmd.Env = at
				run := exec.CommandContext(ctx, filepath.Join(bin, "rempart"), "run", "fw-1")
				run.Dir, run.Env = dir, at
				atConsole(t, run, func() { output(t, cmd) })
			default:
				output(t, cmd)
			}
		})
		if !ok {
			t.Fatalf("README.md:%d failed; what follows may build on it", b.line)
		}
	}
	for _, must := range []string{"make run", "make test"} {
		if !seen[must] {
			t.Errorf("README.md does not show %q in a block of its own", must)
		}
	}
	for _, made := range []string{"fw.yaml", "rempart.schema.json", "fw-1/system.raw", "fw-1/system.qcow2", "my.lock"} {
		if info, err := os.Stat(filepath.Join(dir, made)); err != nil || info.Size() == 0 {
			t.Errorf("after all commands %s is %v, %v; want it there", made, info, err)
		}
	}
}

// binaries is a folder for PATH with rempart in it. When the mirror has forgotten what the lock names, the README's
// commands would be refused as they should; then a renewed lock is used and that is said.
func binaries(t *testing.T) string {
	t.Helper()
	bin := rig.Rempart(t)
	trial := exec.Command(bin, "build", "home-firewall", "--output", filepath.Join(t.TempDir(), "trial"))
	out, err := trial.CombinedOutput()
	if err == nil {
		return filepath.Dir(bin)
	}
	if !strings.Contains(string(out), "rempart lock") {
		t.Fatalf("rempart build home-firewall: %v\n%s", err, out)
	}
	fmt.Printf("NOTE: the mirror has forgotten locked versions; README's commands run with --renew-lock:\n%s", out)
	dir := t.TempDir()
	script := "#!/bin/sh\ncase $1 in build|run|test|commit) set -- \"$@\" --renew-lock ;; esac\nexec " + bin + " \"$@\"\n"
	if err := os.WriteFile(filepath.Join(dir, "rempart"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func output(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%q: %v\n%s", cmd.Args, err, out)
	}
	return string(out)
}

// speaksToGuest are the commands for a guest that runs.
var speaksToGuest = regexp.MustCompile(`(?m)^rempart (ctl|ssh|apply|confirm|undo|commit|diff) `)

// reader is the environment of somebody who has an SSH key, and packages in the cache.
func reader(t *testing.T) []string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	home := t.TempDir()
	if err := os.Mkdir(filepath.Join(home, ".ssh"), 0o700); err != nil {
		t.Fatal(err)
	}
	output(t, exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(home, ".ssh/id_ed25519")))
	return []string{"HOME=" + home, "XDG_RUNTIME_DIR=" + home, "XDG_CACHE_HOME=" + cache, "SSH_AUTH_SOCK="}
}

// atConsole waits at the console of `rempart run` for READY, has something done, and leaves by Ctrl-], as the README
// says; the guest must then switch itself off and the command succeed.
func atConsole(t *testing.T, cmd *exec.Cmd, do func()) {
	t.Helper()
	keys, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	console := &watch{want: "\n" + contract.ReadyPrefix, found: make(chan struct{})}
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = console, &said
	// When the time is up, the guest ends in order, as by any signal.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = time.Minute
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case <-console.found:
	case err := <-ended:
		t.Fatalf("%q ended before the guest was READY: %v\n%s\n%s", cmd.Args, err, console, said.String())
	}
	do()
	if _, err := io.WriteString(keys, "\x1d"); err != nil {
		t.Error(err)
	}
	if err := <-ended; err != nil {
		t.Errorf("%q = %v after Ctrl-]; want an orderly end\n%s\n%s", cmd.Args, err, console, said.String())
	}
}

// watch is a writer that tells when it has seen a text.
type watch struct {
	mu    sync.Mutex
	all   bytes.Buffer
	want  string
	found chan struct{}
	done  bool
}

func (w *watch) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.all.Write(b)
	if !w.done && bytes.Contains(w.all.Bytes(), []byte(w.want)) {
		w.done = true
		close(w.found)
	}
	return len(b), nil
}

func (w *watch) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.all.String()
}

// TestEveryCommandIsShown holds the README's own words against what there is: each `rempart X` and `make X` exists,
// and each link inside the tree leads somewhere.
func TestEveryCommandIsShown(t *testing.T) {
	text := readme(t)
	help := output(t, exec.Command(rig.Rempart(t), "help"))
	for _, m := range regexp.MustCompile("(?m)(?:^|`)rempart ([a-z]+)").FindAllStringSubmatch(text, -1) {
		if !strings.Contains(help, "\n  "+m[1]+" ") && m[1] != "help" {
			t.Errorf("README.md names `rempart %s`, which rempart help does not", m[1])
		}
	}
	makefile, err := os.ReadFile(filepath.Join(rig.Top(), "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile("(?m)(?:^|`)make ([a-z]+)").FindAllStringSubmatch(text, -1) {
		if !regexp.MustCompile(`(?m)^` + m[1] + `:`).Match(makefile) {
			t.Errorf("README.md names `make %s`, which the Makefile does not have", m[1])
		}
	}
	for _, m := range regexp.MustCompile(`\]\(([^)#]+)\)`).FindAllStringSubmatch(text, -1) {
		if strings.Contains(m[1], "://") {
			continue
		}
		if _, err := os.Stat(filepath.Join(rig.Top(), m[1])); err != nil {
			t.Errorf("README.md links to %s: %v", m[1], err)
		}
	}
}
