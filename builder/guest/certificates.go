package guest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"slices"
	"time"

	"rempart/firstboot/contract/identity"
	"rempart/profiles"
)

// maxPair bounds the file with a certificate and its key, in bytes: that of a secret.
const maxPair = 64 << 10

// ReadLogKey puts a certificate and its private key, which the guest shows its log server, onto an identity.
func ReadLogKey(id *identity.Identity, file string) error {
	b, err := readPair("--log-key", file)
	if err == nil {
		id.SetSecret(identity.ConsumerSyslog, identity.SyslogClient, b)
	}
	return err
}

// ReadDNSKey puts a certificate and its private key, which the guest's name service shows who asks by TLS, onto an
// identity, in place of the one that is made.
func ReadDNSKey(id *identity.Identity, file string) error {
	b, err := readPair("--dns-key", file)
	if err == nil {
		id.SetSecret(identity.ConsumerDNS, identity.DNSGiven, b)
	}
	return err
}

// readPair reads a certificate and its key as an option names them. No error shows any of the file.
func readPair(option, file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", option, err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxPair))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", option, err)
	}
	if _, err := tls.X509KeyPair(b, b); err != nil {
		return nil, fmt.Errorf("%s %s: want a certificate and its private key, both in PEM, one after the other", option,
			file)
	}
	return b, nil
}

// How long a certificate holds that is made here, and how much of it must be left when a guest starts. Nobody but its
// key vouches for it, so that its end says no more than that somebody looked after it.
const (
	madeYears = 10
	leftYears = 2
)

// makeDNSKey gives an identity a certificate for DNS over TLS where the profile wants one and none was given. The key
// stays once it was made, for clients know the server by it; the certificate is made anew when the guest's names or
// addresses are others, or when it ends soon.
func makeDNSKey(id *identity.Identity, p *profiles.Profile, now time.Time) error {
	if !p.DNS.ServesTLS() || id.Secret(identity.ConsumerDNS, identity.DNSGiven) != nil {
		return nil
	}
	own := *p
	own.Links = slices.Clone(p.Links)
	id.Facts().ApplyAddresses(&own)
	names, addresses := dnsNames(id.Hostname, &own)
	made := id.Secret(identity.ConsumerDNS, identity.DNSMade)
	var key *ecdsa.PrivateKey
	if pair, err := tls.X509KeyPair(made, made); err == nil {
		key, _ = pair.PrivateKey.(*ecdsa.PrivateKey)
		same := slices.Equal(pair.Leaf.DNSNames, names) &&
			slices.EqualFunc(pair.Leaf.IPAddresses, addresses, net.IP.Equal)
		if key != nil && same && pair.Leaf.NotAfter.After(now.AddDate(leftYears, 0, 0)) {
			return nil
		}
	}
	var err error
	if key == nil {
		if key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			return fmt.Errorf("key of DNS over TLS: %w", err)
		}
	}
	const serialBits = 127 // at least 64 of them random, and positive (CA/Browser Forum 7.1, RFC 5280 4.1.2.2)
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), serialBits))
	if err != nil {
		return err
	}
	template := &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: names[0]}, DNSNames: names,
		IPAddresses: addresses, NotBefore: now.AddDate(0, 0, -1), NotAfter: now.AddDate(madeYears, 0, 0),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return fmt.Errorf("certificate of DNS over TLS: %w", err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("key of DNS over TLS: %w", err)
	}
	var b bytes.Buffer
	err = errors.Join(pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.Encode(&b, &pem.Block{Type: "PRIVATE KEY", Bytes: private}))
	if err != nil {
		return err
	}
	id.SetSecret(identity.ConsumerDNS, identity.DNSMade, b.Bytes())
	return nil
}

// dnsNames are the names and addresses by which clients ask a guest by TLS: its own name in the domain of each link
// that is served so, and the addresses it has there.
func dnsNames(hostname string, p *profiles.Profile) (names []string, addresses []net.IP) {
	if hostname == "" {
		hostname = p.Name
	}
	for _, served := range p.DNS.Links {
		if !served.TLS {
			continue
		}
		name := hostname
		if served.Domain != "" {
			name += "." + served.Domain
		}
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
		for _, l := range p.Links {
			if l.Name == served.Link {
				for _, a := range l.Addresses {
					addresses = append(addresses, a.Addr().AsSlice())
				}
			}
		}
	}
	return names, addresses
}

// Certificate is what people must know of the certificate that a guest's name service shows.
type Certificate struct {
	Names []string
	Pin   string // SHA-256 of its SubjectPublicKeyInfo in base64, by which clients may know it (RFC 7858, section 4.2)
	Ends  time.Time
	Given bool // it is not one that was made here
}

// DNSCertificate is the certificate of a guest's name service; nil: it needs none.
func DNSCertificate(id *identity.Identity, p *profiles.Profile) (*Certificate, error) {
	if !p.DNS.ServesTLS() {
		return nil, nil
	}
	b := id.Secret(identity.ConsumerDNS, identity.DNSGiven)
	c := &Certificate{Given: b != nil}
	if b == nil {
		b = id.Secret(identity.ConsumerDNS, identity.DNSMade)
	}
	pair, err := tls.X509KeyPair(b, b)
	if err != nil {
		return nil, errors.New("the certificate for DNS over TLS on the identity disk is none; give another one by" +
			" --dns-key FILE")
	}
	c.Names, c.Ends = pair.Leaf.DNSNames, pair.Leaf.NotAfter
	sum := sha256.Sum256(pair.Leaf.RawSubjectPublicKeyInfo)
	c.Pin = base64.StdEncoding.EncodeToString(sum[:])
	return c, nil
}
