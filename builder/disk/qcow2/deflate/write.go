package deflate

import (
	"encoding/binary"
	"slices"
)

// Kinds of blocks (RFC 1951, 3.2.3).
const (
	stored  = 0
	fixed   = 1
	dynamic = 2
)

// bitWriter packs bits from the lowest up.
type bitWriter struct {
	b    []byte
	acc  uint64
	bits uint
}

// put appends n bits, at most 32.
func (w *bitWriter) put(v uint32, n uint) {
	w.acc |= uint64(v) << w.bits
	if w.bits += n; w.bits >= 32 {
		w.b = binary.LittleEndian.AppendUint32(w.b, uint32(w.acc))
		w.acc >>= 32
		w.bits -= 32
	}
}

// finish fills the last byte and returns all of them.
func (w *bitWriter) finish() []byte {
	for ; w.bits > 0; w.bits -= min(8, w.bits) {
		w.b = append(w.b, byte(w.acc))
		w.acc >>= 8
	}
	return w.b
}

// code is a Huffman code over the literals and lengths, and one over the distances.
type code struct {
	literalBits [literalCodes + 2]uint8 // two more than are used: the fixed code has them
	literal     [literalCodes + 2]uint16
	distBits    [distCodes]uint8
	dist        [distCodes]uint16
}

// fixedCode is the code of 3.2.6.
var fixedCode = func() *code {
	c := &code{}
	for i := range c.literalBits {
		switch {
		case i < 144:
			c.literalBits[i] = 8
		case i < 256:
			c.literalBits[i] = 9
		case i < 280:
			c.literalBits[i] = 7
		default:
			c.literalBits[i] = 8
		}
	}
	for i := range c.distBits {
		c.distBits[i] = 5
	}
	canonical(c.literal[:], c.literalBits[:])
	canonical(c.dist[:], c.distBits[:])
	return c
}()

// size is how many bits the symbols of a block take, without extra bits.
func (c *code) size(b *block) int {
	total := 0
	for i, n := range b.literals {
		total += int(n) * int(c.literalBits[i])
	}
	for i, n := range b.dists {
		total += int(n) * int(c.distBits[i])
	}
	return total
}

// write writes a block in whichever kind is smallest.
func (e *Encoder) write(b *block, tokens []token, last bool) {
	b.literals[endOfBlock] = 1
	own := &code{}
	e.scratch.lengths(own.literalBits[:literalCodes], b.literals[:], maxCodeBits)
	e.scratch.lengths(own.distBits[:], b.dists[:], maxCodeBits)
	canonical(own.literal[:], own.literalBits[:])
	canonical(own.dist[:], own.distBits[:])
	var h header
	h.describe(&e.scratch, own)

	extra := 0
	for i, n := range b.literals[firstLength:] {
		extra += int(n) * int(lengthExtra[i])
	}
	for i, n := range b.dists {
		extra += int(n) * int(distExtra[i])
	}
	dynamicSize, fixedSize := h.size+own.size(b)+extra, fixedCode.size(b)+extra
	input := e.buf[b.start:b.end]
	storedSize := (len(input)+5)*8 + 7

	final := uint32(0)
	if last {
		final = 1
	}
	switch {
	case storedSize < min(dynamicSize, fixedSize) && len(input) <= maxStored:
		e.out.put(final|stored<<1, 3)
		e.out.store(input)
	case fixedSize <= dynamicSize:
		e.out.put(final|fixed<<1, 3)
		e.out.tokens(tokens, fixedCode)
	default:
		e.out.put(final|dynamic<<1, 3)
		h.write(&e.out)
		e.out.tokens(tokens, own)
	}
}

// maxStored is the most a stored block holds (3.2.4).
const maxStored = 0xFFFF

func (w *bitWriter) store(b []byte) {
	w.b = w.finish()
	w.acc, w.bits = 0, 0
	w.b = binary.LittleEndian.AppendUint16(w.b, uint16(len(b)))
	w.b = binary.LittleEndian.AppendUint16(w.b, ^uint16(len(b)))
	w.b = append(w.b, b...)
}

func (w *bitWriter) tokens(tokens []token, c *code) {
	for _, t := range tokens {
		if t.length == 0 {
			w.put(uint32(c.literal[t.distance]), uint(c.literalBits[t.distance]))
			continue
		}
		l := lengthCode[t.length]
		w.put(uint32(c.literal[firstLength+int(l)]), uint(c.literalBits[firstLength+int(l)]))
		w.put(uint32(t.length-lengthBase[l]), uint(lengthExtra[l]))
		d := distCode[t.distance]
		w.put(uint32(c.dist[d]), uint(c.distBits[d]))
		w.put(uint32(t.distance-distBase[d]), uint(distExtra[d]))
	}
	w.put(uint32(c.literal[endOfBlock]), uint(c.literalBits[endOfBlock]))
}

// The description of a block's codes (3.2.7): code lengths, themselves coded, runs of them by three more symbols.
const (
	headerCodes = 19
	copyRun     = 16 // the length before, 3 to 6 times
	zeroRun     = 17 // 0, 3 to 10 times
	longZeroRun = 18 // 0, 11 to 138 times
	minRun      = 3
	maxCopy     = 6
	maxZeros    = 10
	minLongZero = 11
	maxLongZero = 138
)

// headerOrder is the order in which the lengths of the code lengths' own codes stand.
var headerOrder = [headerCodes]uint8{16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15}

type header struct {
	literals, dists, codes int // how many lengths are written of each
	bits                   [headerCodes]uint8
	code                   [headerCodes]uint16
	runs                   []runLength
	size                   int // bits
}

type runLength struct {
	symbol, value uint8
}

// extraBits of a run.
func (r runLength) extraBits() uint {
	switch r.symbol {
	case copyRun:
		return 2
	case zeroRun:
		return 3
	case longZeroRun:
		return 7
	}
	return 0
}

func (h *header) describe(scratch *huffman, c *code) {
	used := func(lengths []uint8, least int) int {
		n := len(lengths)
		for n > least && lengths[n-1] == 0 {
			n--
		}
		return n
	}
	h.literals = used(c.literalBits[:literalCodes], firstLength)
	h.dists = used(c.distBits[:], 1)
	lengths := slices.Concat(c.literalBits[:h.literals], c.distBits[:h.dists])
	h.runs = make([]runLength, 0, len(lengths))
	for i := 0; i < len(lengths); {
		n := 1
		for i+n < len(lengths) && lengths[i+n] == lengths[i] {
			n++
		}
		h.run(lengths[i], n)
		i += n
	}
	var counts [headerCodes]uint32
	for _, r := range h.runs {
		counts[r.symbol]++
	}
	scratch.lengths(h.bits[:], counts[:], maxHeaderBits)
	canonical(h.code[:], h.bits[:])
	h.codes = headerCodes
	for h.codes > 4 && h.bits[headerOrder[h.codes-1]] == 0 {
		h.codes--
	}
	h.size = 5 + 5 + 4 + 3*h.codes
	for _, r := range h.runs {
		h.size += int(h.bits[r.symbol]) + int(r.extraBits())
	}
}

// run notes n times the same length.
func (h *header) run(length uint8, n int) {
	if length != 0 {
		h.runs = append(h.runs, runLength{symbol: length})
		n--
	}
	for n >= minRun {
		switch {
		case length != 0:
			k := min(n, maxCopy)
			h.runs = append(h.runs, runLength{copyRun, uint8(k - minRun)})
			n -= k
		case n >= minLongZero:
			k := min(n, maxLongZero)
			h.runs = append(h.runs, runLength{longZeroRun, uint8(k - minLongZero)})
			n -= k
		default:
			k := min(n, maxZeros)
			h.runs = append(h.runs, runLength{zeroRun, uint8(k - minRun)})
			n -= k
		}
	}
	for range n {
		h.runs = append(h.runs, runLength{symbol: length})
	}
}

func (h *header) write(w *bitWriter) {
	w.put(uint32(h.literals-firstLength), 5)
	w.put(uint32(h.dists-1), 5)
	w.put(uint32(h.codes-4), 4)
	for _, s := range headerOrder[:h.codes] {
		w.put(uint32(h.bits[s]), 3)
	}
	for _, r := range h.runs {
		w.put(uint32(h.code[r.symbol]), uint(h.bits[r.symbol]))
		w.put(uint32(r.value), r.extraBits())
	}
}
