package dns_test

import (
	"crypto/tls"
	"encoding/pem"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"rempart/builder/guest"
	"rempart/firstboot/contract/identity"
	"rempart/profiles"
	"rempart/test/netns"
)

// certified gives the guest the certificate that rempart makes for its identity disk, and returns what people are told
// of it and the file that clients trust.
func (l *lab) certified() (c *guest.Certificate, trusted string) {
	l.t.Helper()
	l.change = func(p *profiles.Profile) {
		id, err := guest.EnsureIdentity(filepath.Join(l.t.TempDir(), "identity.raw"), p.Name, p, nil)
		netns.Must(l.t, err)
		c, err = guest.DNSCertificate(id, p)
		netns.Must(l.t, err)
		made := id.Secret(identity.ConsumerDNS, identity.DNSMade)
		path := filepath.Join(l.root, identity.SecretPath(identity.ConsumerDNS, identity.DNSMade))
		netns.Must(l.t, os.MkdirAll(filepath.Dir(path), 0o755))
		netns.Must(l.t, os.WriteFile(path, made, 0o600))
		block, _ := pem.Decode(made)
		netns.Must(l.t, os.WriteFile(trusted, pem.EncodeToMemory(block), 0o600))
	}
	trusted = filepath.Join(l.root, "trusted.pem")
	l.start("dns: {upstream: 192.0.2.53, lan0: {domain: home.arpa, tls: true}}\n")
	return c, trusted
}

// kdig asks the guest by TLS from the client and returns all that kdig says.
func (l *lab) kdig(args ...string) string {
	l.t.Helper()
	// Without an answer kdig says so by its exit status.
	out, _ := l.client.Command(tool(l.t, "kdig"), append([]string{"@" + gatewayAddr, "+retry=0", "+timeout=6"},
		args...)...).CombinedOutput()
	return string(out)
}

// TestSecure: foreign clients are served by TLS with the certificate that was made, known by its authority, its name or
// its pin; they take no other, and are not served otherwise on that port.
func TestSecure(t *testing.T) {
	l := newLab(t)
	l.unbound(upstreamA, records...)
	c, trusted := l.certified()
	const wrong = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
	for _, x := range []struct {
		how  []string
		want string
	}{
		{[]string{"+tls-ca=" + trusted, "+tls-hostname=gw.home.arpa", "www.example"}, "203.0.113.80"},
		{[]string{"+tls-ca=" + trusted, "+tls-hostname=gw.home.arpa", "gw"}, gatewayAddr},
		{[]string{"+tls-ca=" + trusted, "+tls-hostname=other.home.arpa", "www.example"}, ""},
		{[]string{"+tls-ca", "+tls-hostname=gw.home.arpa", "www.example"}, ""},
		{[]string{"+tls-pin=" + c.Pin, "www.example"}, "203.0.113.80"},
		{[]string{"+tls-pin=" + wrong, "www.example"}, ""},
		{[]string{"@fd00:1::1", "+tls-ca=" + trusted, "+tls-hostname=gw.home.arpa", "www.example"}, "203.0.113.80"},
		{[]string{"+tcp", "-p", "853", "www.example"}, ""},
	} {
		how := x.how
		if how[0] != "+tcp" {
			how = append([]string{"+tls"}, how...)
		}
		out := l.kdig(how...)
		answered := strings.Contains(out, "status: NOERROR")
		if answered != (x.want != "") || !strings.Contains(out, x.want) {
			t.Errorf("kdig %s:\n%s\nwant %q", strings.Join(how, " "), out, x.want)
		}
	}
	// Lengths tell nothing (RFC 8467 4.1), and a connection says how long it may be idle (RFC 7828).
	for _, name := range []string{"www.example", "a.much.longer.name.that.is.not.there.example"} {
		out := l.kdig("+tls", "+padding", "+ednsopt=11", name)
		if !strings.Contains(out, "Received 468 B") || !strings.Contains(out, "0064") {
			t.Errorf("kdig +padding +ednsopt=11 %s:\n%s\nwant 468 bytes, and 100 times 0.1 seconds", name, out)
		}
	}
	if s := l.told(); s.Secure < 6 || s.Handshakes < 3 {
		t.Errorf("%d connections by TLS, %d not begun; want 6 and 3 at least", s.Secure, s.Handshakes)
	}
	l.oldTLS(t)
	l.unboundClient(t, trusted)
}

// oldTLS: nothing below TLS 1.2 is spoken (RFC 8996).
func (l *lab) oldTLS(t *testing.T) {
	l.client.In(t, func() error {
		d := tls.Dialer{NetDialer: &net.Dialer{Timeout: patience}, Config: &tls.Config{InsecureSkipVerify: true,
			MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}}
		conn, err := d.DialContext(t.Context(), "tcp", gatewayAddr+":853")
		if err == nil {
			conn.Close()
			t.Error("TLS 1.1 is spoken")
		}
		return nil
	})
}

// unboundClient has unbound ask the guest by TLS, as resolvers at the desk do.
func (l *lab) unboundClient(t *testing.T, trusted string) {
	conf := filepath.Join(l.root, "client.conf")
	netns.Must(t, os.WriteFile(conf, []byte("server:\n interface: 127.0.0.1\n do-daemonize: no\n username: \"\"\n"+
		" chroot: \"\"\n directory: \"/\"\n pidfile: \"\"\n use-syslog: no\n module-config: \"iterator\"\n"+
		" tls-cert-bundle: "+trusted+"\nforward-zone:\n name: \".\"\n forward-tls-upstream: yes\n"+
		" forward-addr: "+gatewayAddr+"@853#gw.home.arpa\n"), 0o644))
	cmd := l.client.Command(tool(t, "unbound"), "-d", "-c", conf)
	log := &logWriter{t: t}
	cmd.Stderr, cmd.Stdout = log, log
	netns.Must(t, cmd.Start())
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	before := l.told().Secure
	for end := time.Now().Add(patience); ; {
		out, _ := l.client.Command("dig", "+short", "+tries=1", "+time=2", "@127.0.0.1", "www.example").CombinedOutput()
		if strings.TrimSpace(string(out)) == "203.0.113.80" {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("unbound asked by TLS and answers %s\n%s", out, log)
		}
	}
	if after := l.told().Secure; after == before {
		t.Error("unbound has an answer and asked nobody by TLS")
	}
}

// TestCrowd: connections by TLS and without from many addresses, more than there are places for and all held on to.
// Everybody else is still let in, an address of the crowd too, and memory is bounded.
func TestCrowd(t *testing.T) {
	const clients, each = 24, 16
	l := newLab(t)
	l.unbound(upstreamA, records...)
	_, _ = l.certified()
	eth := l.client.Device(t, "eth0")
	for i := range clients {
		l.client.Addr(t, eth, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 10, 10, byte(20 + i)}), 24))
	}
	if got := l.short("www.example"); got != "203.0.113.80" {
		t.Fatalf("www.example = %q", got)
	}
	_, before := resident(t, l.child.Process.Pid)
	var held []net.Conn
	defer func() {
		for _, c := range held {
			c.Close()
		}
	}()
	l.client.In(t, func() error {
		for i := range clients * each {
			from := &net.TCPAddr{IP: net.IPv4(10, 10, 10, byte(20+i%clients))}
			d := &net.Dialer{Timeout: patience, LocalAddr: from}
			if i < clients {
				conn, err := d.Dial("tcp", gatewayAddr+":53")
				if err != nil {
					return fmt.Errorf("connection %d by TCP: %w", i, err)
				}
				held = append(held, conn)
				continue
			}
			secure := tls.Dialer{NetDialer: d, Config: &tls.Config{InsecureSkipVerify: true}}
			conn, err := secure.DialContext(t.Context(), "tcp", gatewayAddr+":853")
			if err != nil {
				return fmt.Errorf("connection %d by TLS: %w", i, err)
			}
			held = append(held, conn)
		}
		return nil
	})
	s := l.told()
	for end := time.Now().Add(patience); s.Secure < clients*(each-1) && time.Now().Before(end); s = l.told() {
		// By TLS 1.3 a client is done before the server is.
	}
	if s.Connections < clients*each || s.Secure != clients*(each-1) {
		t.Errorf("%d connections, %d by TLS; want %d and %d: each was let in", s.Connections, s.Secure, clients*each,
			clients*(each-1))
	}
	_, after := resident(t, l.child.Process.Pid)
	for _, args := range [][]string{{"+tcp", "www.example"}, {"-b", "10.10.10.20", "+tcp", "www.example"}} {
		if got := l.short(args...); got != "203.0.113.80" {
			t.Errorf("in the crowd, dig %s = %q", strings.Join(args, " "), got)
		}
	}
	if out := l.kdig("+tls", "+short", "www.example"); strings.TrimSpace(out) != "203.0.113.80" {
		t.Errorf("in the crowd, kdig by TLS: %s", out)
	}
	t.Logf("%d KiB before, %d with all places taken; %d ended to make room", before, after, s.Ended)
	const most = 16 << 10 // KiB; half of them is used, the rest what the collector may leave
	if !underRace && after-before > most {
		t.Errorf("connections take %d KiB; want %d at most", after-before, most)
	}
}
