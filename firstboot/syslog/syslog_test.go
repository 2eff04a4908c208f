package syslog

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"rempart/firstboot/child"
	"rempart/firstboot/contract"
	"rempart/firstboot/logging"
	"rempart/firstboot/logging/segment"
	"rempart/profiles"
)

func TestFormat(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC)
	for _, c := range []struct {
		e    segment.Entry
		want string
	}{
		{segment.Entry{Number: 1, Time: at, Uptime: 12340 * time.Millisecond, Severity: segment.Info, From: "link",
			Text: "lan0: up"}, `<30>1 2026-01-02T03:04:05.000006Z gw link - - [meta sequenceId="1" sysUpTime="1234"] lan0: up`},
		{segment.Entry{Number: 1 << 31, Time: at, Severity: segment.Warning, From: "kernel", Text: "drop é"},
			`<4>1 2026-01-02T03:04:05.000006Z gw kernel - - [meta sequenceId="1" sysUpTime="0"] ` + "\ufeffdrop é"},
		{segment.Entry{Number: 2, Time: at, Severity: segment.Error, From: "ssh", Text: "x"},
			`<83>1 2026-01-02T03:04:05.000006Z gw ssh - - [meta sequenceId="2" sysUpTime="0"] x`},
	} {
		if got := format("gw", c.e); got != c.want {
			t.Errorf("format = %q; want %q", got, c.want)
		}
	}
	if got := frame("<0>1"); got != "4 <0>1" {
		t.Errorf("frame = %q", got)
	}
}

// rfc5424 is the grammar of RFC 5424 section 6, as far as a message without other structured data goes.
var rfc5424 = regexp.MustCompile(`^<(0|[1-9][0-9]?|1[0-8][0-9]|19[01])>1 ` +
	`[0-9]{4}-(0[1-9]|1[0-2])-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9]\.[0-9]{1,6}Z ` +
	`[!-~]{1,255} [!-~]{1,48} - - \[meta sequenceId="[1-9][0-9]{0,9}" sysUpTime="[0-9]+"\] ` +
	"(\ufeff[^\x00-\x1f\x7f]*|[ -~]*)$")

func FuzzFormat(f *testing.F) {
	f.Add("link", "lan0: up", uint64(1), int64(5))
	f.Fuzz(func(t *testing.T, from, text string, number uint64, uptime int64) {
		e, err := segment.Parse(segment.Entry{Number: max(number, 1), Uptime: time.Duration(max(uptime, 0) >> 2),
			Severity: segment.Info, From: from, Text: text}.String())
		if err != nil {
			return // no entry that a log could hold
		}
		if got := format("gw", e); !rfc5424.MatchString(got) {
			t.Errorf("format = %q: not RFC 5424", got)
		}
	})
}

// guest runs the log child and this one in a temporary root.
type guest struct {
	root     string
	lines    chan child.Line
	warnings chan string
	profile  *profiles.Profile
	said     int
}

func newGuest(t *testing.T, to netip.AddrPort, protocol profiles.Protocol) *guest {
	t.Helper()
	g := &guest{root: t.TempDir(), lines: make(chan child.Line), warnings: make(chan string, 100),
		profile: &profiles.Profile{Name: "gw", Logging: profiles.Logging{To: &profiles.LogServer{Addr: to.Addr(),
			Port: to.Port(), Protocol: protocol}}}}
	for _, dir := range []string{contract.LogRunDir, runDir} {
		if err := os.MkdirAll(filepath.Join(g.root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	g.start(t, logging.Spec())
	return g
}

// start runs a child until the test ends or stop is called.
func (g *guest) start(t *testing.T, spec child.Spec) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ready, ended := make(chan struct{}), make(chan error, 1)
	env := &child.Env{Root: g.root, Log: slog.New(slog.DiscardHandler), Ready: func() { close(ready) }, Lines: g.lines,
		Profile: g.profile, Tell: func(_ string, value any) {
			if s := fmt.Sprint(value); spec.Name == "syslog" {
				g.warnings <- s
			}
		}}
	go func() { ended <- spec.Run(ctx, env) }()
	stop = func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		ended <- nil
	}
	t.Cleanup(stop)
	select {
	case <-ready:
	case err := <-ended:
		t.Fatalf("child %s = %v", spec.Name, err)
	}
	return stop
}

// say has n lines logged, numbered over the whole test.
func (g *guest) say(n int) {
	for range n {
		g.said++
		g.lines <- child.Line{Time: time.Now().UnixMicro(), Uptime: 1, Severity: 6, From: "init",
			Text: fmt.Sprint("line ", g.said)}
	}
}

// wantLines checks that messages are the lines from first on, each once and in order. Other messages are passed over.
func wantLines(t *testing.T, got []string, first int) {
	t.Helper()
	for i, m := range got {
		if !rfc5424.MatchString(m) || !strings.HasSuffix(m, fmt.Sprint("] line ", first+i)) {
			t.Fatalf("message %d = %q; want line %d", i+1, m, first+i)
		}
	}
}

func TestUDP(t *testing.T) {
	for _, addr := range []string{"127.0.0.1", "::1"} {
		conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.ParseIP(addr)})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		g := newGuest(t, conn.LocalAddr().(*net.UDPAddr).AddrPort(), profiles.UDP)
		g.say(3) // before it is sent
		g.start(t, Spec())
		g.say(20)
		if err := conn.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		var got []string
		b := make([]byte, 4096)
		for len(got) < 23 {
			n, err := conn.Read(b)
			if err != nil {
				t.Fatalf("after %d messages: %v", len(got), err)
			}
			if strings.Contains(string(b[:n]), " init ") {
				got = append(got, string(b[:n]))
			}
		}
		wantLines(t, got, 1)
	}
}

// readFrames reads n messages of init with their lengths before them (RFC 6587 section 3.4.1).
func readFrames(t *testing.T, conn net.Conn, n int) (all []string) {
	t.Helper()
	if err := conn.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	in := bufio.NewReader(conn)
	for len(all) < n {
		length, err := in.ReadString(' ')
		if err != nil {
			t.Fatalf("after %d messages: %v", len(all), err)
		}
		size, err := strconv.Atoi(strings.TrimSuffix(length, " "))
		if err != nil || size > 4096 {
			t.Fatalf("length %q", length)
		}
		b := make([]byte, size)
		if _, err := io.ReadFull(in, b); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(b), " init ") {
			all = append(all, string(b))
		}
	}
	return all
}

// TestTCP: a server that goes away and comes back is sent what was said meanwhile, and a child that dies goes on where
// it was. Nothing comes twice.
func TestTCP(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	g := newGuest(t, netip.MustParseAddrPort(addr), profiles.TCP)
	g.say(5)
	stop := g.start(t, Spec())
	accept := func(l net.Listener) net.Conn {
		t.Helper()
		if err := l.(*net.TCPListener).SetDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		conn, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		return conn
	}
	conn := accept(l)
	wantLines(t, readFrames(t, conn, 5), 1)
	l.Close()
	conn.Close()
	if got := <-g.warnings; !strings.Contains(got, "the log is not sent") {
		t.Errorf("without its server the child tells %q", got)
	}
	g.say(5)
	if l, err = net.Listen("tcp", addr); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn = accept(l)
	wantLines(t, readFrames(t, conn, 5), 6)
	if got := <-g.warnings; got != "" {
		t.Errorf("with its server back the child tells %q; want nothing any more", got)
	}
	stop()
	conn.Close()
	g.say(5)
	g.start(t, Spec())
	conn = accept(l)
	defer conn.Close()
	wantLines(t, readFrames(t, conn, 5), 11)
}

func TestNeeded(t *testing.T) {
	root := t.TempDir()
	if Spec().Needed(root) {
		t.Error("needed without a profile")
	}
	file := filepath.Join(root, contract.ProfilePath)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	p, err := profiles.Load("home-firewall")
	if err != nil {
		t.Fatal(err)
	}
	server := &profiles.LogServer{Addr: netip.MustParseAddr("192.168.0.9"), Port: 514, Protocol: profiles.TCP}
	for _, c := range []struct {
		to   *profiles.LogServer
		want bool
	}{{nil, false}, {server, true}} {
		p.Logging.To = c.to
		b, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if got := Spec().Needed(root); got != c.want {
			t.Errorf("Needed() with logging.to %+v = %v; want %v", c.to, got, c.want)
		}
	}
}
