package guest

import (
	"bytes"
	"crypto/tls"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"rempart/firstboot/contract/identity"
	"rempart/profiles"
)

func TestKeysAreNotRepeated(t *testing.T) {
	file := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(file, []byte("SECRET"), 0o600); err != nil {
		t.Fatal(err)
	}
	for option, read := range map[string]func(*identity.Identity, string) error{"--log-key": ReadLogKey,
		"--dns-key": ReadDNSKey} {
		err := read(&identity.Identity{}, file)
		if err == nil || strings.Contains(err.Error(), "SECRET") || !strings.Contains(err.Error(), option) {
			t.Errorf("%s of rubbish = %v; want an error that names the option, without what is in the file", option, err)
		}
	}
}

// serving is a profile that serves DNS by TLS on its link lan, whose address is each guest's own.
func serving() *profiles.Profile {
	return &profiles.Profile{Name: "gw", Links: []profiles.Link{{Name: "wan"}, {Name: "lan", Instance: true}},
		DNS: &profiles.DNS{Links: []profiles.DNSLink{{Link: "wan", Domain: "example.net"},
			{Link: "lan", Domain: "home.arpa", TLS: true}}}}
}

// TestDropKeys: what the guest was known by is made anew, DNS over TLS too; what was given stays.
func TestDropKeys(t *testing.T) {
	p := serving()
	id := &identity.Identity{Hostname: "gate"}
	if err := makeDNSKey(id, p, time.Now()); err != nil {
		t.Fatal(err)
	}
	before, err := DNSCertificate(id, p)
	if err != nil {
		t.Fatal(err)
	}
	id.SetSecret(identity.ConsumerSSH, identity.SSHHostKey, []byte("the host key"))
	id.SetSecret(identity.ConsumerWireGuard, "wg0", []byte("private"))
	given := []struct{ consumer, name string }{{identity.ConsumerSSH, identity.SSHAuthorizedKeys},
		{identity.ConsumerWireGuard, "wg0/peer"}, {identity.ConsumerDNS, identity.DNSGiven}}
	for _, g := range given {
		id.SetSecret(g.consumer, g.name, []byte("given"))
	}
	DropKeys(id)
	if len(id.Secrets) != len(given) {
		t.Errorf("after DropKeys there are %d secrets; want the %d that were given", len(id.Secrets), len(given))
	}
	for _, g := range given {
		if string(id.Secret(g.consumer, g.name)) != "given" {
			t.Errorf("DropKeys took %s/%s", g.consumer, g.name)
		}
	}
	id.Secrets = id.Secrets[:2] // the one that was given for DNS stands in the way
	if err := makeDNSKey(id, p, time.Now()); err != nil {
		t.Fatal(err)
	}
	if after, err := DNSCertificate(id, p); err != nil || after.Pin == before.Pin {
		t.Errorf("the certificate after it: %+v, %v; want another key", after, err)
	}
}

// TestDNSKey: a guest that serves DNS by TLS gets a certificate for its name and addresses, which clients go on to know
// when it is made anew; one that was given is left as it is, and who serves none gets none.
func TestDNSKey(t *testing.T) {
	p, now := serving(), time.Now()
	id := &identity.Identity{Hostname: "gate", Links: []identity.Link{{Name: "lan",
		Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/24")}}}}
	made := func(at time.Time) (*Certificate, tls.Certificate, []byte) {
		t.Helper()
		if err := makeDNSKey(id, p, at); err != nil {
			t.Fatal(err)
		}
		b := id.Secret(identity.ConsumerDNS, identity.DNSMade)
		pair, err := tls.X509KeyPair(b, b)
		if err != nil {
			t.Fatal(err)
		}
		c, err := DNSCertificate(id, p)
		if err != nil || c.Given || !slices.Equal(c.Names, pair.Leaf.DNSNames) {
			t.Fatalf("DNSCertificate = %+v, %v; want %v, made here", c, err, pair.Leaf.DNSNames)
		}
		return c, pair, b
	}
	first, pair, bytesOf := made(now)
	if err := pair.Leaf.VerifyHostname("gate.home.arpa"); err != nil {
		t.Error(err)
	}
	if err := pair.Leaf.VerifyHostname("10.0.0.1"); err != nil {
		t.Error(err)
	}
	if err := pair.Leaf.VerifyHostname("gate.example.net"); err == nil {
		t.Error("the certificate is for a link that is not served by TLS")
	}
	if _, _, again := made(now); !bytes.Equal(again, bytesOf) {
		t.Error("nothing has changed, and the certificate is another one")
	}
	p.DNS.Links[1].Domain = "lan.example"
	renamed, pair, _ := made(now)
	if renamed.Pin != first.Pin || pair.Leaf.VerifyHostname("gate.lan.example") != nil {
		t.Errorf("in another domain: %+v; want another name and the same pin", renamed)
	}
	late := renamed.Ends.AddDate(-1, 0, 0)
	if renewed, _, _ := made(late); renewed.Pin != first.Pin || !renewed.Ends.After(late.AddDate(leftYears, 0, 0)) {
		t.Errorf("a year before its end: %+v; want a later end and the same pin", renewed)
	}
	// The one that is given goes above it.
	other := &identity.Identity{Hostname: "other"}
	if err := makeDNSKey(other, p, now); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "given.pem")
	if err := os.WriteFile(file, other.Secret(identity.ConsumerDNS, identity.DNSMade), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := ReadDNSKey(id, file); err != nil {
		t.Fatal(err)
	}
	if c, err := DNSCertificate(id, p); err != nil || !c.Given || c.Pin == first.Pin {
		t.Errorf("with one given: %+v, %v; want that one", c, err)
	}
	none := &identity.Identity{}
	p.DNS.Links[1].TLS = false
	if err := makeDNSKey(none, p, now); err != nil || len(none.Secrets) != 0 {
		t.Errorf("without TLS: %v, secrets %d; want none", err, len(none.Secrets))
	}
	if c, err := DNSCertificate(none, p); c != nil || err != nil {
		t.Errorf("without TLS: %+v, %v; want none", c, err)
	}
}

// TestDNSKeyIsEnsured: the identity disk of a guest has it, and its addresses as they are given later.
func TestDNSKeyIsEnsured(t *testing.T) {
	p := serving()
	id, err := EnsureIdentity(filepath.Join(t.TempDir(), "identity"), "gate", p, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := SetAddresses(id, p, []string{"lan=10.0.7.1/24"}, nil); err != nil {
		t.Fatal(err)
	}
	b := id.Secret(identity.ConsumerDNS, identity.DNSMade)
	pair, err := tls.X509KeyPair(b, b)
	if err != nil || pair.Leaf.VerifyHostname("10.0.7.1") != nil {
		t.Errorf("the certificate is not for the address that was given: %v", err)
	}
}
