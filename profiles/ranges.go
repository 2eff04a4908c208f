package profiles

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sort"
)

// AddrRange is First to Last, both included, of one family.
type AddrRange struct {
	First, Last netip.Addr
}

// Ranges are addresses: sorted, all IPv4 before all IPv6, and neither overlapping nor touching. In JSON they are base64
// of a binary form, because 100,000 of them are ordinary: 5 bytes or so for an IPv4 range, 17 for an IPv6 prefix.
type Ranges []AddrRange

// Contains tells whether an address is in one of the ranges.
func (r Ranges) Contains(a netip.Addr) bool {
	i := sort.Search(len(r), func(i int) bool { return a.Compare(r[i].Last) <= 0 })
	return i < len(r) && r[i].First.Compare(a) <= 0
}

// Of are the ranges of one family.
func (r Ranges) Of(v6 bool) Ranges {
	i := sort.Search(len(r), func(i int) bool { return r[i].First.Is6() })
	if v6 {
		return r[i:]
	}
	return r[:i]
}

// mergeRanges sorts ranges and joins those that overlap or touch. The list is used up.
func mergeRanges(list []AddrRange) Ranges {
	slices.SortFunc(list, func(a, b AddrRange) int { return a.First.Compare(b.First) })
	if len(list) == 0 {
		return nil
	}
	out := list[:0] // never longer than what was looked at
	for _, s := range list {
		if n := len(out); n > 0 && out[n-1].Last.BitLen() == s.First.BitLen() {
			last := &out[n-1].Last
			if next := last.Next(); !next.IsValid() || s.First.Compare(next) <= 0 {
				if s.Last.Compare(*last) > 0 {
					*last = s.Last
				}
				continue
			}
		}
		out = append(out, s)
	}
	return out
}

// Ordered tells whether the ranges are as Ranges says.
func (r Ranges) Ordered() bool {
	for i, s := range r {
		if !s.First.IsValid() || s.First.Zone()+s.Last.Zone() != "" || s.First.BitLen() != s.Last.BitLen() ||
			s.First.Is4In6() || s.Last.Is4In6() || s.First.Compare(s.Last) > 0 {
			return false
		}
		if i == 0 || r[i-1].Last.BitLen() != s.First.BitLen() {
			if i > 0 && s.First.Is4() {
				return false
			}
			continue
		}
		if next := r[i-1].Last.Next(); !next.IsValid() || s.First.Compare(next) <= 0 {
			return false
		}
	}
	return true
}

// rangeOf is the range of a prefix.
func rangeOf(p netip.Prefix) AddrRange { return AddrRange{p.Masked().Addr(), lastAddress(p)} }

// plainRange stands for the length of a prefix where a range is none: both ends follow.
const plainRange = 0xff

// MarshalJSON writes the binary form in base64.
func (r Ranges) MarshalJSON() ([]byte, error) {
	return json.Marshal(base64.StdEncoding.EncodeToString(r.Binary()))
}

// Binary is the binary form: how many IPv4 ranges there are; for each the gap before it and its size less one, as
// varints; then for each IPv6 range its first address, and the length of the prefix it is or plainRange and its last
// address.
func (r Ranges) Binary() []byte {
	v4 := r.Of(false)
	b := binary.AppendUvarint(nil, uint64(len(v4)))
	at := uint32(0)
	for _, s := range v4 {
		first, last := number4(s.First), number4(s.Last)
		b = binary.AppendUvarint(b, uint64(first-at))
		b = binary.AppendUvarint(b, uint64(last-first))
		at = last
	}
	for _, s := range r.Of(true) {
		b = append(b, s.First.AsSlice()...)
		if p, ok := s.Prefix(); ok {
			b = append(b, byte(p.Bits()))
			continue
		}
		b = append(append(b, plainRange), s.Last.AsSlice()...)
	}
	return b
}

func number4(a netip.Addr) uint32 {
	b := a.As4()
	return binary.BigEndian.Uint32(b[:])
}

func addr4(n uint32) netip.Addr {
	return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, n)))
}

var errRanges = errors.New("a list of address ranges is damaged")

// UnmarshalJSON reads what MarshalJSON wrote. Whether the ranges are in order the validator checks.
func (r *Ranges) UnmarshalJSON(src []byte) error {
	var text string
	if err := json.Unmarshal(src, &text); err != nil {
		return err
	}
	b, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil {
		return fmt.Errorf("%w: %w", errRanges, err)
	}
	*r, err = DecodeRanges(b)
	return err
}

// DecodeRanges reads what Binary wrote, MaxListRanges at most. Whether the ranges are in order Ordered tells.
func DecodeRanges(b []byte) (Ranges, error) {
	in := bytes.NewReader(b)
	n, err := binary.ReadUvarint(in)
	if err != nil || n > min(uint64(len(b)), maxSetRanges) { // the validator takes no more, and memory is for no more
		return nil, errRanges
	}
	out := make(Ranges, 0, n)
	at := uint64(0)
	for range n {
		gap, err1 := binary.ReadUvarint(in)
		size, err2 := binary.ReadUvarint(in)
		const most = 1<<32 - 1
		if err1 != nil || err2 != nil || gap > most || size > most || at+gap+size > most {
			return nil, errRanges
		}
		out = append(out, AddrRange{addr4(uint32(at + gap)), addr4(uint32(at + gap + size))})
		at += gap + size
	}
	rest := b[len(b)-in.Len():]
	const addrLen = 16
	out = slices.Grow(out, min(len(rest)/(addrLen+1), maxSetRanges-len(out)))
	for len(rest) > 0 {
		if len(rest) < addrLen+1 || len(out) == maxSetRanges {
			return nil, errRanges
		}
		first, bits := netip.AddrFrom16([addrLen]byte(rest[:addrLen])), rest[addrLen]
		rest = rest[addrLen+1:]
		switch {
		case bits <= 128:
			out = append(out, AddrRange{first, lastAddress(netip.PrefixFrom(first, int(bits)))})
		case bits == plainRange && len(rest) >= addrLen:
			out = append(out, AddrRange{first, netip.AddrFrom16([addrLen]byte(rest[:addrLen]))})
			rest = rest[addrLen:]
		default:
			return nil, errRanges
		}
	}
	if len(out) == 0 {
		return nil, nil
	}
	return out, nil
}

// Prefix is the prefix a range is equal to, if it is one.
func (s AddrRange) Prefix() (netip.Prefix, bool) {
	first, last := s.First.AsSlice(), s.Last.AsSlice()
	bits := 0
	for bits < len(first)*8 && (first[bits/8]^last[bits/8])&(0x80>>(bits%8)) == 0 {
		bits++
	}
	p := netip.PrefixFrom(s.First, bits)
	return p, p.Masked().Addr() == s.First && lastAddress(p) == s.Last
}
