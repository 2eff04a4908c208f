package dns

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"

	"rempart/firstboot/contract/identity"
	"rempart/firstboot/secret"
	"rempart/profiles"
)

// alpn is what clients of DNS over TLS say they speak, if anything (RFC 7858, IANA's registry of ALPN protocol ids).
const alpn = "dot"

// secureConfig is how TLS is spoken with clients: with the certificate that the identity disk was given, or else the
// one that was made for it. nil: no link serves DNS by TLS.
func secureConfig(root string, d *profiles.DNS) (*tls.Config, error) {
	if !d.ServesTLS() {
		return nil, nil
	}
	c, err := secret.Certificate(root, identity.ConsumerDNS, identity.DNSGiven)
	if errors.Is(err, fs.ErrNotExist) {
		c, err = secret.Certificate(root, identity.ConsumerDNS, identity.DNSMade)
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
