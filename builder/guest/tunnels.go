package guest

import (
	"crypto/ecdh"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"rempart/firstboot/contract/identity"
	"rempart/profiles"
)

// makeTunnelKeys gives each WireGuard link of a profile a private key that has none.
func makeTunnelKeys(id *identity.Identity, p *profiles.Profile) error {
	for _, l := range p.Links {
		if l.WireGuard == nil || id.Secret(identity.ConsumerWireGuard, l.Name) != nil {
			continue
		}
		key, err := ecdh.X25519().GenerateKey(rand.Reader)
		if err != nil {
			return fmt.Errorf("key of the tunnel %s: %w", l.Name, err)
		}
		id.SetSecret(identity.ConsumerWireGuard, l.Name, []byte(base64.StdEncoding.EncodeToString(key.Bytes())+"\n"))
	}
	return nil
}

// ReadTunnelKeys puts WireGuard keys onto an identity, each given as LINK=FILE, a private key, or LINK/PEER=FILE, a
// preshared one; the files are as wg(8) writes them. No error shows any of a key.
func ReadTunnelKeys(id *identity.Identity, p *profiles.Profile, given []string) error {
	var errs []error
	for _, g := range given {
		name, file, ok := strings.Cut(g, "=")
		if !ok || file == "" {
			errs = append(errs, fmt.Errorf("%q: want LINK=FILE, or LINK/PEER=FILE", name))
			continue
		}
		if known := tunnelSecrets(p); !slices.Contains(known, name) {
			errs = append(errs, fmt.Errorf("%s has no tunnel and no peer with a preshared key called %q; it has: %s", p.Name,
				name, strings.Join(known, ", ")))
			continue
		}
		key, err := readTunnelKey(file)
		if err != nil {
			errs = append(errs, fmt.Errorf("WireGuard key %s: %w", name, err))
			continue
		}
		id.SetSecret(identity.ConsumerWireGuard, name, []byte(base64.StdEncoding.EncodeToString(key)+"\n"))
	}
	return errors.Join(errs...)
}

// tunnelSecrets are the names of all keys a guest with a profile needs.
func tunnelSecrets(p *profiles.Profile) []string {
	var all []string
	for _, l := range p.Links {
		if l.WireGuard == nil {
			continue
		}
		all = append(all, l.Name)
		for _, peer := range l.WireGuard.Peers {
			if peer.Preshared {
				all = append(all, l.Name+"/"+peer.Name)
			}
		}
	}
	return all
}

// maxTunnelKey is more than a key in base64 and the white space round it, in bytes.
const maxTunnelKey = 256

func readTunnelKey(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxTunnelKey))
	if err != nil {
		return nil, err
	}
	return decodeTunnelKey(b, file)
}

func decodeTunnelKey(b []byte, where string) ([]byte, error) {
	key, err := base64.StdEncoding.Strict().DecodeString(strings.TrimSpace(string(b)))
	if err != nil || len(key) != 32 {
		return nil, fmt.Errorf("%s is no key: want 32 bytes in base64, as `wg genkey` prints them", where)
	}
	return key, nil
}

// Tunnel is what people must know of a tunnel of a guest.
type Tunnel struct {
	Link    string
	Public  string   // its public key, for the peers' configurations
	Missing []string // peers whose preshared key the identity lacks; the link stays closed until it has them
}

// Tunnels are the WireGuard links of a guest.
func Tunnels(id *identity.Identity, p *profiles.Profile) ([]Tunnel, error) {
	var all []Tunnel
	for _, l := range p.Links {
		if l.WireGuard == nil {
			continue
		}
		b, err := decodeTunnelKey(id.Secret(identity.ConsumerWireGuard, l.Name), "the identity's key of "+l.Name)
		if err != nil {
			return nil, err
		}
		private, err := ecdh.X25519().NewPrivateKey(b)
		if err != nil {
			return nil, fmt.Errorf("the identity's key of %s is no key of Curve25519", l.Name)
		}
		t := Tunnel{Link: l.Name, Public: base64.StdEncoding.EncodeToString(private.PublicKey().Bytes())}
		for _, peer := range l.WireGuard.Peers {
			if peer.Preshared && id.Secret(identity.ConsumerWireGuard, l.Name+"/"+peer.Name) == nil {
				t.Missing = append(t.Missing, peer.Name)
			}
		}
		all = append(all, t)
	}
	return all, nil
}
