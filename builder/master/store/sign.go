package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"aead.dev/minisign"

	"rempart/builder/master"
)

// Errors of signatures, for errors.Is.
var (
	ErrUnsigned  = errors.New("not signed")
	ErrUntrusted = errors.New("not signed by a trusted key")
)

const keySuffix = ".pub"

// Trust believes signatures of a minisign public key from now on, under a name. key is the content of its file.
func (s *Store) Trust(name string, key []byte) error {
	if err := CheckTag(name); err != nil {
		return err
	}
	var public minisign.PublicKey
	if err := public.UnmarshalText(key); err != nil {
		return fmt.Errorf("key %s: no minisign public key: %w", name, err)
	}
	unlock, err := s.lock()
	if err != nil {
		return err
	}
	defer unlock()
	text, err := public.MarshalText()
	if err != nil {
		return err
	}
	fresh := filepath.Join(s.dir, workDir, "key")
	if err := writeFile(fresh, append(text, '\n')); err != nil {
		return err
	}
	if err := os.Rename(fresh, filepath.Join(s.dir, trustedDir, name+keySuffix)); err != nil {
		return fmt.Errorf("master store: %w", err)
	}
	return syncDir(filepath.Join(s.dir, trustedDir))
}

// Trusted are the keys whose signatures are believed, by name.
func (s *Store) Trusted() (map[string]minisign.PublicKey, error) {
	entries, err := os.ReadDir(filepath.Join(s.dir, trustedDir))
	if err != nil {
		return nil, fmt.Errorf("master store: %w", err)
	}
	keys := map[string]minisign.PublicKey{}
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), keySuffix)
		if !ok {
			continue
		}
		key, err := minisign.PublicKeyFromFile(filepath.Join(s.dir, trustedDir, e.Name()))
		if err != nil {
			return nil, fmt.Errorf("master store: trusted key %s: %w", name, err)
		}
		keys[name] = key
	}
	return keys, nil
}

// Signer tells by the name of which trusted key a master is signed. The error wraps ErrUnsigned or ErrUntrusted.
func (s *Store) Signer(m *Master) (name string, err error) {
	signature, err := os.ReadFile(filepath.Join(m.Dir, SignatureFile))
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("master %.16s: %w", m.Digest, ErrUnsigned)
	}
	if err != nil {
		return "", err
	}
	return s.signerOf(m, signature)
}

// SignedBy looks whether the manifest of the master in a folder, which need not be in a store, is signed by a key. The
// error wraps ErrUnsigned or ErrUntrusted.
func SignedBy(dir string, key minisign.PublicKey) error {
	signature, err := os.ReadFile(filepath.Join(dir, SignatureFile))
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("master %s: %w", dir, ErrUnsigned)
	}
	if err != nil {
		return err
	}
	manifest, err := os.ReadFile(filepath.Join(dir, master.ManifestFile))
	if err != nil {
		return err
	}
	if !minisign.Verify(key, manifest, signature) {
		return fmt.Errorf("master %s: %w", dir, ErrUntrusted)
	}
	return nil
}

// signerOf is Signer of a signature that need not be the one in the store.
func (s *Store) signerOf(m *Master, signature []byte) (name string, err error) {
	manifest, err := os.ReadFile(filepath.Join(m.Dir, master.ManifestFile))
	if err != nil {
		return "", err
	}
	keys, err := s.Trusted()
	if err != nil {
		return "", err
	}
	for name, key := range keys {
		if minisign.Verify(key, manifest, signature) {
			return name, nil
		}
	}
	return "", fmt.Errorf("master %.16s: %w", m.Digest, ErrUntrusted)
}

// Sign signs a master's manifest, and by it every byte of the master. The comment, which is signed too, names it.
func (s *Store) Sign(m *Master, key minisign.PrivateKey) error {
	manifest, err := os.ReadFile(filepath.Join(m.Dir, master.ManifestFile))
	if err != nil {
		return err
	}
	unlock, err := s.lock()
	if err != nil {
		return err
	}
	defer unlock()
	signature := minisign.SignWithComments(key, manifest, "rempart master "+m.Digest,
		"signature of "+m.Manifest.Master.Name)
	fresh := filepath.Join(s.dir, workDir, "signature")
	if err := writeFile(fresh, signature); err != nil {
		return err
	}
	if err := os.Rename(fresh, filepath.Join(m.Dir, SignatureFile)); err != nil {
		return fmt.Errorf("master store: %w", err)
	}
	return syncDir(m.Dir)
}
