package guest

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// keyEd25519 is the type of an Ed25519 key (RFC 8709, section 4).
const keyEd25519 = "ssh-ed25519"

// keyTypes are the SSH public keys that may be given; the names are those of RFC 4253, RFC 5656, RFC 8709 and of
// OpenSSH's PROTOCOL.u2f.
var keyTypes = []string{keyEd25519, "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521", "ssh-rsa",
	"sk-ssh-ed25519@openssh.com", "sk-ecdsa-sha2-nistp256@openssh.com"}

// Bounds of files of public keys.
const (
	maxKeyFile = 64 << 10
	maxKeys    = 64
)

var errKey = errors.New("want lines as in ~/.ssh/id_ed25519.pub: TYPE BASE64 [COMMENT], without options")

// ReadKeys reads SSH public keys from files and returns them one a line, without comments, each once.
func ReadKeys(files []string) ([]byte, error) {
	var lines []string
	var errs []error
	for _, name := range files {
		found, err := readKeys(name)
		if err != nil {
			errs = append(errs, fmt.Errorf("SSH key %s: %w", name, err))
		}
		for _, line := range found {
			if !slices.Contains(lines, line) {
				lines = append(lines, line)
			}
		}
	}
	if len(lines) > maxKeys {
		errs = append(errs, fmt.Errorf("%d SSH keys, at most %d", len(lines), maxKeys))
	}
	if err := errors.Join(errs...); err != nil || len(lines) == 0 {
		return nil, err
	}
	return []byte(strings.Join(lines, "\n") + "\n"), nil
}

func readKeys(name string) ([]string, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxKeyFile+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxKeyFile {
		return nil, fmt.Errorf("more than %d bytes; %w", maxKeyFile, errKey)
	}
	var keys []string
	for i, line := range strings.Split(string(b), "\n") {
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		key, err := ParseKey(line)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", i+1, err)
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("there is no key in it; %w", errKey)
	}
	return keys, nil
}

// ParseKey reads one line with a public key and returns it without its comment.
func ParseKey(line string) (string, error) {
	words := strings.Fields(line)
	if len(words) < 2 || !slices.Contains(keyTypes, words[0]) {
		return "", fmt.Errorf("%.40q is no SSH public key; %w", line, errKey)
	}
	wire, err := base64.StdEncoding.DecodeString(words[1])
	if err != nil {
		return "", fmt.Errorf("the key is not base64; %w", errKey)
	}
	// Inside, the type is said again (RFC 4253, section 6.6).
	if len(wire) < 4 {
		return "", fmt.Errorf("the key is cut short; %w", errKey)
	}
	n := binary.BigEndian.Uint32(wire)
	if uint64(n) >= uint64(len(wire)-4) || string(wire[4:4+n]) != words[0] {
		return "", fmt.Errorf("the key is not of the type it says, %s; %w", words[0], errKey)
	}
	return words[0] + " " + words[1], nil
}

// OwnKeys are the files of public keys of whoever runs this: ~/.ssh/id_*.pub, without certificates.
func OwnKeys() []string {
	home, err := os.UserHomeDir()
	if err != nil {
		return nil
	}
	files, _ := filepath.Glob(filepath.Join(home, ".ssh", "id_*.pub"))
	return slices.DeleteFunc(files, func(name string) bool {
		_, err := readKeys(name)
		return err != nil
	})
}

func putString(w *bytes.Buffer, b []byte) {
	w.Write(binary.BigEndian.AppendUint32(nil, uint32(len(b))))
	w.Write(b)
}

// fingerprint is how OpenSSH shows a key in its wire format.
func fingerprint(wire []byte) string {
	sum := sha256.Sum256(wire)
	return "SHA256:" + base64.RawStdEncoding.EncodeToString(sum[:])
}
