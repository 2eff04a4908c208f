// Package secret reads what the guest's identity disk holds for a child: from the directory of secrets that PID 1 lets
// that child read. No error of it shows any part of one.
//
// What it deliberately does not do: read the identity disk; package identity does, once, at the start.
package secret

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"rempart/firstboot/contract/identity"
)

// maxBytes bounds a secret, in bytes: what an identity disk is made with at most.
const maxBytes = 64 << 10

// Read returns a secret. Its error is fs.ErrNotExist when the identity disk has none of that name.
func Read(root, consumer, name string) ([]byte, error) {
	f, err := os.Open(filepath.Join(root, identity.SecretPath(consumer, name)))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxBytes+1))
	if err != nil {
		return nil, fmt.Errorf("secret %s/%s: %w", consumer, name, err)
	}
	if len(b) > maxBytes {
		return nil, fmt.Errorf("secret %s/%s: more than %d bytes", consumer, name, maxBytes)
	}
	return b, nil
}

// Certificate returns a secret that is a certificate and its private key, both in PEM.
func Certificate(root, consumer, name string) (tls.Certificate, error) {
	b, err := Read(root, consumer, name)
	if err != nil {
		return tls.Certificate{}, err
	}
	c, err := tls.X509KeyPair(b, b)
	// Go's words, never the file's: those about blocks of other types name the types, as they stand there.
	if err != nil && strings.HasPrefix(err.Error(), "tls: ") && !strings.Contains(err.Error(), "types: ") {
		return c, fmt.Errorf("secret %s/%s: %w", consumer, name, err)
	}
	if err != nil {
		return c, errors.New("secret " + consumer + "/" + name + " is no certificate with its key, in PEM")
	}
	return c, nil
}
