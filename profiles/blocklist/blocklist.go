// Package blocklist keeps a million names in memory a small machine can spare: each is eight bytes, and they can be
// looked up where they lie, in a file that is mapped and not read. It reads the lists that people share: hosts files,
// one domain a line, dnsmasq's and the domain rules of ad blockers.
//
// A name is kept as a 64-bit hash of which the lowest bit is given up for "and all below it", so of 500,000 names and
// the five suffixes of a query one other name in 7e12 is taken for one of the list (5 * 2^19 / 2^63). Nobody gains by
// searching for such a name: it is only kept from being resolved.
//
// What it deliberately does not do: fetch lists, patterns within labels, or exceptions (the server has those).
package blocklist

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// The table: a magic number, the number of hashes, then the hashes in rising order, all little-endian.
const (
	magic      = "RMPBLK1\n"
	headerSize = len(magic) + 8
	hashSize   = 8
)

// MaxNames is how many names a table has at most: 16 MiB.
const MaxNames = 2 << 20

// ErrTable is wrapped by the errors of Open.
var ErrTable = errors.New("not a table of names")

// Table answers whether a name is blocked. The zero value blocks nothing.
type Table struct{ hashes []byte }

// Open reads a table from its bytes, which are kept and must not change. Their order is not looked at, since that would
// touch every page of a mapped file: a table out of order finds less, and nothing worse.
func Open(b []byte) (Table, error) {
	n, err := Count(b)
	if err != nil {
		return Table{}, err
	}
	if int64(len(b)) != Size(n) {
		return Table{}, fmt.Errorf("%w: %d bytes, and it says to have %d names", ErrTable, len(b), n)
	}
	return Table{b[headerSize:]}, nil
}

// Count is how many names a table says to have by its first bytes, of which there are Size(0) at least.
func Count(head []byte) (int, error) {
	if len(head) < headerSize || string(head[:len(magic)]) != magic {
		return 0, fmt.Errorf("%w: it does not begin like one", ErrTable)
	}
	n := binary.LittleEndian.Uint64(head[len(magic):])
	if n > MaxNames {
		return 0, fmt.Errorf("%w: it says to have %d names, of %d at most", ErrTable, n, MaxNames)
	}
	return int(n), nil
}

// Size is how many bytes a table of so many names has.
func Size(names int) int64 { return int64(headerSize) + hashSize*int64(names) }

// Len is the number of names.
func (t Table) Len() int { return len(t.hashes) / hashSize }

func (t Table) at(i int) uint64 { return binary.LittleEndian.Uint64(t.hashes[i*hashSize:]) }

// Blocks tells whether a name is in the table, or below one that is with all below it. The name is in the form of a
// message, uncompressed and in lower case (RFC 1035 3.1); of one that is not, the answer is false.
func (t Table) Blocks(name []byte) bool {
	if len(t.hashes) == 0 {
		return false
	}
	var starts [maxLabels]uint8
	n := labels(name, &starts)
	h := seed
	for i := n - 1; i >= 0; i-- {
		start := int(starts[i])
		h = addLabel(h, name[start+1:start+1+int(name[start])])
		if t.has(h|below) || i == 0 && t.has(h&^below) {
			return true
		}
	}
	return false
}

// BlocksName is Blocks of a name as people write it, in lower case and without a final dot.
func (t Table) BlocksName(name string) bool {
	var b []byte
	for label := range strings.SplitSeq(name, ".") {
		b = append(append(b, byte(len(label))), label...)
	}
	return t.Blocks(append(b, 0))
}

// maxLabels is how many labels a name has at most: 255 bytes (RFC 1035 2.3.4), two for each but the root.
const maxLabels = 127

// labels finds where the labels of a name begin, and how many there are; 0: it is no name, or the root.
func labels(name []byte, starts *[maxLabels]uint8) int {
	const maxBytes = 255
	n, at := 0, 0
	for at < len(name) && at < maxBytes && n < maxLabels {
		length := int(name[at])
		if length == 0 {
			return n
		}
		if length > 63 || at+1+length >= len(name) {
			return 0
		}
		starts[n] = uint8(at)
		n++
		at += 1 + length
	}
	return 0
}

// has searches by interpolation: hashes are spread evenly, so a few steps are enough and few pages are touched. Should
// they not be, it halves what is left like any search.
func (t Table) has(h uint64) bool {
	low, high := 0, t.Len()-1
	for step := 0; low <= high; step++ {
		first, last := t.at(low), t.at(high)
		if h < first || h > last {
			return false
		}
		middle := low + (high-low)/2
		if step < 8 && last > first {
			middle = low + int(float64(high-low)*(float64(h-first)/float64(last-first)))
			middle = min(max(middle, low), high)
		}
		switch v := t.at(middle); {
		case v == h:
			return true
		case v < h:
			low = middle + 1
		default:
			high = middle - 1
		}
	}
	return false
}

// FNV-1a of 64 bits (draft-eastlake-fnv), over the labels from the last to the first, each after its length; mixed at
// the end, since its high bits alone are spread badly.
const (
	seed  uint64 = 14695981039346656037
	prime uint64 = 1099511628211
	below uint64 = 1
)

func addLabel(h uint64, label []byte) uint64 {
	h = unmix(h)
	h = (h ^ uint64(len(label))) * prime
	for _, c := range label {
		h = (h ^ uint64(c)) * prime
	}
	return mix(h)
}

// mix spreads a hash over all bits and can be undone, so that the next label goes on from it: a multiplication by an
// odd number, and its inverse, around a shift by half the bits.
func mix(h uint64) uint64   { h *= mixer; return h ^ h>>32 }
func unmix(h uint64) uint64 { h ^= h >> 32; return h * inverse }

const (
	mixer   uint64 = 0x9e3779b97f4a7c15 // 2^64 by the golden ratio, odd
	inverse uint64 = 0xf1de83e19937733d // mixer * inverse = 1 mod 2^64
)

// Builder collects names for a table.
type Builder struct {
	// Most is how many names there may be; 0: MaxNames.
	Most   int
	hashes []uint64
}

func (b *Builder) most() int {
	if b.Most > 0 {
		return min(b.Most, MaxNames)
	}
	return MaxNames
}

// Add adds a name as people write it, in lower case and without a final dot; with all below it, when withBelow is set.
func (b *Builder) Add(name string, withBelow bool) {
	h := seed
	for end := len(name); end > 0; {
		start := end
		for start > 0 && name[start-1] != '.' {
			start--
		}
		h = addLabel(h, []byte(name[start:end]))
		end = start - 1
	}
	if withBelow {
		h |= below
	} else {
		h &^= below
	}
	b.hashes = append(b.hashes, h)
}

// Table returns the bytes of the table, always the same for the same names, and how many different ones there are.
// More than b.Most are an error.
func (b *Builder) Table() ([]byte, int, error) {
	slices.Sort(b.hashes)
	b.hashes = slices.Compact(b.hashes)
	if len(b.hashes) > b.most() {
		return nil, 0, fmt.Errorf("%d names, at most %d fit", len(b.hashes), b.most())
	}
	out := make([]byte, 0, headerSize+len(b.hashes)*hashSize)
	out = append(out, magic...)
	out = binary.LittleEndian.AppendUint64(out, uint64(len(b.hashes)))
	for _, h := range b.hashes {
		out = binary.LittleEndian.AppendUint64(out, h)
	}
	return out, len(b.hashes), nil
}
