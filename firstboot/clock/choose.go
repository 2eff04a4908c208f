package clock

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// Sample is what one exchange with a time server told.
type Sample struct {
	Server netip.Addr
	// Offset is what must be added to the guest's clock for the server's; Distance bounds how wrong that is (RFC 5905
	// section 11.2: half of the delays to the root of the server's time, and its dispersion).
	Offset, Distance time.Duration
	// What the server says of itself, for the guest's own answers.
	Stratum                   uint8 // 1 to 15
	RootDelay, RootDispersion time.Duration
	Leap                      uint8 // 0 to 2
}

// errDisagree is told when no majority of the servers tells the same time.
var errDisagree = errors.New("the time servers disagree")

// choose finds the time that more than half of the samples allow, by the intersection of their intervals (RFC 5905
// section 11.2.1, after Marzullo), and returns the most exact of those samples. What does not agree is a falseticker.
func choose(samples []Sample) (best Sample, liars []Sample, err error) {
	type edge struct {
		at   time.Duration
		kind int // 1: an interval begins, -1: it ends
	}
	var edges []edge
	for _, s := range samples {
		edges = append(edges, edge{s.Offset - s.Distance, 1}, edge{s.Offset + s.Distance, -1})
	}
	slices.SortFunc(edges, func(a, b edge) int {
		return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(b.kind, a.kind)) // touching intervals overlap
	})
	most, open := 0, 0
	var low, high time.Duration
	for i, e := range edges {
		if open += e.kind; open > most {
			most, low, high = open, e.at, edges[i+1].at
		}
	}
	if 2*most <= len(samples) {
		if len(samples) == 0 {
			return best, nil, errors.New("no time server answers")
		}
		return best, nil, fmt.Errorf("%w: %d of %d tell the same time", errDisagree, most, len(samples))
	}
	found := false
	for _, s := range samples {
		if s.Offset-s.Distance > high || s.Offset+s.Distance < low {
			liars = append(liars, s)
		} else if !found || s.Distance < best.Distance {
			best, found = s, true
		}
	}
	return best, liars, nil
}
