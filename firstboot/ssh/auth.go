package ssh

import (
	"bytes"
	"crypto/rsa"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"sync/atomic"

	"golang.org/x/crypto/ssh"

	"rempart/firstboot/child"
	"rempart/firstboot/contract/identity"
	"rempart/firstboot/secret"
)

// key is one that may log in.
type key struct {
	ssh.PublicKey
	comment string
}

// maxKeys bounds how many keys may log in: each connection is compared with all.
const maxKeys = 256

// authorized are the keys of the profile and of the identity disk. With an error it returns those that are good.
func authorized(env *child.Env) ([]key, error) {
	var all []key
	var failed []error
	for _, text := range env.Profile.Admin.Keys {
		keys, err := parseKeys([]byte(text))
		if err != nil {
			err = fmt.Errorf("key of the profile: %w", err)
		}
		failed = append(failed, err)
		all = append(all, keys...)
	}
	b, err := secret.Read(env.Root, identity.ConsumerSSH, identity.SSHAuthorizedKeys)
	if err == nil {
		var keys []key
		if keys, err = parseKeys(b); err != nil {
			err = fmt.Errorf("keys of the identity disk: %w", err)
		}
		all = append(all, keys...)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		failed = append(failed, err)
	}
	if len(all) > maxKeys {
		all = all[:maxKeys]
		failed = append(failed, fmt.Errorf("more than %d keys: the rest is left out", maxKeys))
	}
	return all, errors.Join(failed...)
}

// parseKeys reads the lines of an authorized_keys file (sshd(8)). Options are refused: they promise restrictions that
// nothing here keeps.
func parseKeys(b []byte) (all []key, err error) {
	var failed []error
	for n, line := range bytes.Split(b, []byte{'\n'}) {
		line = bytes.TrimSpace(line)
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		public, comment, options, _, err := ssh.ParseAuthorizedKey(line)
		switch {
		case err != nil:
			err = errors.New("no public key")
		case len(options) > 0:
			err = errors.New("options before the key are not supported")
		case !strong(public):
			err = fmt.Errorf("keys of type %s, or so short, are not taken", public.Type())
		}
		if err != nil {
			failed = append(failed, fmt.Errorf("line %d: %w", n+1, err))
			continue
		}
		all = append(all, key{public, comment})
	}
	return all, errors.Join(failed...)
}

// strong tells whether a key is of a kind that is taken.
func strong(k ssh.PublicKey) bool {
	switch k.Type() {
	case ssh.KeyAlgoED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521, ssh.KeyAlgoSKED25519,
		ssh.KeyAlgoSKECDSA256:
		return true
	case ssh.KeyAlgoRSA:
		const shortest = 2048 // bits; NIST SP 800-131A rev. 2
		c, ok := k.(ssh.CryptoPublicKey)
		if !ok {
			return false
		}
		public, ok := c.CryptoPublicKey().(*rsa.PublicKey)
		return ok && public.N.BitLen() >= shortest
	}
	return false
}

// errUnknown tells a client nothing: what it offered is simply not taken.
var errUnknown = errors.New("unknown key")

// algorithms are the modern ones of both sides: what OpenSSH 7.4 (2016) and later agree on.
var algorithms = ssh.Config{
	KeyExchanges: []string{ssh.KeyExchangeMLKEM768X25519, ssh.KeyExchangeCurve25519},
	Ciphers: []string{ssh.CipherChaCha20Poly1305, ssh.CipherAES256GCM, ssh.CipherAES128GCM, ssh.CipherAES256CTR,
		ssh.CipherAES128CTR},
	MACs: []string{ssh.HMACSHA256ETM, ssh.HMACSHA512ETM},
}

// keyAlgorithms are what clients may sign with.
var keyAlgorithms = []string{ssh.KeyAlgoED25519, ssh.KeyAlgoSKED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384,
	ssh.KeyAlgoECDSA521, ssh.KeyAlgoSKECDSA256, ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256}

// Extensions of ssh.Permissions, for the log.
const (
	permissionKey     = "key"
	permissionComment = "comment"
)

// serverConfig lets in who has one of the keys at that moment.
func serverConfig(signer ssh.Signer, keys *atomic.Pointer[[]key]) *ssh.ServerConfig {
	c := &ssh.ServerConfig{
		Config:                  algorithms,
		PublicKeyAuthAlgorithms: keyAlgorithms,
		MaxAuthTries:            maxTries,
		ServerVersion:           "SSH-2.0-rempart",
		PublicKeyCallback: func(_ ssh.ConnMetadata, offered ssh.PublicKey) (*ssh.Permissions, error) {
			b := offered.Marshal()
			for _, k := range *keys.Load() {
				if bytes.Equal(b, k.Marshal()) {
					return &ssh.Permissions{Extensions: map[string]string{permissionKey: ssh.FingerprintSHA256(k),
						permissionComment: strconv.QuoteToASCII(k.comment)}}, nil
				}
			}
			return nil, errUnknown
		},
	}
	c.AddHostKey(signer)
	return c
}
