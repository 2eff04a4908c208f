//go:build !guest

package profiles

import (
	"strconv"
	"strings"
)

func readBans(r *reader, v value, p *Profile) {
	for _, entry := range r.entries(v, "a mapping such as ssh: 5/10m for 1h", maxBans) {
		b := Ban{Service: entry.key.Value, At: entry.keyPos()}
		matches, problem, hint := parseService(b.Service)
		for _, m := range matches {
			if m.Protocol == TCP {
				b.Ports = append(b.Ports, m.Ports...)
			}
		}
		switch {
		case problem != "":
			r.rejectAt(b.At, hint, "bans: %s", problem)
			continue
		case len(b.Ports) == 0:
			r.rejectAt(b.At, "name a TCP service such as ssh, or tcp/PORT", "bans: %s has no TCP port; the sender of other"+
				" packets can be forged, so that anybody could have anybody banned", quote(b.Service))
			continue
		}
		if r.banTerms(entry, &b) {
			p.Bans = append(p.Bans, b)
		}
	}
}

// banTerms reads "5/10m for 1h".
func (r *reader) banTerms(v value, b *Ban) bool {
	const what = "how often, in what time, and for how long: 5/10m for 1h"
	text, ok := r.word(v, what)
	if !ok {
		return false
	}
	rate, length, _ := strings.Cut(text, " for ")
	count, window, _ := strings.Cut(rate, "/")
	n, good := parseCount(count)
	b.Attempts = n
	var ok1, ok2 bool
	b.Window, ok1 = parseSpan(window)
	b.For, ok2 = parseSpan(length)
	if !good || !ok1 || !ok2 {
		r.expected(v, what, "")
		return false
	}
	return true
}

// parseSpan reads a whole number of seconds, minutes, hours or days.
func parseSpan(text string) (seconds int64, ok bool) {
	if len(text) < 2 {
		return 0, false
	}
	unit, known := Limit{Per: text[len(text)-1:]}.Seconds()
	digits := text[:len(text)-1]
	n, err := strconv.ParseUint(digits, 10, 17)
	return int64(n * unit), known && err == nil && n > 0 && strconv.FormatUint(n, 10) == digits
}
