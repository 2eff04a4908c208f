package profiles

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"
)

// maxInline is how many ranges a set has in the JSON of a profile: every child of a guest reads that, and one needs the
// ranges.
const maxInline = 64

// StoredRanges say which ranges a set has that are kept beside the JSON of its profile.
type StoredRanges struct {
	V4 StoredPart `json:"v4"`
	V6 StoredPart `json:"v6"`
}

// StoredPart are the ranges of one family. The zero value is none.
type StoredPart struct {
	Count  int    `json:"count"`
	Digest string `json:"digest,omitempty"` // SHA-256 of Ranges.Binary, hex
}

// Of is the part of one family.
func (s *StoredRanges) Of(v6 bool) StoredPart {
	if v6 {
		return s.V6
	}
	return s.V4
}

// part says which ranges these are.
func (r Ranges) part() StoredPart {
	if len(r) == 0 {
		return StoredPart{}
	}
	return StoredPart{len(r), r.Digest()}
}

// Digest is the SHA-256 of the binary form, hex.
func (r Ranges) Digest() string { return digestOf(r.Binary()) }

func digestOf(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// store makes the JSON of a set of many ranges one without them.
func (s *Set) store() {
	if len(s.Ranges) > maxInline {
		which := s.Which()
		s.Stored = &which
	}
}

// MarshalJSON writes a set, without ranges that are stored.
func (s Set) MarshalJSON() ([]byte, error) {
	type plain Set
	if s.Stored != nil {
		s.Ranges = nil
	}
	return json.Marshal(plain(s))
}

// Count is how many ranges of a family the set has, whether they are here or not.
func (s *Set) Count(v6 bool) int {
	if s.Stored != nil {
		return s.Stored.Of(v6).Count
	}
	return len(s.Ranges.Of(v6))
}

// Len is how many ranges the set has, whether they are here or not.
func (s *Set) Len() int { return s.Count(false) + s.Count(true) }

// Absent tells whether the ranges of the set are stored and not here.
func (s *Set) Absent() bool { return s.Stored != nil && len(s.Ranges) == 0 && s.Len() > 0 }

// Parts are the ranges that are stored of a set, one part for each family that has any.
func (s *Set) Parts() []StoredPart {
	var out []StoredPart
	if s.Stored != nil {
		for _, part := range []StoredPart{s.Stored.V4, s.Stored.V6} {
			if part.Count > 0 {
				out = append(out, part)
			}
		}
	}
	return out
}

// unknown tells whether nobody knows what the set holds.
func (s *Set) unknown() bool { return s.Source != nil || s.Absent() }

// Absent are the sets of a profile whose ranges are stored and not here.
func (p *Profile) Absent() []*Set {
	var out []*Set
	for i := range p.Sets {
		if p.Sets[i].Absent() {
			out = append(out, &p.Sets[i])
		}
	}
	return out
}

// Files are the parts that are stored of a set, in their binary form by their digests, IPv4 first.
func (s *Set) Files() iter.Seq2[string, []byte] {
	return func(yield func(string, []byte) bool) {
		for _, v6 := range []bool{false, true} {
			if s.Stored == nil || s.Stored.Of(v6).Count == 0 {
				continue
			}
			if !yield(s.Stored.Of(v6).Digest, s.Ranges.Of(v6).Binary()) {
				return
			}
		}
	}
}

// Forget leaves of the ranges of a set which they are.
func (s *Set) Forget() {
	which := s.Which()
	s.Stored, s.Ranges = &which, nil
}

// Which says which ranges the set has, whether they are here or not.
func (s *Set) Which() StoredRanges {
	if s.Stored != nil {
		return *s.Stored
	}
	return StoredRanges{s.Ranges.Of(false).part(), s.Ranges.Of(true).part()}
}

// ErrStored is wrapped by the errors of ranges that are not what a profile says is stored.
var ErrStored = errors.New("not the ranges that the profile names")

// maxPart is how many bytes the binary form of one range has at most: IPv6, and no prefix.
const maxPart = 33

// MostBytes bounds the binary form of a part.
func (part StoredPart) MostBytes() int64 { return int64(part.Count)*maxPart + 8 }

// decode reads the ranges of a part and checks that they are those, and in order.
func (part StoredPart) decode(b []byte, v6 bool) (Ranges, error) {
	if digestOf(b) != part.Digest {
		return nil, fmt.Errorf("%w: the digest is another than %.16s", ErrStored, part.Digest)
	}
	r, err := DecodeRanges(b)
	if err != nil {
		return nil, err
	}
	if len(r) != part.Count || len(r.Of(v6)) != len(r) || !r.Ordered() {
		return nil, fmt.Errorf("%w: %d ranges and not %d, of two families or out of order", ErrStored, len(r), part.Count)
	}
	return r, nil
}

// Restore gives a set the ranges that are stored, which read returns in their binary form.
func (s *Set) Restore(read func(StoredPart) ([]byte, error)) error {
	if !s.Absent() {
		return nil
	}
	var all Ranges
	for _, v6 := range []bool{false, true} {
		part := s.Stored.Of(v6)
		if part.Count == 0 {
			continue
		}
		b, err := read(part)
		if err == nil {
			var r Ranges
			if r, err = part.decode(b, v6); err == nil && all == nil {
				all = r
			} else if err == nil {
				all = append(slices.Grow(all, len(r)), r...)
			}
		}
		if err != nil {
			return fmt.Errorf("set %s: its %d ranges: %w", s.Name, s.Len(), err)
		}
	}
	s.Ranges = all
	return nil
}

// TakeStored gives a profile what it lacks of what is stored beside its JSON and another profile has: ranges of sets,
// and blocked names.
func (p *Profile) TakeStored(from *Profile) {
	for _, s := range p.Absent() {
		i := slices.IndexFunc(from.Sets, func(o Set) bool {
			return o.Stored != nil && *o.Stored == *s.Stored && !o.Absent()
		})
		if i >= 0 {
			s.Ranges = from.Sets[i].Ranges
		}
	}
	if digest := blockDigest(p); digest != "" && digest == blockDigest(from) && len(p.DNS.Block.Compiled) == 0 {
		p.DNS.Block.Compiled = from.DNS.Block.Compiled
	}
}

// Restore gives a block the names of files, which read returns as package blocklist has them.
func (b *Block) Restore(read func() ([]byte, error)) error {
	if b.Digest == "" || len(b.Compiled) > 0 {
		return nil
	}
	raw, err := read()
	if err == nil && digestOf(raw) != b.Digest {
		err = fmt.Errorf("%w: the digest is another than %.16s", ErrStored, b.Digest)
	}
	if err != nil {
		return fmt.Errorf("dns.block: its %d names: %w", b.Count, err)
	}
	b.Compiled = raw
	return nil
}

// stored checks what a set says of its ranges.
func (v *validator) stored(s *Set) {
	for _, v6 := range []bool{false, true} {
		part := s.Stored.Of(v6)
		sum, err := hex.DecodeString(part.Digest)
		good := part == StoredPart{} || part.Count > 0 && part.Count <= maxSetRanges && err == nil &&
			len(sum) == sha256.Size && hex.EncodeToString(sum) == part.Digest
		if !good || !s.Absent() && part.Count != len(s.Ranges.Of(v6)) {
			v.reject(s.At, "", "set %s: %d ranges with the digest %s are not what is stored", quote(s.Name), part.Count,
				quote(part.Digest))
			return
		}
	}
	if s.Len() == 0 {
		v.reject(s.At, "", "set %s: it stores no ranges", quote(s.Name))
	}
}
