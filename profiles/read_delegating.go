//go:build !guest

package profiles

import (
	"strconv"
	"strings"
)

// defaultShortest is the length of what routers are delegated when the profile says none: room for the sixteen subnets
// that RFC 7084 has a home router with several links hope for (L-2), in pools that have as much.
const defaultShortest = 60

// prefixPoolFields are the keys of what is delegated on a link.
func prefixPoolFields() table[PrefixPool] {
	return table[PrefixPool]{
		{name: "from", doc: "What the prefixes are of: a prefix of your own, such as 2001:db8:f::/56, or a part of what the" +
			" guest is delegated, such as delegated/10::/60 for the subnets 10 to 1f of it.", kind: textLike(blockPattern),
			required: true, decode: func(r *reader, v value, p *PrefixPool) { p.PrefixBlock, _ = r.block(v) }},
		{name: "length", doc: "How long the prefixes are: 60, the default, or from 56-64 what a router asks for, and the" +
			" first when it asks for none.", kind: eitherOf(numberIn(minDelegation, subnetBits), textLike(lengthsPattern)),
			decode: readLengths},
	}
}

// lengths are the defaults of a pool.
func (p PrefixPool) lengths() *PrefixPool {
	if p.Shortest == 0 {
		p.Shortest = max(defaultShortest, p.Prefix.Bits())
		p.Longest = p.Shortest
	}
	return &p
}

func readLengths(r *reader, v value, p *PrefixPool) {
	const what = "the length of prefixes such as 60, or from one to another such as 56-64"
	if v.node.Tag == "!!int" {
		p.Shortest, _ = r.integer(v, minDelegation, subnetBits, "bits")
		p.Longest = p.Shortest
		return
	}
	text, ok := r.word(v, what)
	if !ok {
		return
	}
	first, last, several := strings.Cut(text, "-")
	if !several {
		last = first
	}
	a, err1 := strconv.ParseUint(strings.TrimSpace(first), 10, 8)
	b, err2 := strconv.ParseUint(strings.TrimSpace(last), 10, 8)
	if err1 != nil || err2 != nil || a == 0 {
		r.expected(v, what, "")
		return
	}
	p.Shortest, p.Longest = int(a), int(b)
}

// block reads a prefix to be delegated.
func (r *reader) block(v value) (PrefixBlock, bool) {
	const what = "a prefix such as 2001:db8:f::/56, or a part of what is delegated such as delegated/10::/60"
	text, ok := r.dotted(v, what)
	if !ok {
		return PrefixBlock{}, false
	}
	rest, inside := strings.CutPrefix(text, delegatedWord)
	if !inside {
		p, problem, hint := parsePrefix(text)
		if problem != "" {
			r.rejectAt(v.pos(), hint, "%s: %s", v.name, problem)
			return PrefixBlock{}, false
		}
		return PrefixBlock{Prefix: p}, true
	}
	subnet, length, found := strings.Cut(rest, "::/")
	digits, slash := strings.CutPrefix(subnet, "/")
	number, err := uint64(0), error(nil)
	if slash {
		number, err = strconv.ParseUint(digits, 16, 32)
	}
	bits, errBits := strconv.ParseUint(length, 10, 8)
	if !found || err != nil || errBits != nil || subnet != "" && !slash || bits <= minDelegation || bits > subnetBits {
		r.expected(v, what, "")
		return PrefixBlock{}, false
	}
	b := blockAt(uint32(number), int(bits))
	if b.Prefix != b.Prefix.Masked() {
		b.Prefix = b.Prefix.Masked()
		r.rejectAt(v.pos(), "write "+b.String(), "%s: %s has bits set beyond its length", v.name, text)
		return PrefixBlock{}, false
	}
	return b, true
}
