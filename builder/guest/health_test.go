package guest

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"
)

func TestHealthCheck(t *testing.T) {
	for _, tt := range []struct {
		h    Health
		want string
	}{
		{Health{After: time.Minute}, ""}, {Health{Console: "^login: $"}, ""}, {Health{TCP: "22"}, ""},
		{Health{TCP: "192.0.2.7:22"}, ""}, {Health{TCP: "[2001:db8::1]:443"}, ""},
		{Health{}, "nothing says"}, {Health{After: -1}, "want 0 to 24h"}, {Health{After: 25 * time.Hour}, "want 0 to 24h"},
		{Health{Console: "("}, "missing closing"}, {Health{Console: strings.Repeat("x", 1025)}, "at most 1024 bytes"},
		{Health{TCP: "0"}, "want a port"}, {Health{TCP: "65536"}, "want a port"}, {Health{TCP: "host:22"}, "want a port"},
		{Health{TCP: "192.0.2.7:0"}, "want a port"},
	} {
		err := tt.h.Check()
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v.Check() = %v; want %q", tt.h, err, tt.want)
		}
	}
}

// TestAnswers: whoever speaks first answers, whoever speaks when asked does too, and whoever hangs up, as the network
// of QEMU does for a guest that refuses, does not.
func TestAnswers(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		serve func(net.Conn)
		want  bool
	}{
		"first":   {func(c net.Conn) { fmt.Fprint(c, "SSH-2.0-x\r\n") }, true},
		"asked":   {func(c net.Conn) { _, _ = bufio.NewReader(c).ReadString('\n'); fmt.Fprint(c, "HTTP/1.0 404\r\n") }, true},
		"hung up": {func(net.Conn) {}, false},
	} {
		l, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				tt.serve(c)
				c.Close()
			}
		}()
		if got := answers(t.Context(), l.Addr().String()); got != tt.want {
			t.Errorf("answers of one who speaks %s = %v; want %v", name, got, tt.want)
		}
		if tt.want {
			if err := awaitAnswer(t.Context(), l.Addr().String()); err != nil {
				t.Error(err)
			}
		} else {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			if err := awaitAnswer(ctx, l.Addr().String()); err == nil {
				t.Error("awaitAnswer of nobody = nil once it is no longer waited for; want an error")
			}
		}
		l.Close()
		<-done
	}
}

// TestPrompts: a line that has not ended is seen, piece by piece, and one that has ended once.
func TestPrompts(t *testing.T) {
	var ended, begun []string
	l := &lines{each: func(s string) { ended = append(ended, s) }, begun: func(s string) { begun = append(begun, s) }}
	for _, piece := range []string{"boot", "ing\r\nother lo", "gin: "} {
		if _, err := l.Write([]byte(piece)); err != nil {
			t.Fatal(err)
		}
	}
	if fmt.Sprint(ended) != "[booting]" || fmt.Sprintf("%q", begun) != `["boot" "other lo" "other login: "]` {
		t.Errorf("lines %q, begun %q; want booting, and the prompt as it comes", ended, begun)
	}
}
