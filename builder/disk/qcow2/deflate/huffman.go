package deflate

import (
	"cmp"
	"math/bits"
	"slices"
)

// Longest codes (RFC 1951, 3.2.7).
const (
	maxCodeBits   = 15
	maxHeaderBits = 7
)

// huffman is working memory for making codes.
type huffman struct {
	symbols []symbol
	nodes   []node
}

type symbol struct {
	value uint16
	count uint32
}

type node struct {
	count  uint32
	parent int32
	depth  uint8
}

// lengths sets the code length of each symbol by how often it is used, none longer than limit; unused ones get 0. At
// least two symbols get a code, used or not: the code is then complete, which every decoder accepts.
func (h *huffman) lengths(out []uint8, counts []uint32, limit int) {
	clear(out)
	h.symbols = h.symbols[:0]
	for v, n := range counts {
		if n > 0 {
			h.symbols = append(h.symbols, symbol{uint16(v), n})
		}
	}
	for v := uint16(0); len(h.symbols) < 2; v++ {
		if counts[v] == 0 {
			h.symbols = append(h.symbols, symbol{v, 1})
		}
	}
	slices.SortFunc(h.symbols, func(a, b symbol) int {
		return cmp.Or(cmp.Compare(a.count, b.count), cmp.Compare(a.value, b.value))
	})
	// Leaves in ascending order, then inner nodes, which come out in ascending order too: two queues are enough.
	n := len(h.symbols)
	h.nodes = h.nodes[:0]
	for _, s := range h.symbols {
		h.nodes = append(h.nodes, node{count: s.count})
	}
	leaf, inner := 0, n
	least := func() int {
		if leaf < n && (inner == len(h.nodes) || h.nodes[leaf].count <= h.nodes[inner].count) {
			leaf++
			return leaf - 1
		}
		inner++
		return inner - 1
	}
	for range n - 1 {
		a, b := least(), least()
		h.nodes[a].parent, h.nodes[b].parent = int32(len(h.nodes)), int32(len(h.nodes))
		h.nodes = append(h.nodes, node{count: h.nodes[a].count + h.nodes[b].count})
	}
	var perLength [maxCodeBits + 1]int
	for i := len(h.nodes) - 2; i >= 0; i-- {
		h.nodes[i].depth = h.nodes[h.nodes[i].parent].depth + 1
		if i < n {
			perLength[min(int(h.nodes[i].depth), limit)]++
		}
	}
	shorten(&perLength, limit)
	// The rarest symbols get the longest codes.
	i := 0
	for length := limit; length > 0; length-- {
		for range perLength[length] {
			out[h.symbols[i].value] = uint8(length)
			i++
		}
	}
}

// shorten makes a code complete after lengths above the limit were cut to it: while it holds too much, the deepest leaf
// above the limit moves down and takes one of the limit's beside it.
func shorten(perLength *[maxCodeBits + 1]int, limit int) {
	used := 0
	for length := 1; length <= limit; length++ {
		used += perLength[length] << (limit - length)
	}
	for ; used > 1<<limit; used-- {
		length := limit - 1
		for perLength[length] == 0 {
			length--
		}
		perLength[length]--
		perLength[length+1] += 2
		perLength[limit]--
	}
}

// canonical returns the codes of 3.2.2 for the lengths, turned around: DEFLATE packs codes from their first bit and
// everything else from the last.
func canonical(out []uint16, lengths []uint8) {
	var perLength, next [maxCodeBits + 1]uint16
	for _, l := range lengths {
		perLength[l]++
	}
	perLength[0] = 0
	for l := 1; l <= maxCodeBits; l++ {
		next[l] = (next[l-1] + perLength[l-1]) << 1
	}
	for v, l := range lengths {
		if l > 0 {
			out[v] = bits.Reverse16(next[l]) >> (16 - l)
			next[l]++
		}
	}
}
