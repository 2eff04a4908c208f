package filter

import (
	"net/netip"
	"slices"

	"rempart/profiles"
)

// span is a range of addresses of one family, both ends included. netip orders all IPv4 before all IPv6 addresses, so
// spans of different families have nothing in common and may be mixed below.
type span struct {
	first, last netip.Addr
}

// spans is a sorted list of disjoint spans.
type spans []span

// prefixSpan is the span of a prefix.
func prefixSpan(p netip.Prefix) span {
	p = p.Masked()
	last := p.Addr().AsSlice()
	for bit := p.Bits(); bit < len(last)*8; bit++ {
		last[bit/8] |= 0x80 >> (bit % 8)
	}
	end, _ := netip.AddrFromSlice(last)
	return span{p.Addr(), end}
}

// prefix returns the prefix the span is equal to, if it is one.
func (s span) prefix() (netip.Prefix, bool) {
	return profiles.AddrRange{First: s.first, Last: s.last}.Prefix()
}

// String is the span as nft writes it: an address, a prefix or a range.
func (s span) String() string {
	if s.first == s.last {
		return s.first.String()
	}
	if p, ok := s.prefix(); ok {
		return p.String()
	}
	return s.first.String() + "-" + s.last.String()
}

func (s span) contains(a netip.Addr) bool { return s.first.Compare(a) <= 0 && a.Compare(s.last) <= 0 }

// union sorts and joins spans of one family, touching ones too.
func union(list ...span) spans {
	list = slices.Clone(list)
	slices.SortFunc(list, func(a, b span) int { return a.first.Compare(b.first) })
	var out spans
	for _, s := range list {
		if n := len(out); n > 0 {
			previous := &out[n-1]
			next := previous.last.Next() // the zero Addr after the last address of a family
			if !next.IsValid() || s.first.Compare(next) <= 0 {
				if s.last.Compare(previous.last) > 0 {
					previous.last = s.last
				}
				continue
			}
		}
		out = append(out, s)
	}
	return out
}

// minus is what is in a and not in b.
func (a spans) minus(b spans) spans {
	var out spans
	for _, s := range a {
		rest, gone := s, false
		for _, cut := range b {
			if cut.last.Compare(rest.first) < 0 || cut.first.Compare(rest.last) > 0 {
				continue
			}
			if cut.first.Compare(rest.first) > 0 {
				out = append(out, span{rest.first, cut.first.Prev()})
			}
			if cut.last.Compare(rest.last) >= 0 {
				gone = true
				break
			}
			rest.first = cut.last.Next()
		}
		if !gone {
			out = append(out, rest)
		}
	}
	return out
}

// and is what is in both.
func (a spans) and(b spans) spans {
	var out spans
	for _, s := range a {
		for _, t := range b {
			first, last := s.first, s.last
			if t.first.Compare(first) > 0 {
				first = t.first
			}
			if t.last.Compare(last) < 0 {
				last = t.last
			}
			if first.Compare(last) <= 0 {
				out = append(out, span{first, last})
			}
		}
	}
	return out
}

func (a spans) contains(addr netip.Addr) bool {
	return slices.ContainsFunc(a, func(s span) bool { return s.contains(addr) })
}

// prefixSpans is the union of the prefixes of one family.
func prefixSpans(list []netip.Prefix, v6 bool) spans {
	var out []span
	for _, p := range list {
		if p.Addr().Is6() == v6 {
			out = append(out, prefixSpan(p))
		}
	}
	return union(out...)
}
