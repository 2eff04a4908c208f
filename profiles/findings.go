package profiles

import (
	"fmt"
	"strings"
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
