// Package deflate compresses up to 64 KiB at a time into raw DEFLATE (RFC 1951) with a window of 4 KiB: the compressed
// clusters of a qcow2 image, which QEMU inflates with a window of that size.
//
// It exists for size. The one Go package that allows a small window finds few matches in it: on a kernel, an initramfs
// and an EROFS root the image had 34.1 MB, with zlib 30.9 MB. This one knows all of its input, so it can choose the
// cheapest way to cut it into literals and matches rather than the first good one: 30.5 MB, at the price of time, some
// 16 MB/s on a core where zlib's usual level does 35 and its best 7. The output depends on the input alone: all
// arithmetic is on integers.
//
// What it deliberately does not do: streams, dictionaries, larger inputs or windows, and decompression.
package deflate

const (
	// MaxInput is the most that Encode takes, in bytes.
	MaxInput = 64 << 10
	// Window is how far back a match may lie, in bytes.
	Window = 4096

	minMatch = 3 // RFC 1951, 3.2.5
	maxMatch = 258
)

// An Encoder is working memory (about 2 MiB). The zero value is ready; it serves one goroutine at a time.
type Encoder struct {
	buf     [MaxInput + padding]byte
	n       int // bytes of input
	finder  finder
	cost    [MaxInput + 1]uint32
	choice  [MaxInput]token // of a position: the cheapest first step from there
	tokens  []token
	blocks  []block
	out     bitWriter
	scratch huffman
}

// token is a literal (length 0, the byte in distance) or a match.
type token struct{ length, distance uint16 }

// Encode appends the compressed form of src to dst. src must not be longer than MaxInput.
func (e *Encoder) Encode(dst, src []byte) []byte {
	if len(src) > MaxInput {
		panic("deflate: input longer than MaxInput")
	}
	e.n = copy(e.buf[:], src)
	clear(e.buf[e.n:])
	e.finder.find(&e.buf, e.n)

	// A quick parse says what symbols there will be and so what they cost; then the cheapest parse at those costs; then,
	// cut into blocks whose symbols differ, once more at the costs of each block. Without the first of the two the
	// result is 0.3 % larger, for a tenth of the time.
	e.greedy()
	e.blocks = append(e.blocks[:0], block{to: e.n})
	e.count()
	e.cheapest()
	e.split()
	e.cheapest()
	e.count()

	e.out = bitWriter{b: dst}
	t := 0
	for i := range e.blocks {
		b := &e.blocks[i]
		first := t
		for t < len(e.tokens) && t-first < b.tokens {
			t++
		}
		e.write(b, e.tokens[first:t], i == len(e.blocks)-1)
	}
	return e.out.finish()
}

// greedy takes at each position the longest match, unless the next position has a longer one.
func (e *Encoder) greedy() {
	e.tokens = e.tokens[:0]
	for i := 0; i < e.n; {
		m := e.finder.longest(i)
		if m.length < minMatch || i+1 < e.n && e.finder.longest(i+1).length > m.length {
			e.tokens = append(e.tokens, token{0, uint16(e.buf[i])})
			i++
			continue
		}
		e.tokens = append(e.tokens, m)
		i += int(m.length)
	}
}

// cheapest parses the input so that the costs of its tokens, by those of the block each begins in, add up to the least.
func (e *Encoder) cheapest() {
	at := len(e.blocks) - 1
	e.cost[e.n] = 0
	for i := e.n - 1; i >= 0; i-- {
		for i < e.blocks[at].from {
			at--
		}
		p := &e.blocks[at].prices
		best, choice := p.literal(e.buf[i])+e.cost[i+1], token{0, uint16(e.buf[i])}
		length := minMatch
		for _, m := range e.finder.at(i) {
			// Shorter lengths were had at a smaller distance.
			far := p.distance(int(m.distance))
			for ; length <= int(m.length); length++ {
				if c := p.length[length] + far + e.cost[i+length]; c < best {
					best, choice = c, token{uint16(length), m.distance}
				}
			}
		}
		e.cost[i], e.choice[i] = best, choice
	}
	e.tokens = e.tokens[:0]
	for i := 0; i < e.n; {
		t := e.choice[i]
		e.tokens = append(e.tokens, t)
		i += max(1, int(t.length))
	}
}

// chunk is the grain of blocks, in bytes of input.
const chunk = 4096

// split cuts the input into blocks: chunk by chunk, as long as one set of codes for both is the cheaper way.
func (e *Encoder) split() {
	e.blocks = e.blocks[:0]
	t, at := 0, 0
	for from := 0; from < e.n; from += chunk {
		next := block{from: from, to: min(from+chunk, e.n)}
		for ; t < len(e.tokens) && at < next.to; t++ {
			next.add(e.tokens[t])
			at += max(1, int(e.tokens[t].length))
		}
		next.estimate()
		if last := len(e.blocks) - 1; last >= 0 {
			both := e.blocks[last]
			both.merge(&next)
			if both.estimate(); both.bits <= e.blocks[last].bits+next.bits {
				e.blocks[last] = both
				continue
			}
		}
		e.blocks = append(e.blocks, next)
	}
	if len(e.blocks) == 0 {
		e.blocks = append(e.blocks, block{})
	}
	for i := range e.blocks {
		e.blocks[i].price()
	}
}

// count counts the tokens of each block anew, and prices them.
func (e *Encoder) count() {
	t, at := 0, 0
	for i := range e.blocks {
		b := &e.blocks[i]
		*b = block{from: b.from, to: b.to, start: at}
		for ; t < len(e.tokens) && at < b.to; t++ {
			b.add(e.tokens[t])
			at += max(1, int(e.tokens[t].length))
		}
		b.end = at
		b.price()
	}
}
