package dns_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"rempart/firstboot/contract"
	"rempart/test/netns"
)

// dnsmasq runs dnsmasq at an address as a name server that knows example.
func (l *lab) dnsmasq(addr string, args ...string) (kill func()) {
	l.t.Helper()
	kill = l.serve("dnsmasq", append([]string{"--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts",
		"--user=root", "--pid-file=", "--bind-interfaces", "--listen-address=" + addr, "--local=/example/"}, args...)...)
	l.awaitServer(addr, "example.")
	return kill
}

// TestUpstreamDies: of two the one that dies is left, its clients do not notice, and it is asked again when it is back;
// when both are dead what was true lately is given.
func TestUpstreamDies(t *testing.T) {
	l := newLab(t)
	killA := l.unbound(upstreamA, records...)
	killB := l.dnsmasq(upstreamB, "--host-record=www.example,203.0.113.80", "--host-record=other.example,203.0.113.82")
	l.start("dns: {upstream: [192.0.2.53, 192.0.2.54], lan0: {}}\n")
	if got := l.short("short.example"); got != "203.0.113.81" && got != "" { // only unbound knows it
		t.Errorf("short.example = %q", got)
	}
	killA()
	// Names nobody asked for yet: each goes to an upstream, and be the one that lives the faster one, the other is tried
	// now and then.
	end := time.Now().Add(patience)
	for i := 0; i < 12 || l.told().Servers[0].Failed == 0 && time.Now().Before(end); i++ {
		if got := status(l.dig(fmt.Sprintf("x%d.example", i))); got != "NXDOMAIN" {
			t.Fatalf("with one upstream dead, question %d: %q; want NXDOMAIN", i, got)
		}
	}
	if got := l.short("www.example"); got != "203.0.113.80" {
		t.Errorf("with one upstream dead: www.example = %q", got)
	}
	s := l.told()
	if len(s.Servers) != 2 || s.Servers[0].Failed == 0 || s.Servers[1].Down || s.Servers[1].Answered < 12 {
		t.Errorf("servers %+v; want the first to fail and the second asked", s.Servers)
	}
	l.unbound(upstreamA, records...)
	for deadline, before := time.Now().Add(patience), s.Servers[0].Answered; l.told().Servers[0].Answered == before; {
		if time.Sleep(20 * time.Millisecond); time.Now().After(deadline) {
			t.Fatalf("the first is back and still left alone: %+v", l.told().Servers)
		}
	}
	killB()
	if got := l.short("short.example"); got != "203.0.113.81" {
		t.Errorf("from the one that is back: %q", got)
	}
}

// TestStale: with nobody left to ask, an answer whose time is over is given, marked, and what never was known fails.
func TestStale(t *testing.T) {
	l := newLab(t)
	kill := l.unbound(upstreamA, records...)
	l.start("dns: {upstream: 192.0.2.53, lan0: {}}\n")
	if got := l.short("short.example"); got != "203.0.113.81" {
		t.Fatalf("short.example = %q", got)
	}
	kill()
	for deadline := time.Now().Add(patience); ; { // its TTL is one second
		out := l.dig("short.example")
		if strings.Contains(out, "Stale Answer") && strings.Contains(out, "\t30\tIN\tA\t203.0.113.81") {
			break
		}
		if time.Now().After(deadline) || status(out) != "NOERROR" {
			t.Fatalf("after its upstream died: %s", out)
		}
	}
	if out := l.dig("never.example"); status(out) != "SERVFAIL" || !strings.Contains(out, "No Reachable Authority") {
		t.Errorf("what never was known: %s", out)
	}
}

// TestTTL: clients see what is left of a TTL.
func TestTTL(t *testing.T) {
	l := newLab(t)
	l.unbound(upstreamA, records...)
	l.start("dns: {upstream: 192.0.2.53, lan0: {}}\n")
	l.dig("www.example")
	began := time.Now()
	for { // until a second has passed, by the TTL itself
		out := l.dig("www.example")
		_, rest, _ := strings.Cut(out, "ANSWER SECTION:\nwww.example.\t\t")
		var ttl int
		if _, err := fmt.Sscan(rest, &ttl); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		elapsed := int(time.Since(began).Seconds()) + 1
		if ttl < 300-elapsed || ttl > 300 {
			t.Fatalf("TTL %d after %d s of 300", ttl, elapsed)
		}
		if ttl < 300 {
			break
		}
		if elapsed > int(patience.Seconds()) {
			t.Fatal("the TTL stays at 300")
		}
	}
}

// TestDomains: who is asked for one domain, and that nobody else hears of it.
func TestDomains(t *testing.T) {
	l := newLab(t)
	l.unbound(upstreamA, records...)
	l.dnsmasq(upstreamB, "--local=/corp.test/", "--host-record=a.corp.test,10.1.1.1",
		"--ptr-record=7.0.9.10.in-addr.arpa,x")
	l.start("dns: {upstream: 192.0.2.53, domains: {corp.test: 192.0.2.54, 10.in-addr.arpa: 192.0.2.54," +
		" gone.example: none}, lan0: {}}\n")
	for ask, want := range map[string]string{"a.corp.test": "10.1.1.1", "-x 10.9.0.7": "x.", "www.example": "203.0.113.80",
		"www.gone.example": ""} {
		if got := l.short(strings.Fields(ask)...); got != want {
			t.Errorf("dig %s = %q; want %q", ask, got, want)
		}
	}
}

// TestUplink: servers that DHCP names are asked, and others when they change.
func TestUplink(t *testing.T) {
	l := newLab(t)
	l.unbound(upstreamA, records...)
	learnt := filepath.Join(l.root, contract.LearntPath)
	netns.Must(t, os.MkdirAll(filepath.Dir(learnt), 0o755))
	netns.Must(t, os.WriteFile(learnt, []byte("nameserver 127.0.0.1\nnameserver 192.0.2.1\nnameserver 192.0.2.99\n"),
		0o644))
	profile := strings.Replace(base, "address: 192.0.2.1/24, gateway: 192.0.2.254", "address: dhcp", 1)
	l.startProfile(profile + "dns: {upstream: uplink, lan0: {}}\n")
	netns.Must(t, os.WriteFile(learnt+".new", []byte("nameserver "+upstreamA+"\n"), 0o644))
	netns.Must(t, os.Rename(learnt+".new", learnt))
	for deadline := time.Now().Add(patience); l.short("+time=2", "www.example") != "203.0.113.80"; {
		if time.Now().After(deadline) {
			t.Fatalf("the new server is not asked: %+v", l.told())
		}
	}
	if s := l.told().Servers; len(s) != 1 || !strings.HasPrefix(s[0].Server, upstreamA) {
		t.Errorf("servers %+v", s)
	}
}

// TestOverTLS: unbound is asked by TLS when its certificate is right, and not at all when it is not.
func TestOverTLS(t *testing.T) {
	l := newLab(t)
	key, cert, pin := certificate(t, l.root, "dns.test")
	l.unbound(upstreamA, append([]string{"interface: " + upstreamA + "@853", "tls-service-key: " + key,
		"tls-service-pem: " + cert, "tls-port: 853"}, records...)...)
	for upstream, want := range map[string]string{
		"192.0.2.53#dns.test": "203.0.113.80", "192.0.2.53#wrong.test": "",
		"{address: 192.0.2.53, tls: any.test, pin: " + pin + "}":                                  "203.0.113.80",
		"{address: 192.0.2.53, tls: dns.test, pin: AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=}": "",
	} {
		l.start("dns: {upstream: [" + upstream + "], ca: cert.pem, lan0: {}}\n")
		if got := l.short("www.example"); got != want {
			t.Errorf("%s: www.example = %q; want %q", upstream, got, want)
		}
		if s := l.told().Servers[0]; s.TCP == 0 || (s.Answered > 0) != (want != "") {
			t.Errorf("%s: %+v", upstream, s)
		}
		l.stop()
	}
}

// certificate makes one for a name, as files, and the pin of its key.
func certificate(t *testing.T, dir, name string) (keyFile, certFile, pin string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	netns.Must(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		DNSNames:  []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	netns.Must(t, err)
	parsed, err := x509.ParseCertificate(raw)
	netns.Must(t, err)
	private, err := x509.MarshalECPrivateKey(key)
	netns.Must(t, err)
	keyFile, certFile = filepath.Join(dir, "key.pem"), filepath.Join(dir, "cert.pem")
	netns.Must(t, os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: private}), 0o644))
	netns.Must(t, os.WriteFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw}), 0o644))
	sum := sha256.Sum256(parsed.RawSubjectPublicKeyInfo)
	return keyFile, certFile, base64.StdEncoding.EncodeToString(sum[:])
}

// TestOnlyDeclaredLinks: nothing answers on a link that the profile does not name, whatever address is asked.
func TestOnlyDeclaredLinks(t *testing.T) {
	l := newLab(t)
	l.unbound(upstreamA, records...)
	l.start("dns: {upstream: 192.0.2.53, self: true, lan0: {}}\n")
	l.others.Route(t, l.others.Device(t, "eth0"), netns.Single(netip.MustParseAddr(gatewayAddr)),
		netip.MustParseAddr("192.0.2.1"), 0)
	for _, addr := range []string{"192.0.2.1", gatewayAddr} {
		for _, how := range []string{"+notcp", "+tcp"} {
			out, _ := l.others.Command("dig", "+tries=1", "+time=2", how, "@"+addr, "www.example").CombinedOutput()
			if strings.Contains(string(out), "status:") {
				t.Errorf("from outside, %s %s: %s", addr, how, out)
			}
		}
	}
	out, err := l.gw.Command("dig", "+short", "+tries=1", "@127.0.0.1", "www.example").CombinedOutput()
	if err != nil || strings.TrimSpace(string(out)) != "203.0.113.80" {
		t.Errorf("the guest itself: %s, %v", out, err)
	}
	if got := l.short("@fd00:1::1", "www.example"); got != "203.0.113.80" {
		t.Errorf("over IPv6: %q", got)
	}
}
