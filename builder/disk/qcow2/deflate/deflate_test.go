package deflate

import (
	"bytes"
	"compress/flate"
	"crypto/sha256"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	kflate "github.com/klauspost/compress/flate"
)

// inflate decompresses with Go's own package, and checks that nothing follows.
func inflate(t testing.TB, packed []byte) []byte {
	t.Helper()
	in := bytes.NewReader(packed)
	b, err := io.ReadAll(flate.NewReader(in))
	if err != nil {
		t.Fatalf("inflating: %v", err)
	}
	if in.Len() != 0 {
		t.Fatalf("%d bytes after the end of the stream", in.Len())
	}
	return b
}

func random(n int, seed string) []byte {
	b := make([]byte, n)
	rand.NewChaCha8(sha256.Sum256([]byte(seed))).Read(b)
	return b
}

// skewed makes symbols so uneven that the longest codes must be cut to 15 bits: each value twice as often as the next.
func skewed() []byte {
	var b []byte
	for v, n := 0, 1; len(b)+n <= MaxInput-100; v, n = v+1, n*2 {
		b = append(b, bytes.Repeat([]byte{byte(v)}, n)...)
	}
	r := rand.New(rand.NewPCG(1, 1))
	r.Shuffle(len(b), func(i, j int) { b[i], b[j] = b[j], b[i] })
	return b
}

func text(n int) []byte {
	r := rand.New(rand.NewPCG(1, 2))
	var b bytes.Buffer
	for b.Len() < n {
		fmt.Fprintf(&b, "rule %d accept from zone-%d to %x\n", r.IntN(1000), r.IntN(20), r.Uint64())
	}
	return b.Bytes()[:n]
}

func inputs() map[string][]byte {
	in := map[string][]byte{
		"nothing":     {},
		"a byte":      {7},
		"two":         {7, 7},
		"three":       {7, 7, 7},
		"four":        {7, 7, 7, 7},
		"258 alike":   bytes.Repeat([]byte{1}, 258),
		"259 alike":   bytes.Repeat([]byte{1}, 259),
		"260 alike":   bytes.Repeat([]byte{1}, 260),
		"zeros":       make([]byte, MaxInput),
		"random":      random(MaxInput, "a"),
		"odd random":  random(1001, "b"),
		"text":        text(MaxInput),
		"short text":  text(100),
		"skewed":      skewed(),
		"all bytes":   bytes.Repeat([]byte(strings.Repeat("\x00\x01", 7)), 4000),
		"text random": append(append(text(20000), random(20000, "c")...), text(20000)...),
	}
	for _, gap := range []int{Window - 3, Window - 1, Window, Window + 1} {
		in[fmt.Sprintf("a match %d back", gap)] = append(random(gap, "d"), random(gap, "d")...)
	}
	return in
}

func TestRoundTrip(t *testing.T) {
	e := new(Encoder)
	for name, in := range inputs() {
		packed := e.Encode([]byte("before"), in)
		if string(packed[:6]) != "before" {
			t.Errorf("%s: what was in dst is gone", name)
		}
		if got := inflate(t, packed[6:]); !bytes.Equal(got, in) {
			t.Errorf("%s: %d bytes come back as %d others", name, len(in), len(got))
		}
		if n := len(packed) - 6; n > len(in)+20 {
			t.Errorf("%s: %d bytes grow to %d", name, len(in), n)
		}
		if again := e.Encode(nil, in); !bytes.Equal(again, packed[6:]) {
			t.Errorf("%s: the same encoder gives other bytes the second time", name)
		}
	}
}

// TestMatches are found up to the window and never beyond it.
func TestWindow(t *testing.T) {
	e := new(Encoder)
	for gap, found := range map[int]bool{Window - 1: true, Window: true, Window + 1: false} {
		in := append(random(gap, "w"), random(gap, "w")[:200]...)
		e.Encode(nil, in)
		longest := 0
		for _, token := range e.tokens {
			if int(token.distance) > Window && token.length > 0 {
				t.Errorf("a match %d back", token.distance)
			}
			longest = max(longest, int(token.length))
		}
		if (longest >= 200) != found {
			t.Errorf("200 bytes %d back: longest match %d; want found %v", gap, longest, found)
		}
	}
}

// TestBeatsTheOther compares with the one package that could be used instead.
func TestBeatsTheOther(t *testing.T) {
	e := new(Encoder)
	for _, name := range []string{"text", "skewed", "text random", "zeros"} {
		in := inputs()[name]
		var b bytes.Buffer
		w, err := kflate.NewWriterWindow(&b, Window)
		if err != nil {
			t.Fatal(err)
		}
		w.Write(in)
		w.Close()
		if got := len(e.Encode(nil, in)); got > b.Len() {
			t.Errorf("%s: %d bytes; klauspost/compress/flate makes %d", name, got, b.Len())
		} else {
			t.Logf("%s: %d bytes; klauspost/compress/flate makes %d", name, got, b.Len())
		}
	}
}

func TestLog2(t *testing.T) {
	if log2(0) != 0 {
		t.Errorf("log2(0) = %d; want 0", log2(0))
	}
	for _, v := range []uint32{1, 2, 3, 5, 7, 100, 1000, 65535, 65536, 1 << 31, math.MaxUint32} {
		want := math.Log2(float64(v)) * one
		if got := float64(log2(v)); got > want+1e-6 || got < want-1.001 {
			t.Errorf("log2(%d) = %v; want %v or up to 1 less", v, got, want)
		}
	}
}

func FuzzRoundTrip(f *testing.F) {
	for _, in := range inputs() {
		if len(in) < 10000 {
			f.Add(in, uint16(1))
		}
	}
	e := new(Encoder)
	f.Fuzz(func(t *testing.T, in []byte, times uint16) {
		in = bytes.Repeat(in, int(times)%9)
		in = in[:min(len(in), MaxInput)]
		if got := inflate(t, e.Encode(nil, in)); !bytes.Equal(got, in) {
			t.Fatalf("%d bytes come back as %d others", len(in), len(got))
		}
	})
}
