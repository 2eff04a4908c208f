package secret

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"rempart/firstboot/contract/identity"
)

const consumer, name = "dns", "certificate"

// rootWith has one secret.
func rootWith(t *testing.T, value string) string {
	t.Helper()
	root := t.TempDir()
	file := filepath.Join(root, identity.SecretPath(consumer, name))
	if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(value), 0o600)); err != nil {
		t.Fatal(err)
	}
	return root
}

func TestRead(t *testing.T) {
	for _, n := range []int{0, 1, maxBytes, maxBytes + 1} {
		value := strings.Repeat("s", n)
		b, err := Read(rootWith(t, value), consumer, name)
		if good := n <= maxBytes; good != (err == nil) || good && string(b) != value {
			t.Errorf("Read of %d bytes = %d, %v; want all of up to %d", n, len(b), err, maxBytes)
		}
	}
	if _, err := Read(t.TempDir(), consumer, name); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Read where there is none = %v; want ErrNotExist", err)
	}
}

// TestCertificateSaysNothing: whatever is wrong with a certificate, the error names the secret and shows none of it.
func TestCertificateSaysNothing(t *testing.T) {
	for what, value := range map[string]string{
		"empty":           "",
		"no PEM":          "hunter2",
		"a spoilt block":  "-----BEGIN CERTIFICATE-----\nhunter2\n-----END CERTIFICATE-----\n",
		"a strange block": "-----BEGIN hunter2-----\nAAAA\n-----END hunter2-----\n",
		"a strange block after a certificate": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n" +
			"-----BEGIN hunter2-----\nAAAA\n-----END hunter2-----\n",
		"a key alone": "-----BEGIN PRIVATE KEY-----\naHVudGVyMg==\n-----END PRIVATE KEY-----\n",
		"two that are no certificate and key": "-----BEGIN CERTIFICATE-----\naHVudGVyMg==\n-----END CERTIFICATE-----\n" +
			"-----BEGIN PRIVATE KEY-----\naHVudGVyMg==\n-----END PRIVATE KEY-----\n",
	} {
		_, err := Certificate(rootWith(t, value), consumer, name)
		if err == nil || !strings.Contains(err.Error(), consumer+"/"+name) || strings.Contains(err.Error(), "hunter2") ||
			strings.Contains(err.Error(), "aHVudGVyMg") {
			t.Errorf("%s: Certificate = %v; want an error that names the secret and does not show it", what, err)
		}
	}
}
