package profiles

import (
	"bytes"
	"encoding/base64"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
)

// FuzzPublicKey compares with the reader a guest has: what is taken here is taken there, but for curve points and RSA
// exponents, which only it computes with; and it means the same.
func FuzzPublicKey(f *testing.F) {
	const blob = "AAAAC3NzaC1lZDI1NTE5AAAAIPn4I3QJnptlXp+8r2uIYzChpKXdy2ViiUBqZC8uOya7"
	for _, line := range []string{"ssh-ed25519 " + blob + " alice\x1b[2J", "from=\"x\" ssh-ed25519 " + blob,
		"ssh-rsa " + blob, "ssh-ed25519", "-----BEGIN OPENSSH PRIVATE KEY-----"} {
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, line string) {
		key, problem, _ := publicKey(line)
		if (key == "") == (problem == "") {
			t.Fatalf("publicKey(%q) = %q, %q; want one of them", line, key, problem)
		}
		if key == "" {
			return
		}
		if strings.ContainsFunc(key, func(r rune) bool { return r < ' ' || r > '~' }) {
			t.Errorf("publicKey(%q) = %q", line, key)
		}
		if again, _, _ := publicKey(key); again != key {
			t.Errorf("publicKey(%q) = %q", key, again)
		}
		if !strings.Contains(key, "ed25519") {
			return
		}
		theirs, _, options, rest, err := ssh.ParseAuthorizedKey([]byte(key))
		if err != nil || len(options)+len(rest) > 0 {
			t.Fatalf("x/crypto says of %q: %v", key, err)
		}
		ours, err := base64.StdEncoding.DecodeString(strings.Fields(key)[1])
		if err != nil || !bytes.Equal(ours, theirs.Marshal()) {
			t.Errorf("%q means %x to x/crypto", key, theirs.Marshal())
		}
	})
}
