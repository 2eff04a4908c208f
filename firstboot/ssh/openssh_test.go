package ssh

import (
	"bytes"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
)

// openssh runs a program of OpenSSH's client and returns what it said and its exit status.
func openssh(t *testing.T, name string, args ...string) (stdout, stderr string, status int) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		t.Skipf("SKIPPED, NOT PASSED: %v", err)
	}
	cmd := exec.CommandContext(t.Context(), name, args...)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return out.String(), errOut.String(), exit.ExitCode()
	}
	if err != nil {
		t.Fatal(err)
	}
	return out.String(), errOut.String(), 0
}

// TestOpenSSH has OpenSSH's own client judge.
func TestOpenSSH(t *testing.T) {
	good, goodFile := newKey(t)
	_, badFile := newKey(t)
	r := startServer(t, good)
	dir := t.TempDir()
	lay := func(name string, b []byte) string {
		t.Helper()
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	_, port, err := net.SplitHostPort(r.addr)
	if err != nil {
		t.Fatal(err)
	}
	hosts := lay("known_hosts", []byte("[127.0.0.1]:"+port+" "+string(ssh.MarshalAuthorizedKey(r.host))))
	run := func(key []byte, args ...string) (string, string, int) {
		t.Helper()
		return openssh(t, "ssh", append([]string{"-F", "none", "-p", port, "-i", lay("key", key),
			"-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none", "-o", "UserKnownHostsFile=" + hosts,
			"-o", "GlobalKnownHostsFile=none", "-o", "StrictHostKeyChecking=yes", "-o", "BatchMode=yes",
			"-o", "ConnectTimeout=10"}, args...)...)
	}
	const denied = 255 // ssh(1): an error of its own
	for _, c := range []struct {
		name   string
		key    []byte
		args   []string
		stdout string // the whole
		stderr string // a part
		status int
	}{
		{"a command", goodFile, []string{"127.0.0.1", "echo", "a", "'b c'"}, "a|b c\n", "", 0},
		{"an exit status", goodFile, []string{"admin@127.0.0.1", "status", "42"}, "", "so be it", 42},
		{"no such command", goodFile, []string{"127.0.0.1", "ls"}, "", "", exitUsage},
		{"a terminal for a command", goodFile, []string{"-tt", "127.0.0.1", "echo", "x"}, "x\n", "", 0},
		{"the wrong key", badFile, []string{"127.0.0.1", "echo", "a"}, "", "Permission denied (publickey)", denied},
		{"a password", badFile, []string{"-o", "PreferredAuthentications=password,keyboard-interactive", "127.0.0.1", "echo"},
			"", "Permission denied (publickey)", denied},
		{"an old key exchange", goodFile, []string{"-o", "KexAlgorithms=diffie-hellman-group14-sha256", "127.0.0.1", "echo"},
			"", "no matching key exchange method", denied},
		{"an old cipher", goodFile, []string{"-c", "aes128-cbc", "127.0.0.1", "echo"}, "", "no matching cipher", denied},
		{"an old code", goodFile, []string{"-c", "aes128-ctr", "-m", "hmac-sha1", "127.0.0.1", "echo"}, "", "no matching MAC",
			denied},
		{"the newest key exchange OpenSSH 9.2 has", goodFile, []string{"-o", "KexAlgorithms=curve25519-sha256", "127.0.0.1",
			"echo"}, "\n", "", 0},
		{"a tunnel", goodFile, []string{"-W", "127.0.0.1:" + port, "127.0.0.1"}, "", "only sessions are served", denied},
		{"a forwarded port", goodFile, []string{"-o", "ExitOnForwardFailure=yes", "-R", "0:127.0.0.1:1", "127.0.0.1", "echo"},
			"", "remote port forwarding failed", denied},
		{"a file", goodFile, []string{"-s", "127.0.0.1", "sftp"}, "", "subsystem request failed", denied},
	} {
		out, errOut, status := run(c.key, c.args...)
		if out != c.stdout || !strings.Contains(errOut, c.stderr) || status != c.status {
			t.Errorf("%s = %q, %q, %d; want %q, %q, %d", c.name, out, errOut, status, c.stdout, c.stderr, c.status)
		}
		r.sources.reset() // each of these is the first of its source
	}
	out, _, _ := openssh(t, "ssh-keyscan", "-p", port, "127.0.0.1")
	if want := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(r.host))); strings.Count(out, "\n") != 1 ||
		!strings.Contains(out, want) {
		t.Errorf("ssh-keyscan found %q; want only %q", out, want)
	}
}

// reset makes every source a new one.
func (s *sources) reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.all)
}
