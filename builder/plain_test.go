package main

import (
	"strings"
	"testing"
)

// Whatever the pieces, people see the same, and a terminal nothing it obeys: neither an escape nor a control of C1,
// which starts a sequence too (ECMA-48, 5.3), as a byte or in UTF-8.
func TestPlain(t *testing.T) {
	for in, want := range map[string]string{
		"a\tb\n":                              "a\tb\n",
		"\x1b[2J\r\x7f":                       "?[2J??",
		"\u009b2J, \u0085":                    "?2J, ?",
		"x\x9b2J":                             "x?2J",
		"Gr\u00fc\u00dfe \u20ac \U0001f525\n": "Gr\u00fc\u00dfe \u20ac \U0001f525\n",
	} {
		for size := 1; size <= len(in); size++ {
			var out strings.Builder
			p := &plain{w: &out}
			for rest := in; rest != ""; {
				n := min(size, len(rest))
				if got, err := p.Write([]byte(rest[:n])); got != n || err != nil {
					t.Fatalf("Write(%q) = %d, %v; want %d", rest[:n], got, err, n)
				}
				rest = rest[n:]
			}
			if out.String() != want {
				t.Errorf("%q in pieces of %d = %q; want %q", in, size, out.String(), want)
			}
		}
	}
}
