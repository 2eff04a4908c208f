package guest

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"rempart/builder/files"
	"rempart/builder/hypervisor"
	"rempart/firstboot/contract/identity"
	"rempart/profiles"
)

// seedSize is the size of the random seed of an identity in bytes: twice the kernel's pool.
const seedSize = 64

// IdentityPath is where the identity disk of a guest made from the master lies: beside its state disk.
func (m *Master) IdentityPath(guest string) string { return m.beside(guest, "identity") }

// EnsureIdentity makes the identity disk of a guest at path, or brings the one that is there up to date: each NIC has a
// hardware address, each WireGuard link a private key, there is an SSH host key, DNS over TLS has a certificate, and
// the random seed is a new one. What it has already stays: addresses, keys, secrets. keys, when there are any, replace
// the SSH keys that may log in. The file appears whole and is for its owner only.
func EnsureIdentity(path, name string, p *profiles.Profile, keys []byte) (*identity.Identity, error) {
	id, err := ReadIdentity(path)
	if errors.Is(err, fs.ErrNotExist) {
		id, err = &identity.Identity{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%w; remove it to have a new one made, with another host key", err)
	}
	id.Hostname = name
	nics, err := Links(name, p)
	if err != nil {
		return nil, err
	}
	for _, nic := range nics {
		i := slices.IndexFunc(id.Links, func(l identity.Link) bool { return l.Name == nic.Link })
		if i < 0 {
			id.Links = append(id.Links, identity.Link{Name: nic.Link})
			i = len(id.Links) - 1
		}
		if id.Links[i].MAC == "" || slices.ContainsFunc(p.NICs(), func(l profiles.Link) bool {
			return l.Name == nic.Link && l.MAC != ""
		}) {
			id.Links[i].MAC = nic.MAC.String() // what the profile says goes above what was made up
		}
	}
	if id.Secret(identity.ConsumerSSH, identity.SSHHostKey) == nil {
		key, err := newHostKey()
		if err != nil {
			return nil, fmt.Errorf("SSH host key: %w", err)
		}
		id.SetSecret(identity.ConsumerSSH, identity.SSHHostKey, key)
	}
	if err := makeTunnelKeys(id, p); err != nil {
		return nil, err
	}
	if err := makeDNSKey(id, p, time.Now()); err != nil {
		return nil, err
	}
	if len(keys) > 0 {
		id.SetSecret(identity.ConsumerSSH, identity.SSHAuthorizedKeys, keys)
	}
	id.Seed = make([]byte, seedSize)
	if _, err := rand.Read(id.Seed); err != nil {
		return nil, err
	}
	return id, WriteIdentity(path, id)
}

// newHostKey is an Ed25519 key in PKCS #8.
func newHostKey() ([]byte, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// ReadIdentity reads an identity disk.
func ReadIdentity(path string) (*identity.Identity, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("identity disk: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, identity.MaxSize))
	if err != nil {
		return nil, fmt.Errorf("identity disk: %w", err)
	}
	id, err := identity.Decode(b)
	if err != nil {
		return nil, fmt.Errorf("identity disk %s: %w", path, err)
	}
	return id, nil
}

// WriteIdentity writes an identity disk, which appears whole or not at all. A guest that has the old one keeps that.
func WriteIdentity(path string, id *identity.Identity) error {
	b, err := id.Encode()
	if err != nil {
		return err
	}
	if err := files.Write(path, b, 0o600); err != nil {
		return fmt.Errorf("identity disk: %w", err)
	}
	return nil
}

// NICs are the NICs of a guest with a profile as Start makes them, in bus order: those of the profile, with the
// hardware addresses of the identity disk where there is one and it is attached.
func NICs(p *profiles.Profile, s Settings) ([]hypervisor.NIC, error) {
	nics, err := Links(p.Name, p)
	if err != nil || s.Identity == "" || !s.Firmware.TakesIdentity() {
		return nics, err
	}
	id, err := ReadIdentity(s.Identity)
	if err != nil {
		return nil, err
	}
	return nics, giveAddresses(nics, id)
}

// giveAddresses gives NICs the hardware addresses of an identity.
func giveAddresses(nics []hypervisor.NIC, id *identity.Identity) error {
	facts := &profiles.Profile{}
	for _, n := range nics {
		facts.Links = append(facts.Links, profiles.Link{Name: n.Link, MAC: n.MAC.String()})
	}
	id.Facts().Apply(facts)
	for i := range nics {
		mac, err := parseMAC(facts.Links[i])
		if err != nil {
			return err
		}
		nics[i].MAC = mac
	}
	return nil
}

// HostKeyFingerprint is the fingerprint of an identity's SSH host key, as OpenSSH shows it: "SHA256:...".
func HostKeyFingerprint(id *identity.Identity) (string, error) {
	wire, err := hostKeyWire(id)
	if err != nil {
		return "", err
	}
	return fingerprint(wire), nil
}

// HostKeyLine is the public part of an identity's SSH host key, as it stands in known_hosts after the host's name.
func HostKeyLine(id *identity.Identity) (string, error) {
	wire, err := hostKeyWire(id)
	if err != nil {
		return "", err
	}
	return keyEd25519 + " " + base64.StdEncoding.EncodeToString(wire), nil
}

// hostKeyWire is the public part in the wire format of RFC 8709, section 4. No error shows any of the key.
func hostKeyWire(id *identity.Identity) ([]byte, error) {
	block, _ := pem.Decode(id.Secret(identity.ConsumerSSH, identity.SSHHostKey))
	if block == nil {
		return nil, errors.New("SSH host key: it is not PEM")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, errors.New("SSH host key: it is not PKCS #8")
	}
	private, ok := key.(ed25519.PrivateKey)
	if !ok {
		return nil, errors.New("SSH host key: it is not an Ed25519 key")
	}
	var wire bytes.Buffer
	putString(&wire, []byte(keyEd25519))
	putString(&wire, private.Public().(ed25519.PublicKey))
	return wire.Bytes(), nil
}

// DropKeys takes the keys from an identity that the guest is known by: EnsureIdentity makes new ones. Secrets that were
// given stay.
func DropKeys(id *identity.Identity) {
	id.Secrets = slices.DeleteFunc(id.Secrets, func(s identity.Secret) bool {
		return s.Consumer == identity.ConsumerSSH && s.Name == identity.SSHHostKey ||
			s.Consumer == identity.ConsumerDNS && s.Name == identity.DNSMade ||
			s.Consumer == identity.ConsumerWireGuard && !strings.Contains(s.Name, "/") // LINK/PEER is a preshared one
	})
}
