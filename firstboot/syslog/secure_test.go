package syslog

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"rempart/firstboot/contract/identity"
	"rempart/profiles"
)

// authority signs certificates of a test.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  string
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	a := &authority{key: key}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true,
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	a.pem = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	return a
}

// issue makes a certificate for a name, or an address, and its key: both in PEM, one after the other.
func (a *authority) issue(t *testing.T, name string) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	if ip := net.ParseIP(name); ip != nil {
		template.IPAddresses = []net.IP{ip}
	} else {
		template.DNSNames = []string{name}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})...)
}

// rsyslog lays what the server needs into dir, and returns the line of its configuration.
func (a *authority) rsyslog(t *testing.T, dir string) string {
	t.Helper()
	pair := string(a.issue(t, "127.0.0.1"))
	cut := strings.Index(pair, "-----BEGIN PRIVATE KEY")
	for name, text := range map[string]string{"ca": a.pem, "cert": pair[:cut], "key": pair[cut:]} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return fmt.Sprintf("global(defaultNetstreamDriverCAFile=%q defaultNetstreamDriverCertFile=%q "+
		"defaultNetstreamDriverKeyFile=%q)\n", filepath.Join(dir, "ca"), filepath.Join(dir, "cert"),
		filepath.Join(dir, "key"))
}

// give puts a certificate onto the guest's identity.
func (g *guest) give(t *testing.T, client []byte) {
	t.Helper()
	file := filepath.Join(g.root, identity.SecretPath(identity.ConsumerSyslog, identity.SyslogClient))
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, client, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestTLS: the log goes to the server that is meant and to no other, whoever answers in its place.
func TestTLS(t *testing.T) {
	right, wrong := newAuthority(t), newAuthority(t)
	byAddress, byName := right.issue(t, "127.0.0.1"), right.issue(t, "logs.example")
	fingerprint := func(pair []byte) string {
		block, _ := pem.Decode(pair)
		return fmt.Sprintf("%x", sha256.Sum256(block.Bytes))
	}
	for name, x := range map[string]struct {
		server  []byte
		trust   profiles.LogTLS
		refused string // part of the warning; empty: the log arrives
	}{
		"by its authority and address": {byAddress, profiles.LogTLS{CA: right.pem}, ""},
		"by a name":                    {byName, profiles.LogTLS{CA: right.pem, Name: "logs.example"}, ""},
		"by its fingerprint":           {byName, profiles.LogTLS{Fingerprint: fingerprint(byName)}, ""},
		"by both": {byAddress, profiles.LogTLS{CA: right.pem, Fingerprint: fingerprint(byAddress)},
			""},
		"another authority": {wrong.issue(t, "127.0.0.1"), profiles.LogTLS{CA: right.pem}, "unknown authority"},
		"another name":      {byName, profiles.LogTLS{CA: right.pem}, "127.0.0.1"},
		"another fingerprint": {byName, profiles.LogTLS{Fingerprint: fingerprint(byAddress)},
			"another certificate"},
		"fingerprint without the authority": {wrong.issue(t, "127.0.0.1"), profiles.LogTLS{CA: right.pem,
			Fingerprint: fingerprint(byAddress)}, "unknown authority"},
		"nothing to know it by":        {byAddress, profiles.LogTLS{}, "neither an authority nor a fingerprint"},
		"a certificate that is wanted": {byAddress, profiles.LogTLS{CA: right.pem, Client: true}, "--log-key"},
	} {
		t.Run(name, func(t *testing.T) {
			pair, err := tls.X509KeyPair(x.server, x.server)
			if err != nil {
				t.Fatal(err)
			}
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			g := newGuest(t, netip.MustParseAddrPort(l.Addr().String()), profiles.TCP)
			g.profile.Logging.To.TLS = &x.trust
			g.say(3)
			came := make(chan net.Conn, 1)
			go func() {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				server := tls.Server(conn, &tls.Config{Certificates: []tls.Certificate{pair}})
				if err := server.Handshake(); err != nil || x.refused != "" {
					conn.Close()
					return
				}
				came <- server
			}()
			g.start(t, Spec())
			if x.refused == "" {
				conn := <-came
				defer conn.Close()
				wantLines(t, readFrames(t, conn, 3), 1)
				return
			}
			if w := <-g.warnings; !strings.Contains(w, x.refused) {
				t.Errorf("the child tells %q; want %q in it", w, x.refused)
			}
		})
	}
}
