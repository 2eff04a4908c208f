//go:build !guest

package profiles

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
)

// sshKeys are the parts of a public key after its type, each a string of so many bytes; 0: of any length (RFC 4253
// section 6.6, RFC 5656 section 3.1, RFC 8709 section 4, OpenSSH's PROTOCOL.u2f).
var sshKeys = map[string][]int{
	"ssh-ed25519":                        {32},
	"sk-ssh-ed25519@openssh.com":         {32, 0},
	"ecdsa-sha2-nistp256":                {8, 65},
	"ecdsa-sha2-nistp384":                {8, 97},
	"ecdsa-sha2-nistp521":                {8, 133},
	"sk-ecdsa-sha2-nistp256@openssh.com": {8, 65, 0},
	rsaKey:                               {0, 0},
}

const (
	rsaKey   = "ssh-rsa"
	leastRSA = 2048 // bits; NIST SP 800-131A rev. 2
)

// publicKey reads a line of authorized_keys and writes it in the one form a guest is given: "TYPE BASE64 [COMMENT]".
func publicKey(line string) (key, problem, hint string) {
	const (
		better = "make another with ssh-keygen -t ed25519"
		where  = "a public key is what ssh-keygen writes to the file that ends with .pub"
	)
	if strings.Contains(line, "PRIVATE KEY") {
		return "", "this is a PRIVATE key", "name its .pub file, and keep this one to yourself"
	}
	words := strings.Fields(line)
	isType := func(w string) bool { return sshKeys[w] != nil }
	switch at := slices.IndexFunc(words, isType); {
	case at > 0 && !looksLikeKey(line):
		return "", "options before a key are not supported", "write the key alone"
	case at != 0 && looksLikeKey(line):
		return "", fmt.Sprintf("keys of type %s are not taken", clip(words[0])), better
	case at != 0 || len(words) < 2:
		return "", "not an SSH public key", where
	}
	blob, err := base64.StdEncoding.Strict().DecodeString(words[1])
	parts, ok := wireStrings(blob)
	if err != nil || !ok || len(parts) != 1+len(sshKeys[words[0]]) || string(parts[0]) != words[0] {
		return "", "not an SSH public key", where
	}
	for i, want := range sshKeys[words[0]] {
		if len(parts[1+i]) != want && want > 0 || len(parts[1+i]) == 0 {
			return "", "not an SSH public key", where
		}
	}
	if words[0] == rsaKey && 8*len(bytes.TrimLeft(parts[2], "\x00")) < leastRSA {
		return "", fmt.Sprintf("an RSA key of fewer than %d bits", leastRSA), better
	}
	key = words[0] + " " + words[1]
	if comment := plainComment(strings.Join(words[2:], " ")); comment != "" {
		key += " " + comment
	}
	return key, "", ""
}

// wireStrings parts bytes into the strings they are made of, each after its length (RFC 4251 section 5).
func wireStrings(b []byte) (parts [][]byte, ok bool) {
	const most = 4 // no key here has more
	for len(b) > 0 {
		if len(b) < 4 || len(parts) == most {
			return nil, false
		}
		n := binary.BigEndian.Uint32(b)
		if b = b[4:]; uint64(n) > uint64(len(b)) {
			return nil, false
		}
		parts, b = append(parts, b[:n]), b[n:]
	}
	return parts, len(parts) > 0
}
