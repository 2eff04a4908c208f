package profiles

import (
	"slices"
	"strings"
)

// suggest is the hint for a word that is none of those known: the nearest by edit distance, or all when they are few.
func suggest(word string, known []string) string {
	if near := nearest(word, known); near != "" {
		return near
	}
	if len(known) == 0 || len(known) > maxKnown {
		return ""
	}
	list := slices.Sorted(slices.Values(known))
	for i := range list {
		list[i] = clip(list[i])
	}
	return "known: " + strings.Join(list, ", ")
}

// Suggest gives other words, such as those of a command line, the hint that profiles get.
func Suggest(word string, known []string) string { return suggest(word, known) }

// maxKnown is how many words a hint lists.
const maxKnown = 24

// nearest is the hint for a word that is a slip away from one of those known, else empty.
func nearest(word string, known []string) string {
	best, least := "", 3 // further than two edits is no slip of the fingers
	if len(word) <= 4 {
		least = 2 // of a short word, two edits leave nothing
	}
	if len(word) <= 32 {
		for _, k := range known {
			if d := editDistance(strings.ToLower(word), strings.ToLower(k)); d < least {
				best, least = k, d
			}
		}
	}
	if best == "" {
		return ""
	}
	return "did you mean " + quote(best) + "?"
}

// editDistance counts insertions, deletions, replacements and swaps of neighbours (optimal string alignment).
func editDistance(a, b string) int {
	var before, above []int
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		before, above, row = above, row, make([]int, len(b)+1)
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(above[j]+1, row[j-1]+1, above[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
	}
	return row[len(b)]
}
