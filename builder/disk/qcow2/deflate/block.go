package deflate

import "math/bits"

// The alphabets of RFC 1951, 3.2.5 to 3.2.7.
const (
	endOfBlock   = 256
	firstLength  = 257
	literalCodes = 286
	distCodes    = 30
	lengthCodes  = 29
)

// lengthBase and lengthExtra are the table of 3.2.5 for lengths, distBase and distExtra for distances.
var (
	lengthBase = [lengthCodes]uint16{3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 23, 27, 31, 35, 43, 51, 59, 67, 83, 99,
		115, 131, 163, 195, 227, 258}
	lengthExtra = [lengthCodes]uint8{0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0}
	distBase    = [distCodes]uint16{1, 2, 3, 4, 5, 7, 9, 13, 17, 25, 33, 49, 65, 97, 129, 193, 257, 385, 513, 769, 1025,
		1537, 2049, 3073, 4097, 6145, 8193, 12289, 16385, 24577}
	distExtra = [distCodes]uint8{0, 0, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9, 10, 10, 11, 11, 12, 12,
		13, 13}

	// From value to code.
	lengthCode = func() (t [maxMatch + 1]uint8) { spread(t[:], lengthBase[:]); return t }()
	distCode   = func() (t [Window + 1]uint8) { spread(t[:], distBase[:]); return t }()
)

// spread turns a table of first values into one from value to code.
func spread(t []uint8, base []uint16) {
	code := 0
	for v := range t {
		for code+1 < len(base) && v >= int(base[code+1]) {
			code++
		}
		t[v] = uint8(code)
	}
}

// block is a run of tokens with codes of their own.
type block struct {
	from, to   int // positions whose tokens it holds: those that begin there
	start, end int // input that the tokens stand for
	tokens     int
	literals   [literalCodes]uint32 // how often each symbol is used
	dists      [distCodes]uint32
	bits       uint32 // estimated size, scaled by one
	prices     prices
}

func (b *block) add(t token) {
	b.tokens++
	if t.length == 0 {
		b.literals[t.distance]++
		return
	}
	b.literals[firstLength+int(lengthCode[t.length])]++
	b.dists[distCode[t.distance]]++
}

// merge adds the block that follows.
func (b *block) merge(next *block) {
	b.to = next.to
	b.tokens += next.tokens
	for i, n := range next.literals {
		b.literals[i] += n
	}
	for i, n := range next.dists {
		b.dists[i] += n
	}
}

// Costs are in sixteenths of a bit.
const (
	one = 16
	// unseenBits is the cost of a symbol the parse before did not use: it may yet become worth its place.
	unseenBits = 13
	// Roughly what the description of a block's codes takes: the fixed part, and for each code in use. It only decides
	// where to cut.
	headerBits  = 150
	perCodeBits = 3
)

// estimate says what the block takes by the entropy of its symbols, without extra bits: they are the same however it
// is cut.
func (b *block) estimate() {
	b.bits = headerBits * one
	for _, alphabet := range [][]uint32{b.literals[:], b.dists[:]} {
		total := uint32(0)
		for _, n := range alphabet {
			total += n
		}
		whole := log2(total)
		for _, n := range alphabet {
			if n > 0 {
				b.bits += n*(whole-log2(n)) + perCodeBits*one
			}
		}
	}
}

// prices are what tokens cost.
type prices struct {
	literals [256]uint32
	length   [maxMatch + 1]uint32 // by length: code and extra bits
	dists    [distCodes]uint32
}

func (p *prices) literal(b byte) uint32 { return p.literals[b] }
func (p *prices) distance(d int) uint32 { return p.dists[distCode[d]] }

// price sets the prices by how often symbols were used.
func (b *block) price() {
	cost := func(alphabet []uint32) func(int) uint32 {
		total := uint32(1)
		for _, n := range alphabet {
			total += n
		}
		whole := log2(total)
		return func(i int) uint32 {
			if alphabet[i] == 0 {
				return unseenBits * one
			}
			// No code is shorter than one bit.
			return max(one, whole-log2(alphabet[i]))
		}
	}
	literal, dist := cost(b.literals[:]), cost(b.dists[:])
	for i := range b.prices.literals {
		b.prices.literals[i] = literal(i)
	}
	for l := minMatch; l <= maxMatch; l++ {
		code := int(lengthCode[l])
		b.prices.length[l] = literal(firstLength+code) + uint32(lengthExtra[code])*one
	}
	for code := range distCodes {
		b.prices.dists[code] = dist(code) + uint32(distExtra[code])*one
	}
}

// log2 is the binary logarithm in sixteenths, rounded down, by repeated squaring; integers, because floating point
// may round otherwise on another machine. log2(0) is 0.
func log2(v uint32) uint32 {
	if v == 0 {
		return 0
	}
	whole := uint32(bits.Len32(v) - 1)
	x := uint64(v) << (31 - whole) // in [1, 2) with 31 fraction bits
	result := whole * one
	for bit := uint32(one / 2); bit > 0; bit /= 2 {
		x = x * x >> 31
		if x >= 2<<31 {
			x /= 2
			result += bit
		}
	}
	return result
}
