package debian

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	pgperrors "github.com/ProtonMail/go-crypto/openpgp/errors"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
)

// archiveKeys are the keys Debian 12 and 13 and their security archives are signed with, exported (export-minimal)
// from /usr/share/keyrings/debian-archive-keyring.gpg of the package debian-archive-keyring 2023.3+deb12u2. The same
// keys are published at https://ftp-master.debian.org/keys.html:
//
//	4D64 FEC1 19C2 0290 67D6  E791 F8D2 585B 8783 D481  Debian Stable Release Key (12/bookworm)
//	B8B8 0B5B 623E AB6A D877  5C45 B7C5 D7D6 3509 47F8  Debian Archive Automatic Signing Key (12/bookworm)
//	05AB 9034 0C0C 5E79 7F44  A8C8 254C F3B5 AEC0 A8F0  Debian Security Archive Automatic Signing Key (12/bookworm)
//	04B5 4C3C DCA7 9751 B16B  C6B5 2256 29DF 75B1 88BD  Debian Archive Automatic Signing Key (13/trixie)
//	5E04 A1E3 223A 19A2 0706  E20F 9904 613D 4CCE 68C6  Debian Security Archive Automatic Signing Key (13/trixie)
//	4158 7F7D B8C7 74BC CF13  1416 762F 67A0 B2C3 9DE4  Debian Stable Release Key (13/trixie)
//
//go:embed keys/debian-archive.asc
var archiveKeys []byte

// readKeys returns the keys of an armoured key file.
func readKeys(armoured []byte) (openpgp.EntityList, error) {
	keys, err := openpgp.ReadArmoredKeyRing(bytes.NewReader(armoured))
	if err != nil {
		return nil, fmt.Errorf("reading archive keys: %w", err)
	}
	return keys, nil
}

// maxSignatures bounds how many signatures of one Release are tried; Debian makes two or three.
const maxSignatures = 16

// openSigned returns the text of a clear-signed file (RFC 9580 section 7) of which at least one signature is valid by
// one of the keys at the time now. Only what is returned was signed: nothing before or after it is let pass.
func openSigned(signed []byte, keys openpgp.EntityList, now time.Time) ([]byte, error) {
	block, rest := clearsign.Decode(signed)
	if block == nil {
		return nil, wrap(ErrSignature, "it is not a clear-signed file")
	}
	if !bytes.HasPrefix(signed, []byte("-----BEGIN PGP SIGNED MESSAGE-----")) || len(bytes.TrimSpace(rest)) > 0 {
		return nil, wrap(ErrSignature, "there is unsigned text beside what is signed")
	}
	failed := errors.New("it carries no signature")
	packets := packet.NewReader(block.ArmoredSignature.Body)
	config := &packet.Config{Time: func() time.Time { return now }}
	for range maxSignatures {
		p, err := packets.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			failed = err
			break
		}
		signature, ok := p.(*packet.Signature)
		if !ok {
			failed = errors.New("something other than a signature stands in its place")
			break
		}
		var one bytes.Buffer
		if err := signature.Serialize(&one); err != nil {
			failed = err
			continue
		}
		_, err = openpgp.CheckDetachedSignature(keys, bytes.NewReader(block.Bytes), &one, config)
		if err == nil {
			return block.Plaintext, nil
		}
		switch {
		case errors.Is(err, pgperrors.ErrUnknownIssuer):
			if signature.IssuerKeyId != nil {
				err = fmt.Errorf("it is signed by the key %016X, which is none of Debian's", *signature.IssuerKeyId)
			}
		case errors.Is(err, pgperrors.ErrSignatureExpired) || errors.Is(err, pgperrors.ErrKeyExpired):
			err = fmt.Errorf("signed %s, but by this machine's clock (%s) signature or key is not valid: is the clock right?",
				signature.CreationTime.UTC().Format(time.DateTime), now.UTC().Format(time.DateTime))
		}
		failed = err
	}
	return nil, fmt.Errorf("%w: %w", ErrSignature, failed)
}
