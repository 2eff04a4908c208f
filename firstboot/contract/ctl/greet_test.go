package ctl

import (
	"bytes"
	"io"
	"net"
	"strings"
	"testing"
)

// portAfter is a port: it answers a greeting, after what an earlier client left.
func portAfter(t *testing.T, stale string) net.Conn {
	t.Helper()
	client, port := net.Pipe()
	t.Cleanup(func() { client.Close() })
	go func() {
		defer port.Close()
		b := make([]byte, GreetingBytes)
		if _, err := io.ReadFull(port, b); err != nil || !IsGreeting(b) {
			return
		}
		_, _ = io.WriteString(port, stale)
		_, _ = port.Write(b)
		_, _ = io.WriteString(port, "answer")
	}()
	return client
}

func TestGreet(t *testing.T) {
	for _, stale := range []string{"", "x", strings.Repeat("RMo", 1000), greetingHead, greetingHead + "12345678",
		strings.Repeat(greetingHead, 3)} {
		conn := portAfter(t, stale)
		if err := Greet(conn); err != nil {
			t.Errorf("Greet after %.20q = %v", stale, err)
			continue
		}
		if b, err := io.ReadAll(conn); err != nil || string(b) != "answer" {
			t.Errorf("after the greeting comes %q, %v; want the answer", b, err)
		}
	}
	var nobody bytes.Buffer
	if err := Greet(struct {
		io.Reader
		io.Writer
	}{strings.NewReader("nothing like it"), &nobody}); err == nil {
		t.Error("Greet of a port that never answers = nil; want an error")
	}
}

func TestLostIsNoFrame(t *testing.T) {
	if f, err := readFrame(bytes.NewReader(Lost)); err == nil {
		t.Errorf("readFrame of what says that a stream is lost = %+v; want an error", f)
	}
}
