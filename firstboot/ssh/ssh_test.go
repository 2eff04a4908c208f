package ssh

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// echo are commands of tests: "echo WORDS", "status N", "wait", "cat", "err".
type echo struct{}

func (echo) Shell(context.Context, string, int, int) (Shell, error) { return nil, nil }

func (echo) Prompt() string { return "gw [read-only]" }

func (echo) Run(ctx context.Context, c Call) int {
	switch c.Args[0] {
	case "echo":
		fmt.Fprintln(c.Stdout, strings.Join(c.Args[1:], "|"))
	case "status":
		var n int
		fmt.Sscan(c.Args[1], &n)
		fmt.Fprintln(c.Stderr, "so be it")
		return n
	case "wait":
		fmt.Fprintln(c.Stdout, "waiting")
		<-ctx.Done()
		return exitFailed
	case "much":
		for range 1 << 10 {
			if _, err := c.Stdout.Write(make([]byte, 1<<10)); err != nil {
				return exitFailed
			}
		}
	default:
		return exitUsage
	}
	return 0
}

func newKey(t *testing.T) (ssh.Signer, []byte) {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(private, "test")
	if err != nil {
		t.Fatal(err)
	}
	return signer, pem.EncodeToMemory(block)
}

// logText is a log that a test reads while it is written.
type logText struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logText) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logText) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// running is a server on the loopback.
type running struct {
	*server
	addr string
	host ssh.PublicKey
	log  *logText
}

func startServer(t *testing.T, keys ...ssh.Signer) *running {
	t.Helper()
	host, _ := newKey(t)
	var all []key
	for _, k := range keys {
		all = append(all, key{k.PublicKey(), "of a test"})
	}
	log := &logText{}
	s := newServer(slog.New(slog.NewTextHandler(log, nil)), host, echo{})
	s.keys.Store(&all)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("serve = %v", err)
			}
		case <-time.After(time.Minute):
			t.Error("the server does not end")
		}
	})
	return &running{s, l.Addr().String(), host.PublicKey(), log}
}

func (r *running) dial(t *testing.T, auth ...ssh.AuthMethod) (*ssh.Client, error) {
	t.Helper()
	c, err := ssh.Dial("tcp", r.addr, &ssh.ClientConfig{User: "anyone", Auth: auth,
		HostKeyCallback: ssh.FixedHostKey(r.host), Timeout: 10 * time.Second})
	if err == nil {
		t.Cleanup(func() { c.Close() })
	}
	return c, err
}

func TestCommands(t *testing.T) {
	k, _ := newKey(t)
	c, err := startServer(t, k).dial(t, ssh.PublicKeys(k))
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		line, stdout, stderr string
		status               int
	}{
		{`echo a 'b c' "d"\ e`, "a|b c|d e\n", "", 0},
		{"status 7", "", "so be it\n", 7},
		{"", "", "", 0},
		{"nonsense", "", "", exitUsage},
		{"echo 'open", "", errQuote.Error() + "\n", exitUsage},
		{"echo \x1b", "", "a control character, 0x1b\n", exitUsage},
		{"echo " + strings.Repeat("x", maxCommand), "", "a command of 4101 bytes; at most 4096\n", exitUsage},
	} {
		s, err := c.NewSession()
		if err != nil {
			t.Fatal(err)
		}
		var out, errOut bytes.Buffer
		s.Stdout, s.Stderr = &out, &errOut
		status := 0
		var exit *ssh.ExitError
		if err := s.Run(x.line); errors.As(err, &exit) {
			status = exit.ExitStatus()
		} else if err != nil {
			t.Errorf("%.40q: %v", x.line, err)
		}
		if out.String() != x.stdout || errOut.String() != x.stderr || status != x.status {
			t.Errorf("%.40q = %q, %q, %d; want %q, %q, %d", x.line, out.String(), errOut.String(), status, x.stdout,
				x.stderr, x.status)
		}
		s.Close()
	}
}

// TestRefused: everything that is not a session with a command or a prompt.
func TestRefused(t *testing.T) {
	k, _ := newKey(t)
	c, err := startServer(t, k).dial(t, ssh.PublicKeys(k))
	if err != nil {
		t.Fatal(err)
	}
	if conn, err := c.Dial("tcp", "127.0.0.1:1"); err == nil {
		conn.Close()
		t.Error("a forwarded connection was opened")
	}
	if l, err := c.Listen("tcp", "127.0.0.1:0"); err == nil {
		l.Close()
		t.Error("the server listens for its client")
	}
	if _, err := c.ListenUnix("/tmp/x"); err == nil {
		t.Error("the server listens on a socket for its client")
	}
	s, err := c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Setenv("LC_ALL", "C"); err == nil {
		t.Error("an environment variable was taken")
	}
	if err := s.RequestSubsystem("sftp"); err == nil {
		t.Error("a subsystem was started")
	}
	for _, kind := range []string{"x11-req", "auth-agent-req@openssh.com", "break"} {
		if ok, err := s.SendRequest(kind, true, nil); ok || err != nil {
			t.Errorf("%s = %v, %v; want it refused", kind, ok, err)
		}
	}
	if err := s.Start("echo x"); err != nil {
		t.Errorf("after all that a command = %v", err)
	}
	if ok, _ := s.SendRequest("exec", true, ssh.Marshal(struct{ C string }{"echo y"})); ok {
		t.Error("a second command was started in one session")
	}
}

func TestSessionsAreBounded(t *testing.T) {
	k, _ := newKey(t)
	c, err := startServer(t, k).dial(t, ssh.PublicKeys(k))
	if err != nil {
		t.Fatal(err)
	}
	for i := range maxSessions {
		s, err := c.NewSession()
		if err != nil {
			t.Fatalf("session %d: %v", i+1, err)
		}
		out, err := s.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Start("wait"); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(out, make([]byte, len("waiting\n"))); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.NewSession(); err == nil {
		t.Errorf("session %d was opened", maxSessions+1)
	}
}

// TestClientGoesAway: a command that waits, or writes to nobody, ends with its connection (or startServer's end fails).
func TestClientGoesAway(t *testing.T) {
	k, _ := newKey(t)
	r := startServer(t, k)
	for _, line := range []string{"wait", "much"} {
		c, err := r.dial(t, ssh.PublicKeys(k))
		if err != nil {
			t.Fatal(err)
		}
		s, err := c.NewSession()
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Start(line); err != nil {
			t.Fatal(err)
		}
		c.Close()
	}
	// A signal ends a command too.
	c, err := r.dial(t, ssh.PublicKeys(k))
	if err != nil {
		t.Fatal(err)
	}
	s, err := c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start("wait"); err != nil {
		t.Fatal(err)
	}
	if err := s.Signal(ssh.SIGINT); err != nil {
		t.Fatal(err)
	}
	var exit *ssh.ExitError
	if err := s.Wait(); !errors.As(err, &exit) || exit.ExitStatus() != exitFailed {
		t.Errorf("a command that was sent a signal = %v; want exit status %d", err, exitFailed)
	}
}

func TestOnlyKeysGetIn(t *testing.T) {
	good, _ := newKey(t)
	bad, _ := newKey(t)
	r := startServer(t, good)
	asked := false
	for name, auth := range map[string][]ssh.AuthMethod{
		"no key":    nil,
		"wrong key": {ssh.PublicKeys(bad)},
		"password": {ssh.PasswordCallback(func() (string, error) {
			asked = true
			return "secret", nil
		})},
		"questions": {ssh.KeyboardInteractive(func(string, string, []string, []bool) ([]string, error) {
			asked = true
			return nil, nil
		})},
	} {
		if c, err := r.dial(t, auth...); err == nil {
			c.Close()
			t.Errorf("%s: logged in", name)
		}
	}
	if asked {
		t.Error("a password was asked for")
	}
	for end := time.Now().Add(time.Minute); strings.Count(r.log.String(), "login failed")+
		strings.Count(r.log.String(), "without a login") < 4; {
		if time.Now().After(end) {
			t.Fatalf("the log tells of fewer than 4 failures:\n%s", r.log)
		}
		time.Sleep(10 * time.Millisecond)
	}
	c, err := r.dial(t, ssh.PublicKeys(bad, good))
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	// The server may tell later than the client knows.
	want := ssh.FingerprintSHA256(good.PublicKey())
	for end := time.Now().Add(time.Minute); !strings.Contains(r.log.String(), want); {
		if time.Now().After(end) {
			t.Fatalf("the log does not name the key %s:\n%s", want, r.log)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// TestOldAlgorithmsAreRefused: what a client must not be talked down to.
func TestOldAlgorithmsAreRefused(t *testing.T) {
	k, _ := newKey(t)
	for name, config := range map[string]ssh.Config{
		"sha1":    {KeyExchanges: []string{ssh.InsecureKeyExchangeDH14SHA1}},
		"group14": {KeyExchanges: []string{ssh.KeyExchangeDH14SHA256}},
		"cbc":     {Ciphers: []string{ssh.InsecureCipherAES128CBC}},
		"rc4":     {Ciphers: []string{ssh.InsecureCipherRC4}},
		"mac":     {Ciphers: []string{ssh.CipherAES128CTR}, MACs: []string{ssh.InsecureHMACSHA196}},
	} {
		r := startServer(t, k)
		_, err := ssh.Dial("tcp", r.addr, &ssh.ClientConfig{Config: config, User: "x", Auth: []ssh.AuthMethod{
			ssh.PublicKeys(k)}, HostKeyCallback: ssh.FixedHostKey(r.host)})
		if err == nil || !strings.Contains(err.Error(), "no common algorithm") {
			t.Errorf("%s: %v; want no common algorithm", name, err)
		}
	}
}

func TestHostKeyAndKeysOfFiles(t *testing.T) {
	root := t.TempDir()
	if _, err := hostKey(root); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("hostKey without a file = %v; want ErrNotExist", err)
	}
	lay := func(name, text string) {
		t.Helper()
		file := filepath.Join(root, "run/rempart/identity/ssh", name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	lay("host_ed25519", "a SECRET that is no key")
	if _, err := hostKey(root); err == nil || strings.Contains(err.Error(), "SECRET") {
		t.Errorf("hostKey of rubbish = %v; want an error without the file's text", err)
	}
	k, text := newKey(t)
	lay("host_ed25519", string(text))
	if got, err := hostKey(root); err != nil || !bytes.Equal(got.PublicKey().Marshal(), k.PublicKey().Marshal()) {
		t.Errorf("hostKey = %v, %v", got, err)
	}
	line := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(k.PublicKey())))
	keys, err := parseKeys([]byte("# two\n" + line + " alice\n\nfrom=\"x\" " + line + "\nrubbish\n" + line))
	if len(keys) != 2 || keys[0].comment != "alice" || err == nil || !strings.Contains(err.Error(), "line 4: options") ||
		!strings.Contains(err.Error(), "line 5: no public key") {
		t.Errorf("parseKeys = %v, %v", keys, err)
	}
}

func TestShortKeysAreRefused(t *testing.T) {
	for bits, want := range map[uint]bool{1024: false, 2040: false, 2047: false, 2048: true, 4096: true} {
		k, err := ssh.NewPublicKey(&rsa.PublicKey{N: new(big.Int).SetBit(big.NewInt(1), int(bits)-1, 1), E: 65537})
		if err != nil {
			t.Fatal(err)
		}
		if got := strong(k); got != want {
			t.Errorf("strong(RSA of %d bits) = %v; want %v", bits, got, want)
		}
	}
}

func FuzzSplit(f *testing.F) {
	f.Add(`echo 'a b' "c" \d`)
	f.Fuzz(func(t *testing.T, line string) {
		words, err := split(line)
		if err != nil {
			return
		}
		var quoted []string
		for _, w := range words {
			quoted = append(quoted, "'"+strings.ReplaceAll(w, "'", `'\''`)+"'")
		}
		if again := strings.Join(quoted, " "); len(again) <= maxCommand {
			if back, err := split(again); err != nil || strings.Join(back, "\x00") != strings.Join(words, "\x00") {
				t.Errorf("split(%q) = %q; quoted again %q, %v", line, words, back, err)
			}
		}
	})
}

func FuzzKeys(f *testing.F) {
	f.Add([]byte("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPn4I3QJnptlXp+8r2uIYzChpKXdy2ViiUBqZC8uOya7 x\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		keys, _ := parseKeys(b)
		for _, k := range keys {
			if !strong(k) {
				t.Errorf("parseKeys(%q) took a key of type %s", b, k.Type())
			}
		}
	})
}

// TestProfileChanges: the session of the one who changes the profile goes on; who may log in is the new profile's say.
func TestProfileChanges(t *testing.T) {
	alice, _ := newKey(t)
	bob, _ := newKey(t)
	r := startServer(t, alice)
	c, err := r.dial(t, ssh.PublicKeys(alice))
	if err != nil {
		t.Fatal(err)
	}
	r.keys.Store(&[]key{{bob.PublicKey(), "bob"}})
	if _, err := r.dial(t, ssh.PublicKeys(alice)); err == nil {
		t.Error("a key that is no more in the profile was let in")
	}
	if _, err := r.dial(t, ssh.PublicKeys(bob)); err != nil {
		t.Errorf("a new key: %v", err)
	}
	s, err := c.NewSession()
	if err != nil {
		t.Fatalf("the session before the change: %v", err)
	}
	defer s.Close()
	if out, err := s.Output("echo on"); err != nil || string(out) != "on\n" {
		t.Errorf("the session before the change = %q, %v", out, err)
	}
}
