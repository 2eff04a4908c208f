package dns

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"rempart/firstboot/contract/identity"
	"rempart/profiles"
)

// TestSecureConfig: which certificate is shown, and what is said when there is none that can be.
func TestSecureConfig(t *testing.T) {
	p := &profiles.Profile{Name: "gw", DNS: &profiles.DNS{Links: []profiles.DNSLink{{Link: "lan", TLS: true}}}}
	pair := func(name string) []byte {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{name}}
		der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
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
	made, given := pair("made"), pair("given")
	cert, key, _ := strings.Cut(string(pair("cut")), "-----BEGIN PRIVATE KEY-----")
	for name, c := range map[string]struct {
		files map[string][]byte
		want  string // name in the certificate, or what the error says
	}{
		"none":             {nil, "--dns-key"},
		"made":             {map[string][]byte{identity.DNSMade: made}, "made"},
		"given":            {map[string][]byte{identity.DNSGiven: given}, "given"},
		"given goes above": {map[string][]byte{identity.DNSGiven: given, identity.DNSMade: made}, "given"},
		"without its key": {map[string][]byte{identity.DNSGiven: []byte(cert), identity.DNSMade: made},
			"not served by TLS"},
		"another one's key":   {map[string][]byte{identity.DNSGiven: append([]byte(cert), made...)}, "not served by TLS"},
		"rubbish":             {map[string][]byte{identity.DNSGiven: []byte("SECRET " + key)}, "not served by TLS"},
		"nothing in the file": {map[string][]byte{identity.DNSGiven: nil}, "not served by TLS"},
	} {
		root := t.TempDir()
		for file, b := range c.files {
			path := filepath.Join(root, identity.SecretPath(identity.ConsumerDNS, file))
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		config, err := secureConfig(root, p.DNS)
		got := ""
		if err != nil {
			got = err.Error()
		} else {
			got = config.Certificates[0].Leaf.DNSNames[0]
		}
		if !strings.Contains(got, c.want) || strings.Contains(got, "SECRET") {
			t.Errorf("%s: %q; want %q", name, got, c.want)
		}
	}
	p.DNS.Links[0].TLS = false
	if config, err := secureConfig(t.TempDir(), p.DNS); config != nil || err != nil {
		t.Errorf("where nobody is served by TLS: %v, %v; want neither", config, err)
	}
}
