package syslog

import (
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"

	"rempart/firstboot/contract/identity"
	"rempart/firstboot/secret"
	"rempart/profiles"
)

// secure is how the server is spoken to by TLS (RFC 5425): it has a certificate of an authority the profile names, for
// the name or address the profile says, or it has the one certificate whose fingerprint the profile says (section
// 4.2.2). The guest shows a certificate of its own when its identity disk has one.
func secure(root string, to *profiles.LogServer) (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: to.TLS.Name}
	if c.ServerName == "" {
		c.ServerName = to.Addr.WithZone("").String()
	}
	if to.TLS.CA != "" {
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM([]byte(to.TLS.CA)) {
			return nil, errors.New("the authority of the log server is no certificate")
		}
	}
	if to.TLS.Fingerprint != "" {
		want, err := hex.DecodeString(to.TLS.Fingerprint)
		if err != nil || len(want) != sha256.Size {
			return nil, errors.New("the fingerprint of the log server is no SHA-256")
		}
		// Who has that very certificate's key is the server, whoever signed it; with an authority both must hold.
		c.InsecureSkipVerify = to.TLS.CA == ""
		c.VerifyConnection = func(s tls.ConnectionState) error {
			got := sha256.Sum256(s.PeerCertificates[0].Raw)
			if subtle.ConstantTimeCompare(got[:], want) != 1 {
				return fmt.Errorf("the log server has another certificate: its fingerprint is %x", got)
			}
			return nil
		}
	}
	if c.RootCAs == nil && to.TLS.Fingerprint == "" {
		return nil, errors.New("neither an authority nor a fingerprint tells the log server from any other")
	}
	client, err := secret.Certificate(root, identity.ConsumerSyslog, identity.SyslogClient)
	if errors.Is(err, fs.ErrNotExist) {
		if to.TLS.Client {
			return nil, errors.New("the log server wants a certificate of the guest, and its identity disk has none; " +
				"start it with --log-key FILE")
		}
		return c, nil
	}
	c.Certificates = []tls.Certificate{client}
	return c, err
}
