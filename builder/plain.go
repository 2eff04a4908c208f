package main

import "io"

// plain writes what a guest says for a person, and replaces what a terminal would obey: the guest may be in the hands
// of a stranger.
type plain struct{ w io.Writer }

func (p *plain) Write(b []byte) (int, error) {
	out := make([]byte, len(b))
	for i, c := range b {
		if c < ' ' && c != '\n' && c != '\t' || c == 0x7f {
			c = '?'
		}
		out[i] = c
	}
	return p.w.Write(out)
}
