package bounded

import (
	"errors"
	"io"
	"strings"
	"testing"
)

func TestBuffer(t *testing.T) {
	for _, tt := range []struct {
		most   int
		writes string // separated by blanks
		want   string
		over   bool
	}{
		{0, "", "", false},
		{0, "a", "", true},
		{3, "abc", "abc", false},
		{3, "ab cd", "abc", true},
		{3, "abcd", "abc", true},
		{3, "abc d e", "abc", true},
	} {
		for _, drain := range []bool{false, true} {
			b := Buffer{Most: tt.most, Drain: drain}
			var failed error
			for _, w := range strings.Fields(tt.writes) {
				n, err := io.WriteString(&b, w)
				if err == nil && n != len(w) || err != nil && n >= len(w) {
					t.Errorf("%+v: Write(%q) = %d, %v; want all of it, or why not", tt, w, n, err)
				}
				failed = errors.Join(failed, err)
			}
			if b.String() != tt.want || string(b.Bytes()) != tt.want || b.Over() != tt.over ||
				errors.Is(failed, ErrOver) != (tt.over && !drain) {
				t.Errorf("%+v, drain %t: %q, over %t, %v; want what fits", tt, drain, b.String(), b.Over(), failed)
			}
		}
	}
}
