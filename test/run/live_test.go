package run

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"rempart/firstboot/contract"
	"rempart/profiles"
	"rempart/test/rig"
)

// TestLive changes a running guest by the commands a person types: what changes is shown, it comes back by `undo`, it
// stays by `confirm`, and `commit` makes it what the guest boots next.
func TestLive(t *testing.T) {
	t.Parallel()
	dir := place(t)
	home := filepath.Dir(dir)
	env := []string{"PATH=" + os.Getenv("PATH"), "HOME=" + home, "XDG_RUNTIME_DIR=" + home, "XDG_CACHE_HOME=" + cache(t)}
	key := rig.NewKey(t).Write(t, home)
	write := func(name string, replace ...string) {
		t.Helper()
		src, err := profiles.BuiltinSource(profile)
		if err != nil {
			t.Fatal(err)
		}
		text := strings.NewReplacer(replace...).Replace(string(src))
		if err := os.WriteFile(filepath.Join(home, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	const ports, more = "tcp: [80, 443]", "tcp: [80, 443, 8443]"
	write("same.yaml")
	write("new.yaml", ports, more)
	write("memory.yaml", "memory: 128M", "memory: 256M")

	s := newScreen()
	cmd := exec.Command(binary, "run", dir, "--firmware", "direct", "--accel", "tcg", "--key", key+".pub")
	cmd.Env, cmd.Stdout, cmd.Stderr = env, s, s
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	guest := start(t, cmd)
	s.await(t, "\n"+contract.ReadyPrefix)

	for _, step := range []struct {
		args string
		exit int
		want string
	}{
		{"diff fw-1", 0, "runs what its master"},
		{"apply same.yaml fw-1", 0, "this very profile"},
		{"apply new.yaml fw-9", 1, "those that run are fw-1"},
		{"apply memory.yaml fw-1", 1, "memory: 128 MiB now, 256 MiB in the profile"},
		{"apply new.yaml fw-1 --undo-after 1s", 2, "want 5 s to 3600 s"},
		{"apply new.yaml fw-1 --dry-run", 0, "nothing was changed"},
		{"diff fw-1", 0, "runs what its master"},
		{"confirm fw-1 --key " + key, 1, "no change waits"},
		{"apply new.yaml fw-1", 0, "+1 forwards, -1 forwards; undone in 60 s unless you confirm: rempart confirm fw-1"},
		{"commit fw-1", 1, "waits to be confirmed"},
		{"undo fw-1", 0, "undone"},
		{"diff fw-1", 0, "runs what its master"},
		{"apply new.yaml fw-1 --undo-after 5m", 0, "8443"},
		{"confirm fw-1 --key " + key, 0, "confirmed"},
		{"diff fw-1", 3, "8443"},
		{"commit fw-1 --renew-lock", 0, "the next start of fw-1"},
		{"diff fw-1", 0, "runs what its master"},
		{"undo fw-1", 1, "no change waits"},
	} {
		cmd := exec.Command(binary, strings.Fields(step.args)...)
		cmd.Dir, cmd.Env = home, env
		out, err := cmd.CombinedOutput()
		if code := cmd.ProcessState.ExitCode(); code != step.exit || !strings.Contains(string(out), step.want) {
			t.Errorf("rempart %s = %d, %v\n%s\nwant %d and %q", step.args, code, err, out, step.exit, step.want)
		}
	}
	if _, err := stdin.Write([]byte{0x1d}); err != nil { // Ctrl-]
		t.Fatal(err)
	}
	if code := guest.exit(t, s); code != 0 {
		t.Errorf("exit status %d after Ctrl-]; want 0\n%s", code, s)
	}
}

// cache is where this user's packages are: they are the same for every test.
func cache(t *testing.T) string {
	t.Helper()
	dir, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}
