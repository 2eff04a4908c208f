package zonefile

import "strings"

// entries cuts the text of a zone file into its entries: lines, joined inside parentheses, without comments (RFC 1035
// section 5.1).
type entries struct {
	rest string
	line int // of the first byte of rest
}

// entry is one record or directive.
type entry struct {
	text    string // on one line
	line    int    // where it begins
	blank   bool   // it begins with white space: the name is that of the record before
	problem string // it cannot be read
}

// next returns the next entry that says something.
func (e *entries) next() (entry, bool) {
	for e.rest != "" {
		if one := e.cut(); one.text != "" || one.problem != "" {
			return one, true
		}
	}
	return entry{}, false
}

// cut takes one entry off the text; it may be empty.
func (e *entries) cut() entry {
	one := entry{line: e.line, blank: strings.HasPrefix(e.rest, " ") || strings.HasPrefix(e.rest, "\t")}
	var text strings.Builder
	depth, quoted, said := 0, false, false
	i := 0
scan:
	for ; i < len(e.rest); i++ {
		c := e.rest[i]
		switch {
		case c == '\n':
			e.line++
			if quoted {
				one.problem = "a quote is opened and not closed on its line"
				i++
				break scan
			}
			if depth == 0 {
				i++
				break scan
			}
			text.WriteByte(' ')
			continue
		case c == '\\' && i+1 < len(e.rest) && e.rest[i+1] != '\n':
			text.WriteByte(c)
			i++
			text.WriteByte(e.rest[i])
			said = true
			continue
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == ';':
			for i+1 < len(e.rest) && e.rest[i+1] != '\n' {
				i++
			}
			continue
		case c == '(':
			depth++
			c = ' '
		case c == ')':
			if depth--; depth < 0 {
				one.problem, depth = "a parenthesis is closed that was not opened", 0
			}
			c = ' '
		case c == '\r':
			c = ' '
		case c < ' ' && c != '\t', c == 0x7f:
			one.problem = "a control character: this is no zone file"
		}
		if !said && c != ' ' && c != '\t' {
			said = true
			if e.line != one.line { // what went before were blank lines inside parentheses
				one.line = e.line
			}
		}
		text.WriteByte(c)
	}
	e.rest = e.rest[i:]
	if depth > 0 && one.problem == "" {
		one.problem = "a parenthesis is opened and not closed"
	}
	if quoted && one.problem == "" {
		one.problem = "a quote is opened and not closed on its line"
	}
	one.text = strings.TrimSpace(text.String())
	return one
}

// words are the words of a directive, unquoted.
func (e entry) words() []string {
	words := strings.Fields(e.text)
	for i, w := range words {
		words[i] = strings.Trim(w, `"`)
	}
	return words
}
