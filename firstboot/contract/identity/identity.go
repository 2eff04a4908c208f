// Package identity is the format of a guest's identity disk: the few values that make one guest of a master different
// from the next one, and that no master may hold. The host writes it, the guest reads it, both through this package.
//
//	offset  size  what
//	0       8     "RMPIDENT"
//	8       4     version, big endian: 1
//	12      4     length of the payload in bytes, big endian
//	16      32    SHA-256 of bytes 0 to 15 and the payload
//	48      ...   payload: one JSON value, Identity
//	...           zeros up to a whole number of sectors of 4096 bytes
//
// The payload is JSON since it is small, strict decoding of it exists on both sides, and a person can read it. Encode
// is deterministic: the same identity is the same bytes.
//
// What it deliberately does not do: encrypt or sign. Whoever may attach disks to a guest may give it any identity; the
// digest only finds bytes that went bad. Nor does it read or write disks: it is pure.
package identity

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
)

// Names and bounds of the disk.
const (
	Magic   = "RMPIDENT"
	Version = 1
	// Serial is the virtio-blk serial by which a guest finds the disk.
	Serial = "identity"
	// Sector is what the image is padded to: the largest logical sector a hypervisor may give the disk.
	Sector = 4096
	// MaxSize bounds an image in bytes; a guest reads no more of the disk.
	MaxSize = 1 << 20
)

// XenVdevs are the Xen virtual devices by which a guest finds the disk, as in contract.StateXenVdevs: beside a whole
// system disk, beside a volume with the root alone, where xvda3 is left to swap, and in a HVM guest.
func XenVdevs() []string { return []string{"xvdc", "xvda4", "xvdg"} }

// headerSize is the bytes before the payload.
const headerSize = len(Magic) + 4 + 4 + sha256.Size

// ErrFormat is wrapped by every error of Decode.
var ErrFormat = errors.New("not an identity disk")

// Identity is what an identity disk holds. The zero value is an identity that changes nothing.
type Identity struct {
	Hostname string   `json:"hostname,omitempty"` // RFC 1123 label; empty: the profile's name
	Links    []Link   `json:"links,omitempty"`    // by name, each once
	Secrets  []Secret `json:"secrets,omitempty"`  // by consumer and name, each once
	// Seed is stirred into the kernel's random pool, and never credited: the guest reads the same one at each start.
	Seed []byte `json:"seed,omitempty"`
}

// Link is what one link of the profile is on this guest.
type Link struct {
	Name string `json:"name"`
	// MAC is the hardware address its NIC is found by: lower case with colons. Empty: as without an identity.
	MAC string `json:"mac,omitempty"`
	// Addresses and Gateways are those of a link whose profile says `instance` in their place.
	Addresses []netip.Prefix `json:"addresses,omitempty"`
	Gateways  []netip.Addr   `json:"gateways,omitempty"`
}

// Secret is a value for one consumer.
type Secret struct {
	// Consumer is who may read it; see Owner.
	Consumer string `json:"consumer"`
	// Name is one to three words of letters, digits and ._- joined by slashes: "wg0", "wg0/office".
	Name  string `json:"name"`
	Value []byte `json:"value"`
}

// Secret returns the value for a consumer, nil when there is none.
func (id *Identity) Secret(consumer, name string) []byte {
	for _, s := range id.Secrets {
		if s.Consumer == consumer && s.Name == name {
			return s.Value
		}
	}
	return nil
}

// SetSecret adds a value or replaces the one of that name.
func (id *Identity) SetSecret(consumer, name string, value []byte) {
	for i := range id.Secrets {
		if s := &id.Secrets[i]; s.Consumer == consumer && s.Name == name {
			s.Value = value
			return
		}
	}
	id.Secrets = append(id.Secrets, Secret{consumer, name, value})
}

// Encode returns the image of the disk, links and secrets in the order of their names. It refuses what Decode would.
func (id *Identity) Encode() ([]byte, error) {
	sorted := id.sorted()
	if err := sorted.Check(); err != nil {
		return nil, err
	}
	payload, err := json.Marshal(sorted)
	if err != nil {
		return nil, fmt.Errorf("identity: %w", err)
	}
	size := (headerSize + len(payload) + Sector - 1) / Sector * Sector
	if size > MaxSize {
		return nil, fmt.Errorf("identity: %d bytes, at most %d", size, MaxSize)
	}
	b := make([]byte, 0, size)
	b = append(b, Magic...)
	b = binary.BigEndian.AppendUint32(b, Version)
	b = binary.BigEndian.AppendUint32(b, uint32(len(payload)))
	digest := sum(b, payload)
	b = append(b, digest[:]...)
	b = append(b, payload...)
	return append(b, make([]byte, size-len(b))...), nil
}

func sum(head, payload []byte) (digest [sha256.Size]byte) {
	h := sha256.New()
	h.Write(head)
	h.Write(payload)
	h.Sum(digest[:0])
	return digest
}

// Decode reads the image of a disk, which may be longer than what was encoded: disks are rounded up. It takes exactly
// what Encode writes.
func Decode(b []byte) (*Identity, error) {
	if len(b) < headerSize || string(b[:len(Magic)]) != Magic {
		return nil, fmt.Errorf("%w: it does not begin with %s", ErrFormat, Magic)
	}
	head, rest := b[:len(Magic)+8], b[headerSize:]
	version := binary.BigEndian.Uint32(head[len(Magic):])
	if version != Version {
		return nil, fmt.Errorf("%w: version %d, this guest reads %d; write it with the rempart that built the master",
			ErrFormat, version, Version)
	}
	length := binary.BigEndian.Uint32(head[len(Magic)+4:])
	if int64(length) > int64(min(len(rest), MaxSize-headerSize)) {
		return nil, fmt.Errorf("%w: a payload of %d bytes, the disk has %d", ErrFormat, length, len(rest))
	}
	payload := rest[:length]
	if sum(head, payload) != [sha256.Size]byte(b[len(head):headerSize]) {
		return nil, fmt.Errorf("%w: the digest does not fit: bytes of it have changed since it was written", ErrFormat)
	}
	id := &Identity{}
	d := json.NewDecoder(bytes.NewReader(payload))
	d.DisallowUnknownFields()
	if err := d.Decode(id); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFormat, withoutValue(err))
	}
	if err := id.Check(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	// One spelling only: what is the same is the same bytes, and nothing hides behind the value.
	if again, err := json.Marshal(id.sorted()); err != nil || !bytes.Equal(again, payload) {
		return nil, fmt.Errorf("%w: it is not spelled the way rempart writes it", ErrFormat)
	}
	return id, nil
}

// withoutValue is an error of the JSON decoder without the text it stumbled over, which may be part of a secret.
func withoutValue(err error) error {
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	switch {
	case errors.As(err, &syntax):
		return fmt.Errorf("no JSON at byte %d", syntax.Offset)
	case errors.As(err, &kind):
		return fmt.Errorf("a value of the wrong kind at byte %d, in %s", kind.Offset, kind.Field)
	}
	return errors.New("a field or a value that an identity does not have")
}
