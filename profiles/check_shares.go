package profiles

import (
	"fmt"
	"strings"
)

// stateStep is what sizes of state disks are proposed in, in bytes.
const stateStep = 32 * mebibyte

// shares checks that what the guest keeps fits on its state disk. Errors elsewhere come first: they may be about the
// very pool or list that seems to need the room.
func (v *validator) shares() {
	size := v.p.State.Size
	if size < minState || size > maxState || len(v.findings) > 0 {
		return
	}
	all, need := v.p.Shares(StateRoom(size)), int64(0)
	var parts []string
	for _, s := range all {
		need += s.Need
		parts = append(parts, fmt.Sprintf("%s %s", s.Of, roundedSize(s.Need)))
	}
	if room := StateRoom(size); need > room {
		enough := (size/stateStep + 1) * stateStep
		for needs(v.p, enough) > StateRoom(enough) {
			enough += stateStep
		}
		v.warn(v.places.find(Pos{}, "state"), "write "+sizeText(enough), "state: %s has room for %s, and what the guest"+
			" keeps may take %s: %s; whoever comes to the end of its part keeps nothing more", sizeText(size),
			roundedSize(room), roundedSize(need), strings.Join(parts, ", "))
	}
}

// needs is what all that a guest keeps takes on a state disk of size bytes.
func needs(p *Profile, size int64) (sum int64) {
	for _, s := range p.Shares(StateRoom(size)) {
		sum += s.Need
	}
	return sum
}

// roundedSize is a size for people, rounded up to MiB or, below one, to KiB.
func roundedSize(n int64) string {
	if n < mebibyte {
		return fmt.Sprintf("%dK", (n+1023)/1024)
	}
	return sizeText((n + mebibyte - 1) / mebibyte * mebibyte)
}
