package run

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rempart/firstboot/contract"
	"rempart/test/rig"
)

// command is one call of rempart.
func (f *family) command(args ...string) *exec.Cmd {
	all := slices.Concat(f.within, []string{binary}, args)
	cmd := exec.Command(all[0], all[1:]...)
	cmd.Dir, cmd.Env = f.dir, f.env
	return cmd
}

// do runs rempart, whose exit status and words must be as told, and returns its words.
func (f *family) do(t *testing.T, code int, want string, args ...string) string {
	t.Helper()
	out, err := f.command(args...).CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !asExit(err, &exit) {
		t.Fatal(err)
	}
	got := 0
	if exit != nil {
		got = exit.ExitCode()
	}
	if got != code || !strings.Contains(string(out), want) {
		t.Errorf("rempart %s = %d\n%s\nwant %d and %q", strings.Join(args, " "), got, out, code, want)
	}
	return string(out)
}

func asExit(err error, exit **exec.ExitError) bool {
	e, ok := err.(*exec.ExitError)
	*exit = e
	return ok
}

// status is what `rempart status --json` tells of a guest.
func (f *family) status(t *testing.T, name string) (s struct {
	Phase, Why, SSH, Master, Previous string
	PID                               int
}) {
	t.Helper()
	out, _ := f.command("status", "--json", name).Output() // its exit status tells of failures
	if err := json.Unmarshal(out, &s); err != nil {
		t.Fatalf("rempart status --json %s: %v\n%s", name, err, out)
	}
	return s
}

// TestGuests is a life: a guest is made with a secret and a data disk, started, looked at from several sides, changed
// while it runs, stopped, killed, started again as the same guest, and taken off.
func TestGuests(t *testing.T) {
	t.Parallel()
	f := newFamilyWith(t, "disks: {logs: /srv/logs, www: {optional: true}}\n")
	const secret = "fd2a8c51"
	if err := rig.Blank(filepath.Join(f.dir, "logs.raw"), 32<<20); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{"secret": secret, "www.raw": strings.Repeat("data", 4096)} {
		if err := os.WriteFile(filepath.Join(f.dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { f.command("stop", "fw", "--now").Run() })
	create := []string{"create", "fw", "--store", f.dir + "/masters", "--master", "fw-1", "--firmware", "direct",
		"--accel", "tcg", "--key", f.key + ".pub", "--data", "www=www.raw", "--secret-from", "ssh/x=cat secret",
		"--keep", "/var/log/rempart"}
	f.do(t, 2, "want a name and --master", "create", "fw")
	f.do(t, 1, "no such master", "create", "fw", "--store", f.dir+"/masters", "--master", "nosuch")
	f.do(t, 1, "no such file", append(create, "--data", "x=nosuch")...)
	f.do(t, 0, "data disk logs: it is not attached", create...)
	f.do(t, 1, "would not be READY", "reprovision", "fw")
	f.do(t, 1, "data disk www: stays", "reprovision", "fw", "--dry-run")
	f.do(t, 0, "logs="+f.dir+"/logs.raw", "set", "fw", "--data", "logs=logs.raw")
	f.do(t, 1, "already", create...)
	f.do(t, 0, "stopped", "status", "fw")
	f.do(t, 2, "want what to change", "set", "fw")
	f.do(t, 2, "no NIC", "set", "fw", "--memory", "144M", "--net", "nosuch=none")
	f.do(t, 0, "fw: memory of the profile -> 144 MiB", "set", "fw", "--memory", "144M", "--cpus", "2")
	f.do(t, 0, "0 masters gone", "master", "prune", "--store", f.dir+"/masters")
	f.do(t, 1, "in use by a guest", "master", "rm", "fw-1", "--store", f.dir+"/masters")
	f.do(t, 0, "does not run", "stop", "fw")
	identity := f.private(t, secret)

	f.do(t, 0, "is READY", "start", "fw")
	f.do(t, 1, "runs", "start", "fw")
	f.do(t, 0, "waits for its next start", "set", "fw", "--memory", "profile", "--cpus", "1")
	f.do(t, 1, "stop it first", "rm", "fw")
	f.do(t, 1, "rempart create", "run", profile, "--name", "fw")
	f.do(t, 0, "ready", "list")
	for _, want := range []string{"fw, rempart", "on /srv/logs, formatted", "disk: www, foreign; nothing is on /srv/www"} {
		f.do(t, 0, want, "ctl", "fw", "status")
	}
	f.do(t, 0, "policy: loaded", "ssh", "--key", f.key, "fw", "status")
	f.do(t, 0, "runs what its master", "diff", "fw")
	first := f.status(t, "fw")
	if first.Phase != "ready" || first.SSH == "" || first.PID == 0 {
		t.Errorf("status of one that is ready = %+v", first)
	}
	f.atConsole(t)
	f.changes(t, first.Master)

	f.do(t, 0, "stopped", "stop", "fw")
	f.do(t, 0, "powered off", "status", "fw")
	if out, err := exec.Command("pgrep", "-f", f.dir+"/guests").CombinedOutput(); err == nil {
		t.Errorf("processes %s are left after the end", out)
	}
	if again := f.private(t, secret); !bytes.Equal(again, identity) {
		t.Error("the guest's addresses and keys changed with its first run")
	}

	now := f.status(t, "fw")
	if now.Master == first.Master || now.Previous != first.Master {
		t.Errorf("after a commit the master is %.12s, before it %.12s; want another than %.12s, and that one", now.Master,
			now.Previous, first.Master)
	}
	f.comesClean(t)
	f.do(t, 0, "runs what its master", "diff", "fw")
	now = f.status(t, "fw")
	f.isHeld(t, now.PID)
	if err := unix.Kill(now.PID, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	f.awaitPhase(t, "stopped")
	if s := f.status(t, "fw"); !strings.Contains(s.Why, "killed") {
		t.Errorf("status after the keeper was killed = %+v; want it to say so", s)
	}
	f.do(t, 0, "starts", "start", "--no-wait", "fw")
	f.do(t, 0, "stopped", "stop", "--now", "fw")
	f.movesHouse(t)
	f.isDescribed(t)
	f.do(t, 0, "disks stay", "rm", "fw")
	f.do(t, 1, "--adopt", create...)
	f.do(t, 0, "are gone", "rm", "--data", "fw")
	if b, err := os.ReadFile(filepath.Join(f.dir, "www.raw")); err != nil || string(b) != strings.Repeat("data", 4096) {
		t.Errorf("after rm --data the owner's own disk is %d bytes, %v; want it as it was", len(b), err)
	}
}

// comesClean plants an implant on the state disk of the guest, which is stopped, and has the guest reprovisioned by a
// command that is killed on the way: the implant is found and is in quarantine, the guest is READY without it, and what
// was declared worth keeping is there. Back and forth: taken back, the guest has it again.
func (f *family) comesClean(t *testing.T) {
	t.Helper()
	dir := filepath.Join(f.dir, "guests", "fw")
	state := filepath.Join(dir, "state.raw")
	f.do(t, 0, "0 suspect", "verify", "fw")
	debugfs(t, state, "cd tmp\nwrite "+filepath.Join(f.dir, "secret")+" rootkit\nsif rootkit mode 0104755\n")
	f.do(t, 3, "tmp/rootkit", "verify", "fw")
	f.keepsData(t)
	const logFile = "/log/rempart/00000000000000000001.log"
	logged := f.do(t, 0, "", "disk", "cat", state, logFile)
	f.do(t, 0, "/var/log/rempart", "reprovision", "fw", "--dry-run")
	f.do(t, 3, "tmp/rootkit", "verify", "fw") // nothing was changed

	s := newScreen()
	cmd := f.command("reprovision", "fw")
	cmd.Stdout, cmd.Stderr = s, s
	p := start(t, cmd)
	s.await(t, "starting fw")
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	p.exit(t, s)
	if !strings.Contains(s.String(), "found: /var/tmp/rootkit") {
		t.Errorf("the implant was not told of:\n%s", s)
	}
	f.do(t, 0, "PENDING", "status", "fw")
	f.do(t, 1, "rempart resume", "reprovision", "fw")
	f.losesTerminal(t)
	f.do(t, 1, "nothing is under way", "resume", "fw")
	f.do(t, 0, "rootkit", "quarantine", "show", "fw", "0001")
	f.do(t, 0, "identical to master", "verify", "fw")
	f.do(t, 0, "stopped", "stop", "fw")
	f.do(t, 0, "0 suspect", "verify", "fw")
	if now := f.do(t, 0, "", "disk", "cat", state, logFile); !strings.HasPrefix(now, logged) || logged == "" {
		t.Errorf("the kept log begins with %.60q; want all %d bytes of before, %.60q", now, len(logged), logged)
	}
	if out, err := exec.Command("e2fsck", "-fn", state).CombinedOutput(); err != nil {
		t.Errorf("e2fsck -fn of the state that was made here and used by the guest: %v\n%s", err, out)
	}

	f.do(t, 0, "not started", "rollback", "fw", "--no-start")
	f.do(t, 3, "tmp/rootkit", "verify", "fw")
	f.do(t, 1, "what should not be there", "upgrade", "fw", "--to", "fw-1")
	f.do(t, 3, "tmp/rootkit", "verify", "fw")
	f.do(t, 0, "READY", "reprovision", "fw", "--reset-state")
	f.hasData(t)
	f.do(t, 0, "3 entries gone", "quarantine", "prune", "fw", "--older-than", "0s")
}

// elsewhere is another home of the same user.
func (f *family) elsewhere(t *testing.T) *family {
	t.Helper()
	there := &family{dir: filepath.Join(f.dir, "there"), key: f.key,
		env: append(f.env[:len(f.env):len(f.env)], "REMPART_GUESTS="+f.dir+"/there/guests")}
	if err := os.Mkdir(there.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return there
}

// losesTerminal has what is under way finished by a command whose terminal is gone as soon as it has the guest's lock,
// as is whoever read its words. How it ended is learnt by watching it, in two other terminals.
func (f *family) losesTerminal(t *testing.T) {
	t.Helper()
	f.do(t, 1, "rempart resume fw", "watch", "fw") // the one that was killed
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	cmd := f.command("resume", "fw")
	cmd.Stdout, cmd.Stderr = write, write
	p := start(t, cmd)
	write.Close()
	for _, at := range []string{"lock", "progress"} {
		file := filepath.Join(f.dir, "guests", "fw", at)
		for deadline := time.Now().Add(rig.Patience); ; time.Sleep(time.Millisecond) {
			if b, err := os.ReadFile(file); err == nil && strings.Contains(string(b), "rempart resume") {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s does not say that rempart resume is at work", file)
			}
		}
		if at == "lock" {
			if err := cmd.Process.Signal(unix.SIGHUP); err != nil {
				t.Error(err)
			}
			read.Close()
		}
	}
	other := newScreen()
	watching := f.command("watch", "fw")
	watching.Stdout, watching.Stderr = other, other
	second := start(t, watching)
	f.do(t, 0, "READY on master", "watch", "fw")
	if code := second.exit(t, other); code != 0 || !strings.Contains(other.String(), "starting fw on master") {
		t.Errorf("the second watcher = %d\n%s\nwant 0, and what was done", code, other)
	}
	if code := p.exit(t, other); code < 0 {
		t.Errorf("rempart resume that lost its terminal = %v; want it ended by itself", cmd.ProcessState)
	}
	f.do(t, 0, "ready", "list")
}

// movesHouse writes the stopped guest as one file, and makes the same guest of it in another home with another store.
func (f *family) movesHouse(t *testing.T) {
	t.Helper()
	there := f.elsewhere(t)
	file, store := filepath.Join(f.dir, "fw.backup"), there.dir+"/masters"
	f.do(t, 0, "its master is", "backup", "fw", file)
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the backup is %v, %v; want it for its owner only", info, err)
	}
	there.do(t, 1, "rempart master export", "restore", file, "--store", store)
	master := filepath.Join(there.dir, "master")
	f.do(t, 0, "", "master", "export", f.status(t, "fw").Master, master, "--store", f.dir+"/masters")
	there.do(t, 0, "nobody trusted", "master", "import", master, "--allow-unsigned", "--store", store)
	there.do(t, 0, "is back", "restore", file, "--store", store)
	there.do(t, 1, "already", "restore", file, "--store", store)
	there.do(t, 0, "stopped", "status", "fw")
	for _, disk := range []string{"state.raw", "identity.raw"} {
		cmd := exec.Command("cmp", filepath.Join(f.dir, "guests", "fw", disk), filepath.Join(there.dir, "guests", "fw", disk))
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s is another after the move: %v\n%s", disk, err, out)
		}
	}
}

// isDescribed exports the stopped guest to libvirt, whose own schema judges it, and as a command that QEMU takes.
func (f *family) isDescribed(t *testing.T) {
	t.Helper()
	xml := filepath.Join(f.dir, "fw.xml")
	f.do(t, 0, "", "export", "fw", "--to", "libvirt", "--bridge", "lan0=br0", "--output", xml)
	if out, err := exec.Command("virt-xml-validate", xml, "domain").CombinedOutput(); err != nil {
		t.Errorf("virt-xml-validate: %v (apt package libvirt-clients)\n%s", err, out)
	}
	xl := f.do(t, 0, "on_crash", "export", "fw", "--to", "xl", "--bridge", "lan0=br0")
	for _, want := range []string{`name = "fw"`, "access=rw, target=" + f.dir + "/guests/fw/state.raw",
		"access=ro, target=" + f.dir + "/guests/fw/identity.raw", "bridge=br0",
		"vdev=xvdh, access=rw, target=" + f.dir + "/logs.raw", "vdev=xvdi, access=rw, target=" + f.dir + "/www.raw"} {
		if !strings.Contains(xl, want) {
			t.Errorf("for Xen the guest is described as\n%s\nwant %q in it", xl, want)
		}
	}
	line := f.do(t, 0, "qemu-system-x86_64", "export", "fw", "--to", "qemu")
	// Nothing of the guest runs (-S): the machine is built, and its monitor, behind Ctrl-A c, ends it. Until then the
	// guest's disks are another program's, and nobody looks at them or replaces them.
	cmd := exec.Command("/bin/sh", "-c", strings.TrimSpace(line)+" -S")
	s := newScreen()
	cmd.Stdout, cmd.Stderr = s, s
	keys, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	p := start(t, cmd)
	if _, err := keys.Write([]byte("\x01c")); err != nil {
		t.Fatal(err)
	}
	s.await(t, "(qemu)")
	const elsewhere = "another program runs the guest"
	f.do(t, 1, elsewhere, "status", "fw")
	f.do(t, 1, elsewhere, "start", "fw")
	f.do(t, 1, elsewhere, "reprovision", "fw")
	f.do(t, 1, elsewhere, "backup", "fw", filepath.Join(f.dir, "another.backup"))
	f.do(t, 1, elsewhere, "verify", "fw")
	if _, err := keys.Write([]byte("quit\n")); err != nil {
		t.Fatal(err)
	}
	if code := p.exit(t, s); code != 0 {
		t.Errorf("QEMU ended with %d\n%s\n%s", code, line, s)
	}
	f.do(t, 0, "stopped", "status", "fw")
}

// isHeld wants the hypervisor of a guest to have the lock that says it runs: it may outlive the process that keeps it.
func (f *family) isHeld(t *testing.T, keeper int) {
	t.Helper()
	children, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", keeper))
	if err != nil {
		t.Fatal(err)
	}
	lock := filepath.Join(f.dir, "rempart", "guests", "fw", "machine")
	for _, file := range children {
		b, err := os.ReadFile(file)
		if err != nil {
			continue // a thread that has ended
		}
		for _, pid := range strings.Fields(string(b)) {
			open, err := filepath.Glob(filepath.Join("/proc", pid, "fd", "*"))
			if err != nil {
				t.Fatal(err)
			}
			for _, fd := range open {
				if to, err := os.Readlink(fd); err == nil && to == lock {
					return
				}
			}
		}
	}
	t.Errorf("no child of process %d has %s open", keeper, lock)
}

// private looks whether all that is the guest's alone is for its owner only, and whether the secret is where it should
// be and nowhere else. It returns what must stay of the identity.
func (f *family) private(t *testing.T, secret string) []byte {
	t.Helper()
	var stays []byte
	dir := filepath.Join(f.dir, "guests", "fw")
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v; want it for its owner only", e.Name(), info.Mode())
		}
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		// As JSON has bytes, too: base64.
		found := bytes.Contains(b, []byte(secret)) || bytes.Contains(b, []byte("ZmQyYThjNTE"))
		if found != (e.Name() == "identity.raw") {
			t.Errorf("the secret is in %s: %v", e.Name(), found)
		}
		if e.Name() == "identity.raw" {
			stays, _, _ = bytes.Cut(b[48:], []byte(`,"seed"`)) // the header has a digest; the seed is another each time
		}
	}
	return stays
}

// atConsole looks at the console, types, and leaves by Ctrl-], after which the guest runs on.
func (f *family) atConsole(t *testing.T) {
	t.Helper()
	s := newScreen()
	cmd := f.command("console", "fw")
	cmd.Stdout, cmd.Stderr = s, s
	keys, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	p := start(t, cmd)
	s.await(t, contract.ReadyPrefix) // said before anybody looked
	if _, err := keys.Write([]byte{'\r', 0x1d}); err != nil {
		t.Fatal(err)
	}
	if code := p.exit(t, s); code != 0 {
		t.Errorf("exit status %d after Ctrl-]; want 0\n%s", code, s)
	}
	if phase := f.status(t, "fw").Phase; phase != "ready" {
		t.Errorf("after the console was left the guest is %s; want ready", phase)
	}
}

// changes applies a profile and commits it, which makes another master the guest's next.
func (f *family) changes(t *testing.T, before string) {
	t.Helper()
	text := strings.Replace(f.source(t), "tcp: [80, 443]", "tcp: [80, 443, 8443]", 1)
	other := strings.Replace(text, "/srv/logs", "/srv/x", 1)
	for name, text := range map[string]string{"new.yaml": text, "else.yaml": other} {
		if err := os.WriteFile(filepath.Join(f.dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	f.do(t, 1, "disks: data disks are mounted when the guest starts", "apply", "else.yaml", "fw")
	f.do(t, 0, "8443", "apply", "new.yaml", "fw", "--undo-after", "5m")
	f.do(t, 0, "confirmed", "confirm", "fw", "--key", f.key)
	f.do(t, 3, "8443", "diff", "fw")
	f.do(t, 0, "the next start of fw", "commit", "fw", "--renew-lock")
	f.do(t, 0, "runs what its master", "diff", "fw")
	f.do(t, 0, "0 masters gone", "master", "prune", "--store", f.dir+"/masters")
	f.do(t, 0, before[:12], "master", "list", "--store", f.dir+"/masters")
	f.do(t, 3, "+ profile forwards: ", "master", "diff", before, f.status(t, "fw").Master, "--store", f.dir+"/masters")
}

// awaitPhase waits, bounded, until a guest is in a phase: the kernel takes a moment to end what was killed.
func (f *family) awaitPhase(t *testing.T, want string) {
	t.Helper()
	last := ""
	for deadline := time.Now().Add(rig.Patience); time.Now().Before(deadline); {
		if last = f.status(t, "fw").Phase; last == want {
			return
		}
	}
	t.Fatal(fmt.Errorf("the guest is %s; want %s", last, want))
}
