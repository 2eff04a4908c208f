package syslog

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"rempart/profiles"
)

// rsyslogd finds the server, installed or unpacked by test/setup, and where its modules are.
func rsyslogd(t *testing.T) (program, modules string) {
	t.Helper()
	tools, err := filepath.Abs("../../bin/tools")
	if err != nil {
		t.Fatal(err)
	}
	for _, root := range []string{"/", tools} {
		program := filepath.Join(root, "usr/sbin/rsyslogd")
		found, _ := filepath.Glob(filepath.Join(root, "usr/lib/*/rsyslog"))
		if _, err := os.Stat(program); err == nil && len(found) == 1 {
			return program, found[0]
		}
	}
	t.Skip("SKIPPED, NOT PASSED: there is no rsyslogd; `test/setup test` brings it")
	return "", ""
}

// TestRsyslog has the most used server judge what it is sent, over every transport. With TLS it wants a certificate of
// the guest's, signed by its authority.
func TestRsyslog(t *testing.T) {
	program, modules := rsyslogd(t)
	for _, transport := range []string{"udp", "tcp", "tls"} {
		t.Run(transport, func(t *testing.T) {
			protocol := profiles.UDP
			if transport != "udp" {
				protocol = profiles.TCP
			}
			// A port nobody has: for both kinds at once, since rsyslogd takes none itself.
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			addr := netip.MustParseAddrPort(l.Addr().String())
			l.Close()
			dir := t.TempDir()
			seen := filepath.Join(dir, "seen")
			authority := newAuthority(t)
			driver := ""
			if transport == "tls" {
				if _, err := os.Stat(filepath.Join(modules, "lmnsd_ossl.so")); err != nil {
					t.Skipf("SKIPPED, NOT PASSED: %v; `test/setup test` brings it", err)
				}
				driver = authority.rsyslog(t, dir)
			}
			config := driver + fmt.Sprintf(`module(load="im%[1]s"%[5]s)
global(workDirectory="%[3]s")
template(name="t" type="string" string="%%app-name%%|%%hostname%%|%%syslogfacility-text%%|%%syslogseverity-text%%`+
				`|%%timestamp:::date-rfc3339%%|%%structured-data%%|%%msg%%\n")
input(type="im%[1]s" address="127.0.0.1" port="%[2]d")
action(type="omfile" file="%[4]s" template="t")
`, protocol, addr.Port(), dir, seen, map[bool]string{true: ` StreamDriver.Name="ossl" StreamDriver.Mode="1" ` +
				`StreamDriver.AuthMode="x509/certvalid"`}[transport == "tls"])
			file := filepath.Join(dir, "conf")
			if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command(program, "-n", "-f", file, "-i", filepath.Join(dir, "pid"), "-M", modules)
			var said strings.Builder
			cmd.Stdout, cmd.Stderr = &said, &said
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				_ = cmd.Process.Signal(syscall.SIGTERM)
				_ = cmd.Wait()
				if t.Failed() {
					t.Log(said.String())
				}
			})
			awaitListener(t, addr, protocol)
			g := newGuest(t, addr, protocol)
			if transport == "tls" {
				g.profile.Logging.To.TLS = &profiles.LogTLS{CA: authority.pem, Client: true}
				g.give(t, authority.issue(t, "gw"))
			}
			g.say(3)
			g.start(t, Spec())
			g.say(2)
			var text string
			for end := time.Now().Add(time.Minute); strings.Count(text, "init|") < 5; {
				b, _ := os.ReadFile(seen)
				if text = string(b); time.Now().After(end) {
					t.Fatalf("rsyslogd wrote only %q", text)
				}
				time.Sleep(10 * time.Millisecond)
			}
			n := 0
			for line := range strings.Lines(text) {
				f := strings.Split(strings.TrimSuffix(line, "\n"), "|")
				if len(f) != 7 || f[0] != "init" {
					continue
				}
				n++
				if f[1] != "gw" || f[2] != "daemon" || f[3] != "info" || !strings.Contains(f[5], `[meta sequenceId="`) ||
					strings.TrimSpace(f[6]) != fmt.Sprint("line ", n) {
					t.Errorf("rsyslogd read %q; want line %d", f, n)
				}
				if at, err := time.Parse(time.RFC3339Nano, f[4]); err != nil || time.Since(at).Abs() > time.Minute {
					t.Errorf("rsyslogd read the time %q", f[4])
				}
			}
		})
	}
}

// awaitListener waits until somebody listens: by TCP when a connection is taken, by UDP when none can have the port.
func awaitListener(t *testing.T, addr netip.AddrPort, protocol profiles.Protocol) {
	t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if protocol == profiles.TCP {
			if conn, err := net.Dial("tcp", addr.String()); err == nil {
				conn.Close()
				return
			}
			continue
		}
		conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(addr))
		if err != nil {
			return
		}
		conn.Close()
	}
	t.Fatalf("nobody listens on %s", addr)
}
