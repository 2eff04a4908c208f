package dns

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"rempart/firstboot/contract/identity"
	"rempart/profiles"
)

// maxCertificate bounds the file with a certificate and its key, in bytes: that of any secret.
const maxCertificate = 64 << 10

// alpn is what clients of DNS over TLS say they speak, if anything (RFC 7858, IANA's registry of ALPN protocol ids).
const alpn = "dot"

// secureConfig is how TLS is spoken with clients: with the certificate that the identity disk was given, or else the
// one that was made for it. nil: no link serves DNS by TLS.
func secureConfig(root string, d *profiles.DNS) (*tls.Config, error) {
	if !d.ServesTLS() {
		return nil, nil
	}
	c, err := certificate(root, identity.DNSGiven)
	if errors.Is(err, fs.ErrNotExist) {
		c, err = certificate(root, identity.DNSMade)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errors.New("DNS is not served by TLS: there is no certificate on the identity disk; start the guest" +
			" anew with one, which has it made, or give your own by --dns-key FILE")
	}
	if err != nil {
		return nil, fmt.Errorf("DNS is not served by TLS: %w", err)
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{c}, NextProtos: []string{alpn}}, nil
}

// certificate reads a certificate and its key. No error shows any of them.
func certificate(root, name string) (tls.Certificate, error) {
	f, err := os.Open(filepath.Join(root, identity.SecretPath(identity.ConsumerDNS, name)))
	if err != nil {
		return tls.Certificate{}, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxCertificate))
	if err != nil {
		return tls.Certificate{}, err
	}
	c, err := tls.X509KeyPair(b, b)
	if err != nil && strings.HasPrefix(err.Error(), "tls: ") {
		return c, fmt.Errorf("the certificate of the identity disk: %w", err) // Go's words, never the file's
	}
	if err != nil {
		return c, errors.New("the certificate of the identity disk is none that can be read")
	}
	return c, nil
}
