//go:build !guest

package profiles

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"gopkg.in/yaml.v3"
)

// reader turns the nodes of a document into a Profile. It finds what is wrong with the form of a profile; what is
// wrong with its meaning the validator finds afterwards, in what could be read.
type reader struct {
	file     string
	p        *Profile
	places   places
	findings []Finding
	warnings []Finding
}

// value is a node of the document, the key it belongs to if any, and what a finding calls it.
type value struct {
	node *yaml.Node
	key  *yaml.Node
	name string // "links.lan0.mtu"
}

func (v value) pos() Pos { return Pos{v.node.Line, v.node.Column} }

// keyPos is the place of the key, of the value itself where it has none.
func (v value) keyPos() Pos {
	if v.key == nil {
		return v.pos()
	}
	return Pos{v.key.Line, v.key.Column}
}

// at is the place of the byte at an offset of a one-line scalar.
func at(n *yaml.Node, offset int) Pos {
	column := n.Column + utf8.RuneCountInString(n.Value[:offset])
	if n.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle) != 0 {
		column++
	}
	return Pos{n.Line, column}
}

func (r *reader) rejectAt(at Pos, hint, format string, args ...any) {
	r.findings = append(r.findings, Finding{File: r.file, Pos: at, What: fmt.Sprintf(format, args...), Hint: hint})
}

// expected tells that a value is not of the kind it must be.
func (r *reader) expected(v value, what, hint string) {
	r.rejectAt(v.pos(), hint, "%s: expected %s, found %s", v.name, what, describe(v.node))
}

// describe names what stands at a node, for "found ...".
func describe(n *yaml.Node) string {
	switch {
	case n.Kind == yaml.MappingNode && len(n.Content) == 0:
		return "an empty mapping"
	case n.Kind == yaml.MappingNode:
		return "a mapping"
	case n.Kind == yaml.SequenceNode && len(n.Content) == 0:
		return "an empty list"
	case n.Kind == yaml.SequenceNode:
		return "a list"
	case n.Tag == "!!null":
		return "nothing"
	case n.Tag == "!!int", n.Tag == "!!float":
		return "the number " + clip(n.Value)
	}
	return quote(n.Value)
}

// word reads a text. Numbers and the like are none.
func (r *reader) word(v value, what string) (string, bool) {
	if v.node.Kind == yaml.ScalarNode && v.node.Tag == "!!str" {
		return v.node.Value, true
	}
	r.expected(v, what, "")
	return "", false
}

// dotted reads a text that may look like a number to YAML: ".10", "10.9".
func (r *reader) dotted(v value, what string) (string, bool) {
	if v.node.Kind == yaml.ScalarNode && v.node.Tag == "!!float" {
		return v.node.Value, true
	}
	return r.word(v, what)
}

// integer reads a decimal number within bounds.
func (r *reader) integer(v value, low, high int, unit string) (int, bool) {
	what := fmt.Sprintf("a number from %d to %d", low, high)
	if unit != "" {
		what = fmt.Sprintf("a number of %s from %d to %d", unit, low, high)
	}
	if v.node.Kind != yaml.ScalarNode || v.node.Tag != "!!int" {
		r.expected(v, what, "")
		return 0, false
	}
	n, err := strconv.Atoi(v.node.Value)
	if err != nil || strconv.Itoa(n) != v.node.Value || n < low || n > high {
		r.expected(v, what, "")
		return 0, false
	}
	return n, true
}

func (r *reader) boolean(v value) (yes, ok bool) {
	if v.node.Kind == yaml.ScalarNode && v.node.Tag == "!!bool" {
		return strings.EqualFold(v.node.Value, "true"), true
	}
	r.expected(v, "true or false", "")
	return false, false
}

// items are the elements of a list, or the value itself where one may stand for a list of one.
func (r *reader) items(v value, what string, most int) []value {
	switch {
	case v.node.Tag == "!!null", v.node.Kind == yaml.SequenceNode && len(v.node.Content) == 0:
		r.expected(v, what, "")
		return nil
	case v.node.Kind != yaml.SequenceNode:
		return []value{v}
	}
	return r.elements(v, what, most)
}

// elements are the elements of a list that must be one, and may be empty.
func (r *reader) elements(v value, what string, most int) []value {
	switch {
	case v.node.Kind != yaml.SequenceNode:
		hint := ""
		if v.node.Kind == yaml.ScalarNode && v.node.Value != "" {
			hint = "write [" + clip(v.node.Value) + "]"
		}
		r.expected(v, what, hint)
		return nil
	case len(v.node.Content) > most:
		r.rejectAt(v.pos(), "", "%s: %d elements, expected at most %d", v.name, len(v.node.Content), most)
		return nil
	}
	all := make([]value, len(v.node.Content))
	for i, n := range v.node.Content {
		all[i] = value{node: n, name: v.name}
	}
	return all
}

// entries are the members of a mapping whose keys are names the author chose; there may be none.
func (r *reader) entries(v value, what string, most int) []value {
	switch {
	case v.node.Kind != yaml.MappingNode:
		r.expected(v, what, "")
		return nil
	case len(v.node.Content)/2 > most:
		r.rejectAt(v.pos(), "", "%s: %d entries, expected at most %d", v.name, len(v.node.Content)/2, most)
		return nil
	}
	var all []value
	seen := map[string]bool{}
	for i := 0; i+1 < len(v.node.Content); i += 2 {
		key, n := v.node.Content[i], v.node.Content[i+1]
		if key.Kind != yaml.ScalarNode || seen[key.Value] {
			continue // told by subset
		}
		seen[key.Value] = true
		all = append(all, value{node: n, key: key, name: v.name + "." + clip(key.Value)})
	}
	return all
}

// filled tells that a mapping must not be empty.
func (r *reader) filled(v value, what string) {
	if v.node.Kind == yaml.MappingNode && len(v.node.Content) == 0 {
		r.expected(v, what, "")
	}
}

// read fills into from a mapping and returns the names of the fields that could not be read.
func (t table[T]) read(r *reader, v value, into *T) map[string]bool {
	failed := map[string]bool{}
	if v.node.Kind != yaml.MappingNode {
		r.expected(v, "a mapping with "+strings.Join(t.names(), ", "), "")
		for _, f := range t {
			failed[f.name] = true
		}
		return failed
	}
	prefix := ""
	if v.name != "" {
		prefix = v.name + "."
	}
	found := map[string]value{}
	for i := 0; i+1 < len(v.node.Content); i += 2 {
		key := v.node.Content[i]
		if key.Kind != yaml.ScalarNode || found[key.Value].node != nil {
			continue // told by subset
		}
		found[key.Value] = value{node: v.node.Content[i+1], key: key, name: prefix + clip(key.Value)}
		if !t.knows(key.Value) {
			what := "unknown key " + quote(key.Value)
			if v.name != "" {
				what = v.name + ": " + what
			}
			r.rejectAt(Pos{key.Line, key.Column}, suggest(key.Value, t.names()), "%s", what)
		}
	}
	for _, f := range t {
		member, ok := found[f.name]
		before := len(r.findings)
		switch {
		case ok && f.later != "":
			r.rejectAt(member.keyPos(), f.later, "%s: not in this version", member.name)
		case ok:
			f.decode(r, member, into)
		case f.required:
			// A block mapping begins at its first key; the key it belongs to is the better place.
			r.rejectAt(v.keyPos(), asHint(f.doc), "missing %s", prefix+f.name)
		}
		if len(r.findings) > before {
			failed[f.name] = true
		}
	}
	return failed
}

// asHint turns the doc of a field into the second half of a finding.
func asHint(doc string) string {
	return strings.ToLower(doc[:1]) + strings.TrimSuffix(doc[1:], ".")
}

func (t table[T]) knows(name string) bool {
	for _, f := range t {
		if f.name == name {
			return true
		}
	}
	return false
}

// place is a word and where it stands.
type place struct {
	text string
	at   Pos
}

// direction reads "FROM -> TO".
func (r *reader) direction(n *yaml.Node, name string) (from, to place, ok bool) {
	left, right, found := strings.Cut(n.Value, "->")
	from.text, to.text = strings.TrimSpace(left), strings.TrimSpace(right)
	if n.Kind != yaml.ScalarNode || !found || from.text == "" || to.text == "" || strings.Contains(right, "->") {
		hint := "write FROM -> TO, for example: home -> internet"
		if n.Kind == yaml.ScalarNode && strings.Contains(n.Value, "→") {
			hint = "write the arrow as ->"
		}
		r.rejectAt(Pos{n.Line, n.Column}, hint, "%s: expected a direction between two zones, found %s", name, describe(n))
		return from, to, false
	}
	from.at = at(n, strings.Index(left, from.text))
	to.at = at(n, len(left)+len("->")+strings.Index(right, to.text))
	return from, to, true
}
