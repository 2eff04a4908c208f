package control

import (
	"cmp"
	"fmt"
	"strings"
)

// Version is a package's version as deb-version(7) writes it: [epoch:]upstream[-revision].
type Version string

// CheckVersion says what is wrong with a version, nil where nothing is.
func CheckVersion(v Version) error {
	epoch, rest, ok := strings.Cut(string(v), ":")
	if !ok {
		epoch, rest = "0", string(v)
	}
	if epoch == "" || len(epoch) > 9 || strings.Trim(epoch, "0123456789") != "" {
		return fmt.Errorf("version %q: the epoch is not a small number", v)
	}
	if rest == "" || len(rest) > 255 {
		return fmt.Errorf("version %q: expected 1 to 255 characters", v)
	}
	upstream, revision := cutRevision(rest)
	if upstream == "" || upstream[0] < '0' || upstream[0] > '9' {
		return fmt.Errorf("version %q: does not start with a digit", v)
	}
	for i := range len(rest) {
		if c := rest[i]; !isAlpha(c) && !isDigit(c) && strings.IndexByte(".+-~:", c) < 0 {
			return fmt.Errorf("version %q: %q may not be in a version", v, c)
		}
	}
	if strings.HasSuffix(rest, "-") || strings.Contains(revision, ":") {
		return fmt.Errorf("version %q: bad revision", v)
	}
	return nil
}

// Compare orders versions by deb-version(7), "Sorting algorithm": -1 where a is older than b, 0 where they are equal,
// 1 where a is newer.
func Compare(a, b Version) int {
	epochA, restA := cutEpoch(string(a))
	epochB, restB := cutEpoch(string(b))
	if c := compareNumber(epochA, epochB); c != 0 {
		return c
	}
	upstreamA, revisionA := cutRevision(restA)
	upstreamB, revisionB := cutRevision(restB)
	if c := comparePart(upstreamA, upstreamB); c != 0 {
		return c
	}
	return comparePart(revisionA, revisionB)
}

func cutEpoch(v string) (epoch, rest string) {
	if epoch, rest, ok := strings.Cut(v, ":"); ok {
		return epoch, rest
	}
	return "", v
}

func cutRevision(v string) (upstream, revision string) {
	if i := strings.LastIndexByte(v, '-'); i >= 0 {
		return v[:i], v[i+1:]
	}
	return v, ""
}

// comparePart compares, in turns, a stretch without digits and a number.
func comparePart(a, b string) int {
	for a != "" || b != "" {
		for (a != "" && !isDigit(a[0])) || (b != "" && !isDigit(b[0])) {
			if c := cmp.Compare(weight(a), weight(b)); c != 0 {
				return c
			}
			a, b = a[min(1, len(a)):], b[min(1, len(b)):]
		}
		i, j := digits(a), digits(b)
		if c := compareNumber(a[:i], b[:j]); c != 0 {
			return c
		}
		a, b = a[i:], b[j:]
	}
	return 0
}

// weight orders the first character of a stretch: ~ before the end, the end (and a digit) before letters, letters
// before all else.
func weight(s string) int {
	switch {
	case s == "" || isDigit(s[0]):
		return 0
	case s[0] == '~':
		return -1
	case isAlpha(s[0]):
		return int(s[0])
	}
	return int(s[0]) + 256
}

func digits(s string) int {
	i := 0
	for i < len(s) && isDigit(s[i]) {
		i++
	}
	return i
}

// compareNumber compares decimal numbers of any length; none counts as zero.
func compareNumber(a, b string) int {
	a, b = strings.TrimLeft(a, "0"), strings.TrimLeft(b, "0")
	if c := cmp.Compare(len(a), len(b)); c != 0 {
		return c
	}
	return cmp.Compare(a, b)
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }
func isAlpha(c byte) bool { return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' }
