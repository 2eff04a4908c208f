package deflate

import (
	"encoding/binary"
	"math/bits"
)

const (
	// padding after the input lets matches be measured eight bytes at a time.
	padding = 8

	hashBits = 14
	// maxChain is how many earlier places are tried at most. 64 make an image 0.3 % smaller and take a third longer.
	maxChain = 16
	// goodEnough is the length at which a match is taken for certain to be used, and what it covers is not searched.
	goodEnough = 32
)

// finder finds matches. The tables hold places plus one, 0 for none. Of three equal bytes only the last place is kept:
// at a larger distance so short a match seldom pays. Of four and more all places in the window are.
type finder struct {
	last3    [1 << hashBits]uint16
	head     [1 << hashBits]uint16
	previous [Window]uint16
	start    [MaxInput + 1]uint32 // of a position's matches in found
	found    []token              // of each position: ascending length, each at the least distance
}

// at returns the matches of a position.
func (f *finder) at(i int) []token { return f.found[f.start[i]:f.start[i+1]] }

// longest returns the longest match of a position; its length is 0 when there is none.
func (f *finder) longest(i int) token {
	if m := f.at(i); len(m) > 0 {
		return m[len(m)-1]
	}
	return token{}
}

// find finds the matches of all positions of the first n bytes.
func (f *finder) find(buf *[MaxInput + padding]byte, n int) {
	clear(f.last3[:])
	clear(f.head[:])
	f.found = f.found[:0]
	searchFrom := 0
	for i := range n {
		f.start[i] = uint32(len(f.found))
		if i+minMatch > n {
			continue
		}
		// Beyond the input are zeros: at its end the four bytes may be more than there are, which limit cuts off.
		four := binary.LittleEndian.Uint32(buf[i:])
		h3, h4 := hash(four<<8), hash(four)
		if i >= searchFrom {
			longest := f.search(buf, i, min(maxMatch, n-i), four, int(f.last3[h3])-1, int(f.head[h4])-1)
			if longest >= goodEnough {
				searchFrom = i + longest
			}
		}
		f.last3[h3] = uint16(i + 1)
		f.previous[uint(i)%Window] = f.head[h4]
		f.head[h4] = uint16(i + 1)
	}
	f.start[n] = uint32(len(f.found))
}

func hash(v uint32) uint32 {
	const odd = 0x9E3779B1 // 2^32 over the golden ratio
	return v * odd >> (32 - hashBits)
}

// search notes a match of three bytes, then follows the chain of earlier places and notes each that matches longer than
// those before; it returns the length of the last.
func (f *finder) search(buf *[MaxInput + padding]byte, i, limit int, four uint32, last3, candidate int) int {
	longest := minMatch - 1
	if last3 >= max(0, i-Window) && (binary.LittleEndian.Uint32(buf[last3:])^four)<<8 == 0 {
		longest = minMatch
		f.found = append(f.found, token{minMatch, uint16(i - last3)})
	}
	if limit <= minMatch {
		return longest
	}
	// What a longer match must have: its last four bytes so far and the next one's.
	tail := four
	at := 0
	oldest := max(0, i-Window)
	for range maxChain {
		if candidate < oldest {
			break
		}
		if binary.LittleEndian.Uint32(buf[candidate+at:]) == tail {
			if length := matchLength(buf, candidate, i, limit); length > max(longest, minMatch) {
				longest = length
				f.found = append(f.found, token{uint16(length), uint16(i - candidate)})
				if length >= limit {
					break
				}
				at = length - 3
				tail = binary.LittleEndian.Uint32(buf[i+at:])
			}
		}
		candidate = int(f.previous[uint(candidate)%Window]) - 1
	}
	return longest
}

func matchLength(buf *[MaxInput + padding]byte, a, b, limit int) int {
	for n := 0; n < limit; n += 8 {
		x := binary.LittleEndian.Uint64(buf[a+n:]) ^ binary.LittleEndian.Uint64(buf[b+n:])
		if x != 0 {
			return min(n+bits.TrailingZeros64(x)/8, limit)
		}
	}
	return limit
}
