package clock

import (
	"errors"
	"net/netip"
	"testing"
	"time"
)

func TestChoose(t *testing.T) {
	ms := func(offset, distance int) Sample {
		return Sample{Offset: time.Duration(offset) * time.Millisecond, Distance: time.Duration(distance) * time.Millisecond}
	}
	for _, c := range []struct {
		what    string
		samples []Sample
		best    int // offset, milliseconds
		liars   int
		err     bool
	}{
		{"nobody", nil, 0, 0, true},
		{"one", []Sample{ms(5, 10)}, 5, 0, false},
		{"two that agree: the more exact", []Sample{ms(5, 30), ms(8, 10)}, 8, 0, false},
		{"two that do not", []Sample{ms(0, 10), ms(500, 10)}, 0, 0, true},
		{"two that touch", []Sample{ms(0, 10), ms(20, 10)}, 0, 0, false},
		{"one lies", []Sample{ms(0, 10), ms(9000, 1), ms(4, 20)}, 0, 1, false},
		{"half lie together", []Sample{ms(0, 10), ms(9000, 1), ms(9000, 1), ms(4, 20)}, 0, 0, true},
		{"most lie together", []Sample{ms(0, 10), ms(9000, 1), ms(9000, 1)}, 9000, 1, false},
		{"a wide one agrees with all and decides nothing", []Sample{ms(0, 10), ms(400, 10), ms(200, 300)}, 0, 1, false},
		{"all differ", []Sample{ms(0, 10), ms(400, 10), ms(800, 10)}, 0, 0, true},
	} {
		best, liars, err := choose(c.samples)
		if got := int(best.Offset / time.Millisecond); got != c.best || len(liars) != c.liars || (err != nil) != c.err {
			t.Errorf("%s: choose = %d ms, %d liars, %v; want %d ms, %d, error %v", c.what, got, len(liars), err, c.best,
				c.liars, c.err)
		}
		if len(c.samples) > 1 && c.err && !errors.Is(err, errDisagree) {
			t.Errorf("%s: choose says %v", c.what, err)
		}
	}
}

func TestReferenceID(t *testing.T) {
	if got := referenceID(netip.MustParseAddr("192.0.2.1")); got != 0xc0000201 {
		t.Errorf("referenceID = %x", got)
	}
	a, b := referenceID(netip.MustParseAddr("2001:db8::1")), referenceID(netip.MustParseAddr("2001:db8::2"))
	if a == b || a == 0 {
		t.Errorf("referenceID = %x and %x", a, b)
	}
}
