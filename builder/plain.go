package main

import (
	"io"
	"unicode/utf8"
)

// plain writes what a guest says for a person, printable as that is: the guest may be in the hands of a stranger. What
// a character cut in two begins with waits for its rest; without one it is never written.
type plain struct {
	w    io.Writer
	rest []byte
}

func (p *plain) Write(b []byte) (int, error) {
	text := append(p.rest, b...)
	whole := len(text)
	for n := 1; n < utf8.UTFMax && n <= len(text); n++ {
		if first := text[len(text)-n:]; utf8.RuneStart(first[0]) {
			if !utf8.FullRune(first) {
				whole -= n
			}
			break
		}
	}
	p.rest = append([]byte(nil), text[whole:]...)
	if _, err := io.WriteString(p.w, printable(string(text[:whole]))); err != nil {
		return 0, err
	}
	return len(b), nil
}
