package debian

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
)

func TestArchiveKeys(t *testing.T) {
	keys, err := readKeys(archiveKeys)
	must(t, err)
	var got []string
	for _, key := range keys {
		got = append(got, fmt.Sprintf("%x", key.PrimaryKey.Fingerprint))
		if key.PrivateKey != nil {
			t.Errorf("key %x has a private part", key.PrimaryKey.Fingerprint)
		}
	}
	want := []string{
		"4d64fec119c2029067d6e791f8d2585b8783d481",
		"b8b80b5b623eab6ad8775c45b7c5d7d6350947f8",
		"05ab90340c0c5e797f44a8c8254cf3b5aec0a8f0",
		"04b54c3cdca79751b16bc6b5225629df75b188bd",
		"5e04a1e3223a19a20706e20f9904613d4cce68c6",
		"41587f7db8c774bccf131416762f67a0b2c39de4",
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("embedded keys = %q; want %q", got, want)
	}
}

// The keyring Debian installs is the judge of the embedded keys: same primary keys, same material.
func TestArchiveKeysAreDebians(t *testing.T) {
	const keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
	f, err := os.Open(keyring)
	if err != nil {
		t.Skipf("SKIPPED, NOT PASSED: not checked against Debian's keyring: %v (Debian package debian-archive-keyring)", err)
	}
	defer f.Close()
	debians, err := openpgp.ReadKeyRing(f)
	must(t, err)
	ours, err := readKeys(archiveKeys)
	must(t, err)
	for _, key := range ours {
		same := func(o *openpgp.Entity) bool {
			return slices.Equal(o.PrimaryKey.Fingerprint, key.PrimaryKey.Fingerprint)
		}
		if !slices.ContainsFunc(debians, same) {
			t.Errorf("the key %x is not in %s", key.PrimaryKey.Fingerprint, keyring)
		}
	}
}

func TestOpenSigned(t *testing.T) {
	now := time.Now()
	const text = "Origin: Debian\nCodename: trusty\n"
	good := sign(t, testKey(), text)
	foreign := sign(t, newTestKey(), text)
	for _, c := range []struct {
		name   string
		signed string
		now    time.Time
		want   string // part of the error; empty for none
	}{
		{"good", string(good), now, ""},
		{"unsigned", text, now, "not a clear-signed file"},
		{"empty", "", now, "not a clear-signed file"},
		{"foreign key", string(foreign), now, "none of Debian's"},
		{"changed", strings.Replace(string(good), "trusty", "rustyt", 1), now, "invalid signature"},
		{"text before", "Origin: Evil\n" + string(good), now, "unsigned text"},
		{"text after", string(good) + "\nOrigin: Evil\n", now, "unsigned text"},
		{"two messages", string(good) + string(good), now, "unsigned text"},
		{"cut short", string(good[:len(good)/2]), now, "not a clear-signed file"},
		{"clock years behind", string(good), now.AddDate(-3, 0, 0), "is the clock right?"},
	} {
		got, err := openSigned([]byte(c.signed), openpgp.EntityList{testKey()}, c.now)
		if c.want == "" {
			if err != nil || strings.TrimSpace(string(got)) != strings.TrimSpace(text) {
				t.Errorf("%s: openSigned = %q, %v; want the text", c.name, got, err)
			}
			continue
		}
		if !errors.Is(err, ErrSignature) || !strings.Contains(fmt.Sprint(err), c.want) {
			t.Errorf("%s: openSigned: error %v; want ErrSignature with %q", c.name, err, c.want)
		}
	}
}

// A Release signed by several keys is good when one of them is known, whichever it is.
func TestOpenSignedBySeveral(t *testing.T) {
	other := newTestKey()
	for _, signers := range [][]*packet.PrivateKey{
		{other.PrivateKey, testKey().PrivateKey}, {testKey().PrivateKey, other.PrivateKey},
	} {
		var signed bytes.Buffer
		w, err := clearsign.EncodeMulti(&signed, signers, nil)
		must(t, err)
		_, err = io.WriteString(w, "a\n")
		must(t, err)
		must(t, w.Close())
		if _, err := openSigned(signed.Bytes(), openpgp.EntityList{testKey()}, time.Now()); err != nil {
			t.Errorf("openSigned: %v; want nil: one of two signatures is known", err)
		}
	}
}
