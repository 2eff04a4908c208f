package rig

import (
	"crypto/ed25519"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
)

// Key is an SSH key of somebody in a test.
type Key struct {
	Private ed25519.PrivateKey
	Signer  ssh.Signer
	Line    string // its public half as authorized_keys(5) has it, without a comment
}

// NewKey makes a key.
func NewKey(tb testing.TB) Key {
	tb.Helper()
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		tb.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		tb.Fatal(err)
	}
	return Key{private, signer, strings.TrimSpace(string(ssh.MarshalAuthorizedKey(signer.PublicKey())))}
}

// Write puts the key into a folder as ssh-keygen(1) does, the public half beside it as FILE.pub, and returns FILE.
func (k Key) Write(tb testing.TB, dir string) (file string) {
	tb.Helper()
	block, err := ssh.MarshalPrivateKey(k.Private, "")
	if err != nil {
		tb.Fatal(err)
	}
	file = filepath.Join(dir, "key")
	for name, content := range map[string][]byte{file: pem.EncodeToMemory(block), file + ".pub": []byte(k.Line + "\n")} {
		if err := os.WriteFile(name, content, 0o600); err != nil {
			tb.Fatal(err)
		}
	}
	return file
}
