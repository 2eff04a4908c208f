package ssh

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// newKey is a key, and the file it is in, below a passphrase if there is one.
func newKey(t *testing.T, passphrase string) (ed25519.PrivateKey, ssh.Signer, string) {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if passphrase != "" {
		block, err = ssh.MarshalPrivateKeyWithPassphrase(private, "", []byte(passphrase))
	}
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	return private, signer, file
}

// serve is a guest: it takes one key, and runs "echo" (which also copies its input), "status 5" and
// "wait", which says so once its input has ended.
func serve(t *testing.T, host ssh.Signer, user ssh.PublicKey) (addr string) {
	t.Helper()
	config := &ssh.ServerConfig{PublicKeyCallback: func(_ ssh.ConnMetadata, k ssh.PublicKey) (*ssh.Permissions, error) {
		if !bytes.Equal(k.Marshal(), user.Marshal()) {
			return nil, errors.New("no")
		}
		return nil, nil
	}}
	config.AddHostKey(host)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go connection(conn, config)
		}
	}()
	return l.Addr().String()
}

func connection(conn net.Conn, config *ssh.ServerConfig) {
	defer conn.Close()
	_, channels, requests, err := ssh.NewServerConn(conn, config)
	if err != nil {
		return
	}
	go ssh.DiscardRequests(requests)
	for ch := range channels {
		c, requests, err := ch.Accept()
		if err != nil {
			return
		}
		go session(c, requests)
	}
}

func session(c ssh.Channel, requests <-chan *ssh.Request) {
	defer c.Close()
	end := func(status uint32) {
		_, _ = c.SendRequest("exit-status", false, ssh.Marshal(struct{ S uint32 }{status}))
		c.Close()
	}
	for r := range requests {
		_ = r.Reply(true, nil)
		switch r.Type {
		case "pty-req":
			fmt.Fprintf(c, "terminal %s\n", r.Payload[4:4+r.Payload[3]])
		case "window-change":
			fmt.Fprintf(c, "columns %d\n", r.Payload[3])
		case "shell":
			fmt.Fprintln(c, "prompt")
			go func() {
				_, _ = io.Copy(c, c)
				end(0)
			}()
		case "signal":
			end(130)
		case "exec":
			line := string(r.Payload[4:])
			fmt.Fprintln(c, line)
			fmt.Fprintln(c.Stderr(), "beware")
			go func() {
				if line == "wait" {
					_, _ = io.Copy(io.Discard, c)
					fmt.Fprintln(c, "waiting")
					return
				}
				_, _ = io.Copy(c, c)
				status := uint32(0)
				fmt.Sscanf(line, "status %d", &status)
				end(status)
			}()
		}
	}
}

func TestRun(t *testing.T) {
	_, host, _ := newKey(t, "")
	_, user, file := newKey(t, "")
	target := Target{"gw", serve(t, host, user.PublicKey()), host.PublicKey()}
	c, err := Dial(t.Context(), target, Keys{Files: []string{file}}.Signers)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, x := range []struct {
		words  []string
		in     io.Reader
		stdout string
		status int
	}{
		{[]string{"echo", "a b", "it's"}, nil, "echo 'a b' 'it'\\''s'\n", 0},
		{[]string{"echo"}, strings.NewReader("input"), "echo\ninput", 0},
		{[]string{"status", "5"}, nil, "status 5\n", 5},
		{[]string{"status", "255"}, nil, "status 255\n", 255},
		{[]string{"status", "256"}, nil, "status 256\n", 1},
		{[]string{"status", "4294967040"}, nil, "status 4294967040\n", 1},
	} {
		var out, errOut bytes.Buffer
		got, err := Run(t.Context(), c, x.words, Streams{x.in, &out, &errOut}, nil)
		if err != nil || got != x.status || out.String() != x.stdout || errOut.String() != "beware\n" {
			t.Errorf("%q = %d, %v, %q, %q; want %d, %q", x.words, got, err, out.String(), errOut.String(), x.status, x.stdout)
		}
	}
	// A prompt with a terminal.
	changed := make(chan [2]int, 1)
	var out bytes.Buffer
	r, w := io.Pipe()
	go func() {
		changed <- [2]int{99, 30}
		io.WriteString(w, "typed\n")
		w.Close()
	}()
	got, err := Run(t.Context(), c, nil, Streams{r, &out, io.Discard}, &Terminal{"xterm", 80, 24, changed})
	if err != nil || got != 0 || !strings.HasPrefix(out.String(), "terminal xterm\nprompt\n") ||
		!strings.Contains(out.String(), "typed\n") {
		t.Errorf("prompt = %d, %v, %q", got, err, out.String())
	}
	// A command that is interrupted, once it runs and Run has ended its input.
	ctx, cancel := context.WithCancel(t.Context())
	pr, pw := io.Pipe()
	go func() {
		_, _ = io.ReadFull(pr, make([]byte, len("wait\nwaiting\n")))
		cancel()
		_, _ = io.Copy(io.Discard, pr)
	}()
	if got, err := Run(ctx, c, []string{"wait"}, Streams{nil, pw, io.Discard}, nil); got != 130 || err != nil {
		t.Errorf("an interrupted command = %d, %v; want 130", got, err)
	}
}

// TestRunUnanswered: a guest that stopped after the login keeps nobody from giving up.
func TestRunUnanswered(t *testing.T) {
	_, host, _ := newKey(t, "")
	_, user, _ := newKey(t, "")
	config := &ssh.ServerConfig{PublicKeyCallback: func(ssh.ConnMetadata, ssh.PublicKey) (*ssh.Permissions, error) {
		return nil, nil
	}}
	config.AddHostKey(host)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	asked := make(chan struct{})
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		_, channels, requests, err := ssh.NewServerConn(conn, config)
		if err != nil {
			return
		}
		go ssh.DiscardRequests(requests)
		<-channels // and no answer
		close(asked)
	}()
	target := Target{"gw", l.Addr().String(), host.PublicKey()}
	c, err := Dial(t.Context(), target, func() ([]ssh.Signer, error) { return []ssh.Signer{user}, nil })
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithCancelCause(t.Context())
	gaveUp := errors.New("gave up")
	go func() {
		<-asked
		cancel(gaveUp)
	}()
	if status, err := Run(ctx, c, []string{"echo"}, Streams{}, nil); err != gaveUp {
		t.Errorf("Run = %d, %v; want %v", status, err, gaveUp)
	}
}

func TestDial(t *testing.T) {
	_, host, _ := newKey(t, "")
	_, other, _ := newKey(t, "")
	private, user, file := newKey(t, "secret")
	_, _, wrong := newKey(t, "")
	addr := serve(t, host, user.PublicKey())
	word := func(w string) func(string) ([]byte, error) {
		return func(string) ([]byte, error) { return []byte(w), nil }
	}
	ring := agent.NewKeyring()
	if err := ring.Add(agent.AddedKey{PrivateKey: private}); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(t.TempDir(), "agent")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() { _ = agent.ServeAgent(ring, conn) }()
		}
	}()
	key := host.PublicKey()
	for name, x := range map[string]struct {
		host ssh.PublicKey
		addr string
		keys Keys
		want string // part of the error; empty: none
	}{
		"a file with a passphrase":  {key, addr, Keys{Files: []string{file}, Passphrase: word("secret")}, ""},
		"the second of two files":   {key, addr, Keys{Files: []string{wrong, file}, Passphrase: word("secret")}, ""},
		"an agent":                  {key, addr, Keys{Agent: socket}, ""},
		"an agent that is gone":     {key, addr, Keys{Agent: socket + "x"}, "SSH agent"},
		"the wrong passphrase":      {key, addr, Keys{Files: []string{file}, Passphrase: word("x")}, "key " + file},
		"nobody to ask":             {key, addr, Keys{Files: []string{file}}, "passphrase"},
		"no key":                    {key, addr, Keys{}, "no key to log in with"},
		"no such file":              {key, addr, Keys{Files: []string{file + "x"}}, "no such file"},
		"a folder":                  {key, addr, Keys{Files: []string{t.TempDir()}}, "want a file"},
		"the wrong key":             {key, addr, Keys{Files: []string{wrong}}, "logging in to gw"},
		"another host":              {other.PublicKey(), addr, Keys{Agent: socket}, "its identity disk holds"},
		"a guest that is not there": {key, "127.0.0.1:1", Keys{Agent: socket}, "reaching gw"},
	} {
		c, err := Dial(t.Context(), Target{"gw", x.addr, x.host}, x.keys.Signers)
		if err == nil {
			c.Close()
		}
		if (err == nil) != (x.want == "") || err != nil && !strings.Contains(err.Error(), x.want) {
			t.Errorf("%s: %v; want %q", name, err, x.want)
		}
		if errors.Is(err, ErrHostKey) != (name == "another host") {
			t.Errorf("%s: %v; is it ErrHostKey?", name, err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	target := Target{"gw", silent.Addr().String(), key}
	if _, err := Dial(ctx, target, Keys{Agent: socket}.Signers); err == nil {
		t.Error("a server that says nothing was logged in to")
	}
}
