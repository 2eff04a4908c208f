//go:build !guest

package profiles

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"

	"gopkg.in/yaml.v3"
)

// maxDepth is how deep lists and mappings may nest. The language itself needs 6.
const maxDepth = 16

// readDocument turns the source into the node of its one document, refusing all of YAML that a profile does not
// need. The node is nil when there is nothing to read further; findings may be there in both cases.
func readDocument(file string, src []byte) (*yaml.Node, []Finding) {
	if f := plainText(file, src); f != nil {
		return nil, []Finding{*f}
	}
	decoder := yaml.NewDecoder(bytes.NewReader(src))
	var doc, second yaml.Node
	switch err := decoder.Decode(&doc); {
	case errors.Is(err, io.EOF) || err == nil && isEmpty(&doc):
		return nil, []Finding{{File: file, Pos: Pos{1, 1}, What: "the profile is empty",
			Hint: "`rempart new home-firewall` prints one to start from"}}
	case err != nil:
		return nil, []Finding{syntaxFinding(file, src, err)}
	}
	var findings []Finding
	switch err := decoder.Decode(&second); {
	case errors.Is(err, io.EOF):
	case err != nil:
		return nil, []Finding{syntaxFinding(file, src, err)}
	default:
		findings = append(findings, Finding{File: file, Pos: Pos{max(second.Line, 1), max(second.Column, 1)},
			What: "a second document begins, expected one", Hint: "remove the line ---, or keep it in a file of its own"})
	}
	s := &subset{file: file, findings: findings}
	s.check(doc.Content[0], 1)
	if s.unreadable {
		return nil, s.findings
	}
	return doc.Content[0], s.findings
}

func isEmpty(doc *yaml.Node) bool {
	return len(doc.Content) == 0 || doc.Content[0].Kind == yaml.ScalarNode && doc.Content[0].Tag == "!!null"
}

// plainText refuses what is not a text of bearable size, before a YAML parser sees it.
func plainText(file string, src []byte) *Finding {
	at := func(offset int, what, hint string) *Finding {
		line := 1 + bytes.Count(src[:offset], []byte("\n"))
		start := bytes.LastIndexByte(src[:offset], '\n') + 1
		return &Finding{File: file, Pos: Pos{line, 1 + utf8.RuneCount(src[start:offset])}, What: what, Hint: hint}
	}
	if len(src) > MaxSource {
		return at(0, fmt.Sprintf("the profile is larger than %d KiB", MaxSource>>10), "is this the right file?")
	}
	for i := 0; i < len(src); {
		r, n := utf8.DecodeRune(src[i:])
		switch {
		case r == utf8.RuneError && n == 1:
			return at(i, fmt.Sprintf("byte 0x%02x is not UTF-8 text", src[i]), "save the file as UTF-8")
		case r < ' ' && r != '\n' && r != '\r' && r != '\t', r == 0x7f:
			return at(i, fmt.Sprintf("control character 0x%02x: this is not a text file", r), "is this the right file?")
		}
		i += n
	}
	return nil
}

// subset walks a document and finds what of YAML is not part of the language.
type subset struct {
	file       string
	findings   []Finding
	unreadable bool // what was found would make the rest of the findings noise
}

func (s *subset) reject(n *yaml.Node, what, hint string) {
	s.findings = append(s.findings, Finding{File: s.file, Pos: Pos{n.Line, n.Column}, What: what, Hint: hint})
}

func (s *subset) check(n *yaml.Node, depth int) {
	if depth > maxDepth {
		s.reject(n, fmt.Sprintf("nested deeper than %d levels", maxDepth), "no part of a profile needs that")
		s.unreadable = true
		return
	}
	if n.Anchor != "" {
		s.reject(n, fmt.Sprintf("anchor &%s: anchors are not part of a profile", clip(n.Anchor)), "write the value out")
	}
	if n.Style&yaml.TaggedStyle != 0 {
		s.reject(n, fmt.Sprintf("tag %s: tags are not part of a profile", clip(n.Tag)), "remove the tag")
		s.unreadable = true
	}
	switch n.Kind {
	case yaml.AliasNode:
		s.reject(n, fmt.Sprintf("alias *%s: aliases are not part of a profile", clip(n.Value)), "write the value out")
		s.unreadable = true
		return
	case yaml.MappingNode:
		s.keys(n)
	}
	for _, child := range n.Content {
		s.check(child, depth+1)
	}
}

// keys finds keys that are no words or come twice.
func (s *subset) keys(n *yaml.Node) {
	seen := make(map[string]*yaml.Node, len(n.Content)/2)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		switch {
		case key.Kind == yaml.AliasNode:
			continue // told by check
		case key.Kind != yaml.ScalarNode:
			s.reject(key, "a key is a list or a mapping, expected a word", "put quotes around it if it begins with [ or {")
			s.unreadable = true
			continue
		case key.Tag == "!!merge":
			s.reject(key, "merge key <<: merging is not part of a profile", "write the keys out")
			s.unreadable = true
			continue
		}
		if first := seen[key.Value]; first != nil {
			s.reject(key, fmt.Sprintf("key %s comes twice, first at %d:%d", quote(key.Value), first.Line, first.Column),
				"remove one")
			continue
		}
		seen[key.Value] = key
	}
}

// syntaxFinding gives a syntax error its place.
func syntaxFinding(file string, src []byte, err error) Finding {
	message := syntaxMessage(err)
	lines := bytes.SplitAfter(src, []byte("\n"))
	bad := faultyLine(src, lines, err)
	// An unclosed bracket or quote on the last lines would otherwise be told at the blank line after them.
	for bad > 1 && len(bytes.TrimSpace(lines[bad-1])) == 0 {
		bad--
	}
	line := strings.TrimRight(string(lines[bad-1]), "\r\n")
	column := 1 + utf8.RuneCountInString(line) - utf8.RuneCountInString(strings.TrimLeft(line, " \t"))
	hint := ""
	switch {
	case strings.HasPrefix(strings.TrimLeft(line, " "), "\t"):
		hint = "indent with spaces, YAML takes no tabs"
	case strings.Contains(message, "mapping values"):
		hint = "a colon inside a value needs quotes around the value, and keys of one mapping the same indentation"
	case strings.Contains(message, "anchor"):
		hint = "anchors and aliases are not part of a profile, write the value out"
	case strings.Contains(message, "expected ',' or"), strings.Contains(message, "end of stream"):
		hint = "a bracket, brace or quote is opened and not closed"
	case strings.Contains(message, "expected key"), strings.Contains(message, "expected ':'"):
		hint = "expected KEY: VALUE, indented like its neighbours"
	}
	return Finding{File: file, Pos: Pos{bad, column}, What: "not YAML: " + clipTo(message, 2*maxQuoted), Hint: hint}
}

// faultyLine searches the line of a syntax error, counted from 1. yaml.v3 tells that of the enclosing block or the one
// before the error, except when that is the first line of the file, for which it tells where it gave up, or nothing.
// The line is the first without which the error is another or none; each look at it parses all that is before.
func faultyLine(src []byte, lines [][]byte, err error) int {
	message := syntaxMessage(err)
	if name, ok := strings.CutPrefix(message, "unknown anchor '"); ok {
		name, _, _ = strings.Cut(name, "'")
		if i := bytes.Index(src, []byte("*"+name)); i >= 0 {
			return 1 + bytes.Count(src[:i], []byte("\n"))
		}
	}
	end := make([]int, len(lines)+1)
	for i, l := range lines {
		end[i+1] = end[i] + len(l)
	}
	fails := func(n int) bool { return readError(src[:end[n]]) == message }
	told := toldLine(err)
	if told <= 1 || told > len(lines) || fails(1) {
		told = 1
	}
	good, bad := told-1, told
	for step := 1; bad < len(lines) && !fails(bad); step *= 2 {
		good, bad = bad, min(bad+step, len(lines))
	}
	for bad-good > 1 {
		if middle := (good + bad) / 2; fails(middle) {
			bad = middle
		} else {
			good = middle
		}
	}
	return bad
}

// toldLine is the line in a yaml.v3 error, 0 for none.
func toldLine(err error) int {
	rest, _ := strings.CutPrefix(err.Error(), "yaml: line ")
	digits, _, _ := strings.Cut(rest, ":")
	n, err := strconv.Atoi(digits)
	if err != nil {
		return 0
	}
	return n
}

// readError is the message of the first syntax error in src, empty for none.
func readError(src []byte) string {
	decoder := yaml.NewDecoder(bytes.NewReader(src))
	for range 2 {
		var doc yaml.Node
		switch err := decoder.Decode(&doc); {
		case errors.Is(err, io.EOF):
			return ""
		case err != nil:
			return syntaxMessage(err)
		}
	}
	return ""
}

// syntaxMessage is a yaml.v3 error without its unreliable line.
func syntaxMessage(err error) string {
	message := strings.TrimPrefix(err.Error(), "yaml: ")
	if rest, ok := strings.CutPrefix(message, "line "); ok {
		if _, after, ok := strings.Cut(rest, ": "); ok {
			message = after
		}
	}
	return message
}
