// Package control reads Debian's control data: the paragraphs of "Field: value" that package indices, Release files,
// control files and apt's .sources files are made of (Debian policy 5.1, deb822(5)), versions (deb-version(7)) and
// relations between packages (policy 7.1).
//
// What it deliberately does not do: know what a field means, keep the order of fields, or write anything.
package control

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Bounds on what is read. The largest paragraph of Debian's indices is below 100 KiB, the largest Release file 200 KiB
// per digest field; inline keys in .sources files are some KiB.
const (
	maxLine      = 1 << 20
	maxParagraph = 8 << 20
	maxFields    = 256
)

// Paragraph is one block of fields.
type Paragraph struct {
	Line   int // of its first field, counted from 1
	fields map[string]field
}

type field struct {
	value string
	line  int
}

// Get returns the value of a field, whose name is matched without regard to case; "" where it is missing. The lines
// of a value that goes over several are separated by \n, without the blank that introduces each.
func (p *Paragraph) Get(name string) string { return p.fields[strings.ToLower(name)].value }

// Has says whether the field is there, even with an empty value.
func (p *Paragraph) Has(name string) bool { _, ok := p.fields[strings.ToLower(name)]; return ok }

// LineOf is the line the field starts on, 0 where it is missing.
func (p *Paragraph) LineOf(name string) int { return p.fields[strings.ToLower(name)].line }

// SyntaxError is a line that is not control data.
type SyntaxError struct {
	Line int // counted from 1
	What string
}

func (e *SyntaxError) Error() string { return fmt.Sprintf("line %d: %s", e.Line, e.What) }

// Reader reads paragraphs one by one.
type Reader struct {
	scan *bufio.Scanner
	line int
}

// NewReader returns a reader of the paragraphs in r.
func NewReader(r io.Reader) *Reader {
	scan := bufio.NewScanner(r)
	scan.Buffer(make([]byte, 0, 64<<10), maxLine)
	return &Reader{scan: scan}
}

// Next returns the next paragraph, io.EOF after the last. Lines starting with # are comments. A line that is not
// control data, a field given twice and anything over the bounds is a *SyntaxError.
func (r *Reader) Next() (*Paragraph, error) {
	p := &Paragraph{fields: map[string]field{}}
	var name string
	var value strings.Builder
	size := 0
	flush := func() {
		if name != "" {
			p.fields[name] = field{value: value.String(), line: p.fields[name].line}
			value.Reset()
		}
	}
	for r.scan.Scan() {
		r.line++
		line := strings.TrimRight(r.scan.Text(), " \t\r")
		if size += len(line) + 1; size > maxParagraph {
			return nil, r.fail("the paragraph is larger than %d bytes", maxParagraph)
		}
		switch {
		case line == "": // also one of blanks alone: so does apt
			if len(p.fields) > 0 {
				flush()
				return p, nil
			}
		case line[0] == '#':
		case isContinuation(line):
			if name == "" {
				return nil, r.fail("a continuation line without a field before it")
			}
			value.WriteByte('\n')
			value.WriteString(line[1:])
		default:
			key, rest, ok := strings.Cut(line, ":")
			if !ok || !isFieldName(key) {
				return nil, r.fail("%.40q is not a field: expected \"Name: value\"", line)
			}
			flush()
			name = strings.ToLower(key)
			if p.Has(name) {
				return nil, r.fail("field %s is given twice", key)
			}
			if len(p.fields) == maxFields {
				return nil, r.fail("more than %d fields in one paragraph", maxFields)
			}
			if len(p.fields) == 0 {
				p.Line = r.line
			}
			p.fields[name] = field{line: r.line}
			value.WriteString(strings.TrimLeft(rest, " \t"))
		}
	}
	if err := r.scan.Err(); err != nil {
		if errors.Is(err, bufio.ErrTooLong) {
			r.line++
			return nil, r.fail("longer than %d bytes", maxLine)
		}
		return nil, err
	}
	if len(p.fields) == 0 {
		return nil, io.EOF
	}
	flush()
	return p, nil
}

func (r *Reader) fail(format string, args ...any) error {
	return &SyntaxError{Line: r.line, What: fmt.Sprintf(format, args...)}
}

func isContinuation(line string) bool { return line != "" && (line[0] == ' ' || line[0] == '\t') }

// isFieldName says whether s may name a field: printable ASCII without blank and colon, not starting with # or -
// (policy 5.1).
func isFieldName(s string) bool {
	if s == "" || s[0] == '#' || s[0] == '-' {
		return false
	}
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}
