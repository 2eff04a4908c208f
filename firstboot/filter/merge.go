package filter

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"rempart/profiles"
)

// mergeFrom is how many rules in a row, or elements they make, are worth a set. Fewer are left as rules: people read
// them with the line each comes from, and so many comparisons cost a packet about what one lookup does.
const mergeFrom = 16

// maxMerged bounds the elements one rule may turn into: a line with many sources and many ports is their product.
const maxMerged = 4096

// Bounds of the work of merging for a whole table, about a second of one processor: the elements that rules turn into,
// and the comparisons that keep boxes of ranges apart. They are spent in the order of the chains and rules, so the same
// profile always merges the same way. What is beyond stays a rule of its own, which is slower and as right.
const (
	maxBoxes    = 1 << 20
	maxCompared = 1 << 24
)

// mergeWork is what merging has cost a table so far.
type mergeWork struct{ boxes, compared int }

// merge replaces rules in a row that do the same with what they match, in whatever order they are asked, by lookups in
// sets, so that what a packet costs does not grow with their number: one set for each combination of fields, a hash
// where all values are single ones, and one that knows ranges for the others. The sets are named after their content
// and kept like those of the profile; see package filter/kernel.
func (c *compiler) merge(ch *Chain) {
	var out []Rule
	for rest := ch.Rules; len(rest) > 0; {
		n := 1
		for n < len(rest) && sameEnd(&rest[0], &rest[n]) {
			n++
		}
		if n < mergeFrom {
			out = append(out, rest[:n]...)
		} else {
			out = append(out, c.mergeRun(rest[:n])...)
		}
		rest = rest[n:]
	}
	ch.Rules = out
}

// split divides a rule into what it compares and what it does then.
func split(r *Rule) (compared []Match, end []Expr) {
	for i, e := range r.Do {
		m, ok := e.(Match)
		if !ok {
			return compared, r.Do[i:]
		}
		compared = append(compared, m)
	}
	return compared, nil
}

// sameEnd tells whether two rules do the same with what they match, and only decide. Limits and logs do more.
func sameEnd(a, b *Rule) bool {
	_, x := split(a)
	_, y := split(b)
	return len(x) > 0 && !slices.ContainsFunc(x, func(e Expr) bool {
		switch e.(type) {
		case Count, Verdict, Reject, Bits, Masquerade:
			return false
		}
		return true
	}) && reflect.DeepEqual(x, y)
}

// box is what a rule, or one of its alternatives, compares: a range for each field of its shape.
type box struct {
	ranges []Range
	at     profiles.Pos
}

func (b box) single() bool {
	return !slices.ContainsFunc(b.ranges, func(r Range) bool { return !r.Single() })
}

func (b box) key() string {
	var key strings.Builder
	for _, r := range b.ranges {
		key.Write(r.First)
		key.Write(r.Last)
	}
	return key.String()
}

// meets tells whether two boxes of one shape have a packet in common, and holds whether b has all of other.
func (b box) meets(other box) bool {
	for i, r := range b.ranges {
		if bytes.Compare(r.Last, other.ranges[i].First) < 0 || bytes.Compare(other.ranges[i].Last, r.First) < 0 {
			return false
		}
	}
	return true
}

func (b box) holds(other box) bool {
	for i, r := range b.ranges {
		if bytes.Compare(r.First, other.ranges[i].First) > 0 || bytes.Compare(r.Last, other.ranges[i].Last) < 0 {
			return false
		}
	}
	return true
}

// shape is the rules of a run that compare the same fields.
type shape struct {
	what   string // "policy" or "forward"
	fields []Field
	rules  []Rule // in their order
	boxes  []box
}

// mergeable are the fields that make the key of a set; each rule that looks at no others can be merged.
var mergeable = []Field{IPSAddr, IP6SAddr, IPDAddr, IP6DAddr, TCPDPort, UDPDPort, SCTPDPort}

// mergeRun merges a run of rules with one end.
func (c *compiler) mergeRun(run []Rule) []Rule {
	var out []Rule
	var shapes []*shape
	for _, r := range run {
		compared, _ := split(&r)
		slices.SortFunc(compared, func(a, b Match) int {
			return cmp.Compare(slices.Index(mergeable, a.Field), slices.Index(mergeable, b.Field))
		})
		var fields []Field
		alternatives := 1
		for _, m := range compared {
			fields = append(fields, m.Field)
			alternatives = min(alternatives*len(m.Ranges), maxMerged+1)
		}
		if alternatives > maxMerged || c.work.boxes+alternatives > maxBoxes || len(fields) == 0 ||
			len(slices.Compact(slices.Clone(fields))) < len(fields) ||
			slices.ContainsFunc(fields, func(f Field) bool { return !slices.Contains(mergeable, f) }) {
			out = append(out, r)
			continue
		}
		c.work.boxes += alternatives
		i := slices.IndexFunc(shapes, func(s *shape) bool { return slices.Equal(s.fields, fields) })
		if i < 0 {
			i = len(shapes)
			shapes = append(shapes, &shape{what: kindOf(&run[0]), fields: fields})
		}
		shapes[i].rules = append(shapes[i].rules, r)
		shapes[i].boxes = append(shapes[i].boxes, product(compared, r.At)...)
	}
	_, end := split(&run[0])
	for _, s := range shapes {
		out = append(out, c.mergeShape(s, end)...)
	}
	return out
}

// product are the alternatives of comparisons with several ranges each.
func product(compared []Match, at profiles.Pos) []box {
	out := []box{{at: at}}
	for _, m := range compared {
		var longer []box
		for _, b := range out {
			for _, r := range m.Ranges {
				longer = append(longer, box{append(slices.Clone(b.ranges), r), at})
			}
		}
		out = longer
	}
	return out
}

// mergeShape makes the lookups for the rules of one shape.
func (c *compiler) mergeShape(s *shape, end []Expr) []Rule {
	if len(s.boxes) < mergeFrom {
		return s.rules
	}
	var exact, ranged []box
	seen := map[string]bool{}
	for _, b := range s.boxes {
		switch key := b.key(); {
		case seen[key]:
			continue
		case b.single():
			exact = append(exact, b)
		default:
			ranged = append(ranged, b)
		}
		seen[b.key()] = true
	}
	if len(s.fields) == 1 && len(ranged) > 0 {
		return []Rule{c.lookup(s.what, s.fields, joinRanges(append(exact, ranged...)), true, end)}
	}
	var out []Rule
	if len(exact) > 0 {
		out = append(out, c.lookup(s.what, s.fields, exact, false, end))
	}
	apart, others := c.work.keepApart(ranged)
	if len(apart) > 0 {
		out = append(out, c.lookup(s.what, s.fields, apart, true, end))
	}
	for _, b := range others {
		r := Rule{Comment: s.what + at(b.at), At: b.at}
		for i, f := range s.fields {
			r.Do = append(r.Do, Match{f, b.ranges[i : i+1]})
		}
		r.Do = append(r.Do, end...)
		out = append(out, r)
	}
	return out
}

// joinRanges joins ranges of one field that overlap or touch; the kernel takes no others into one set.
func joinRanges(list []box) []box {
	slices.SortStableFunc(list, func(a, b box) int { return bytes.Compare(a.ranges[0].First, b.ranges[0].First) })
	out := list[:0:0]
	for _, b := range list {
		r := b.ranges[0]
		if n := len(out); n > 0 {
			last := &out[n-1].ranges[0]
			next, more := Following(last.Last)
			if !more || bytes.Compare(r.First, next) <= 0 {
				if bytes.Compare(r.Last, last.Last) > 0 {
					last.Last = r.Last
				}
				out[n-1].at = profiles.Pos{} // of several lines
				continue
			}
		}
		out = append(out, box{[]Range{r}, b.at})
	}
	return out
}

// keepApart takes out boxes that lie in others, and tells those that meet none from those that meet one that is kept:
// a set of the kernel refuses elements that overlap in part.
func (w *mergeWork) keepApart(list []box) (apart, others []box) {
	if len(list) == 0 {
		return nil, nil
	}
	slices.SortStableFunc(list, func(a, b box) int { return bytes.Compare(a.ranges[0].First, b.ranges[0].First) })
	var open []int // of apart, that may meet what follows
	for _, b := range list {
		open = slices.DeleteFunc(open, func(i int) bool {
			return bytes.Compare(apart[i].ranges[0].Last, b.ranges[0].First) < 0
		})
		w.compared += len(open)
		meets, held := w.compared > maxCompared, false
		if !meets {
			for _, i := range open {
				if apart[i].holds(b) {
					held = true
					break
				}
				meets = meets || apart[i].meets(b)
			}
		}
		switch {
		case held:
		case meets:
			others = append(others, b)
		default:
			open = append(open, len(apart))
			apart = append(apart, b)
		}
	}
	return apart, others
}

// lookup is the rule that asks a set of boxes, which it adds to the table unless another chain asks the same.
func (c *compiler) lookup(what string, fields []Field, boxes []box, interval bool, end []Expr) Rule {
	// One order for one content, whatever the order of the lines.
	slices.SortFunc(boxes, func(a, b box) int { return cmp.Compare(a.key(), b.key()) })
	s := Set{Interval: interval, Lasting: true, Elements: make([]Element, 0, len(boxes))}
	var names []string
	for _, f := range fields {
		s.Key = append(s.Key, f.Type())
		words := strings.Fields(f.String())
		names = append(names, words[0]+"-"+words[1])
	}
	sum := sha256.New()
	first, last := profiles.Pos{}, profiles.Pos{}
	for _, b := range boxes {
		element := Element{Key: b.ranges, Comment: strings.Trim(at(b.at), " ()")}
		sum.Write([]byte(element.Comment + "\n" + b.key()))
		s.Elements = append(s.Elements, element)
		if b.at.Line > 0 && (first.Line == 0 || b.at.Line < first.Line) {
			first = b.at
		}
		if b.at.Line > last.Line {
			last = b.at
		}
	}
	const shown = 8 // bytes, as of the sets of the profile
	s.Name = "lines/" + strings.Join(names, ".") + "/" + hex.EncodeToString(sum.Sum(nil)[:shown])
	if c.table.Set(s.Name) == nil {
		c.set(s)
	}
	comment := what + ": " + strconv.Itoa(len(boxes)) + " flows"
	if first.Line > 0 {
		comment += " of lines" + at(first) + " to" + at(last)
	}
	return Rule{Do: append([]Expr{Lookup{Fields: fields, Set: s.Name}}, end...), Comment: comment, At: first}
}

// kindOf is what kind of words of the profile a rule is from.
func kindOf(r *Rule) string {
	kind, _, _ := strings.Cut(r.Comment, ":")
	return kind
}
