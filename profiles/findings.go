package profiles

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Finding is one thing wrong, or worth knowing, at one place of a profile.
type Finding struct {
	File string `json:"file"`
	Pos
	What string `json:"what"`           // what was found and what was expected
	Hint string `json:"hint,omitempty"` // what to write instead; may be empty
}

// String is one line: file:line:column: what; hint.
func (f Finding) String() string {
	s := fmt.Sprintf("%s:%d:%d: %s", f.File, f.Line, f.Column, f.What)
	if f.Hint != "" {
		s += "; " + f.Hint
	}
	return s
}

// Invalid is the error of a profile that cannot be used: everything that is wrong with it, in the order of the file.
type Invalid []Finding

func (e Invalid) Error() string {
	lines := make([]string, len(e))
	for i, f := range e {
		lines[i] = f.String()
	}
	return strings.Join(lines, "\n")
}

// maxFindings is how many findings one profile is told: past that the file is something else.
const maxFindings = 100

// inOrder sorts findings by their place, drops repetitions, and cuts a list nobody would read.
func inOrder(file string, findings []Finding) Invalid {
	slices.SortStableFunc(findings, func(a, b Finding) int {
		if a.Line != b.Line {
			return a.Line - b.Line
		}
		return a.Column - b.Column
	})
	findings = slices.Compact(findings) // a service that is two matches tells the same twice
	if n := len(findings); n > maxFindings {
		last := findings[maxFindings-1]
		findings = append(findings[:maxFindings:maxFindings], Finding{File: file, Pos: last.Pos,
			What: "more findings follow", Hint: "mend these first"})
	}
	return findings
}

// maxQuoted is how many bytes of somebody's text a finding repeats.
const maxQuoted = 60

// clip makes somebody's text fit to repeat in a finding: short, on one line, and without what a terminal would obey.
func clip(s string) string { return clipTo(s, maxQuoted) }

func clipTo(s string, cut int) string {
	if len(s) > cut {
		for cut > 0 && !utf8.RuneStart(s[cut]) {
			cut--
		}
		s = s[:cut] + "..."
	}
	if strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		escaped := strconv.Quote(s)
		return escaped[1 : len(escaped)-1]
	}
	return s
}

func quote(s string) string { return `"` + clip(s) + `"` }
