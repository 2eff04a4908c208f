package ssh

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
)

// TestPrompt types at a terminal.
func TestPrompt(t *testing.T) {
	k, _ := newKey(t)
	c, err := startServer(t, k).dial(t, ssh.PublicKeys(k))
	if err != nil {
		t.Fatal(err)
	}
	s, err := c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.RequestPty("xterm", 24, 80, nil); err != nil {
		t.Fatal(err)
	}
	in, err := s.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := s.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Shell(); err != nil {
		t.Fatal(err)
	}
	seen := ""
	await := func(text string) {
		t.Helper()
		b := make([]byte, 1000)
		for !strings.Contains(seen, text) {
			n, err := out.Read(b)
			if seen += string(b[:n]); err != nil {
				t.Fatalf("waiting for %q: %v in %q", text, err, seen)
			}
		}
		_, seen, _ = strings.Cut(seen, text)
	}
	await("gw [read-only]> ")
	io.WriteString(in, "echo 1 2\r")
	await("\n1|2\r\n")
	await("gw [read-only]> ")
	io.WriteString(in, "wait\r")
	await("waiting\r\n")
	io.WriteString(in, "\x03") // Ctrl-C ends the command, not the session
	await("gw [read-only]> ")
	if err := s.WindowChange(50, 100); err != nil {
		t.Error(err)
	}
	io.WriteString(in, "status 3\r")
	await("so be it\r\n")
	await("gw [read-only]> ")
	io.WriteString(in, "\x04")
	var exit *ssh.ExitError
	if err := s.Wait(); !errors.As(err, &exit) || exit.ExitStatus() != 3 {
		t.Errorf("the session ended with %v; want the last command's status 3", err)
	}
}

func TestScript(t *testing.T) {
	k, _ := newKey(t)
	c, err := startServer(t, k).dial(t, ssh.PublicKeys(k))
	if err != nil {
		t.Fatal(err)
	}
	s, err := c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	s.Stdin, s.Stdout = strings.NewReader("echo 1\n\necho 2 3"), &out
	if err := s.Shell(); err != nil {
		t.Fatal(err)
	}
	if err := s.Wait(); err != nil || out.String() != "1\n2|3\n" {
		t.Errorf("script = %q, %v", out.String(), err)
	}
}
